//! Loading the embedded programs, and how they are set up.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Map, MapData},
    programs::{SchedClassifier, Xdp},
};
use dataplane_common::Hook;

use super::{
    AttachSetting, Features, XdpMode, kernel_types::KernelTypes, maps, post_routing, redirect_errors,
};

/// The programs as the build has compiled them, aligned as the ELF reader wants it.
pub(super) static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/podlane-ebpf"));

/// The programs that the benches measure ours against. The agent does not refer to them, so that its binary does not
/// carry them.
pub static FLOORS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/podlane-floors"));

/// The most tunnels that routes can refer to, and the element for none.
const TUNNELS: u32 = 1 << 16;

/// How to open the datapath.
#[derive(Clone, Debug)]
pub struct Options {
    /// A folder on a bpffs (one is mounted where there is none).
    pub bpf_dir: PathBuf,
    /// tcx, clsact, or whichever the kernel has.
    pub attach: AttachSetting,
    /// Log each drop; for debugging.
    pub log_drops: bool,
    /// Size of the pod maps, in pods.
    pub max_pods: u32,
    /// Size of the route and node maps, in pod CIDRs.
    pub max_routes: u32,
    /// Size of the maps of flows through the kernel's stack.
    pub max_stack_flows: u32,
    /// XDP at the uplinks.
    pub xdp: XdpMode,
    /// The overlay's network identifier, 24 bits.
    pub vni: u32,
    /// The overlay's UDP port.
    pub vxlan_port: u16,
}

impl Options {
    /// The defaults, with this folder.
    #[must_use]
    pub const fn new(bpf_dir: PathBuf) -> Self {
        Self {
            bpf_dir,
            attach: AttachSetting::Auto,
            log_drops: false,
            max_pods: 256,
            max_routes: 8192,
            max_stack_flows: 32768,
            xdp: XdpMode::Off,
            vni: 1,
            vxlan_port: 8472,
        }
    }
}

/// What the programs need to know of the running kernel; some of them are not loaded without.
#[derive(Default)]
pub(super) struct Globals {
    pub(super) redirect_errors: Option<redirect_errors::Globals>,
    pub(super) post_routing: Option<post_routing::Globals>,
}

/// Loads the programs with maps of their own: nothing is pinned, nothing attached. For packet tests and benches. The XDP
/// program is loaded where the kernel is new enough for it; `post_routing` has a loader of its own
/// ([`super::PostRouting::load`]).
///
/// # Errors
/// As [`Datapath::open`].
pub fn load_unpinned() -> anyhow::Result<Ebpf> {
    load_unpinned_sized(256, 8192)
}

/// As [`load_unpinned`], with maps for so many pods and peer pod CIDRs.
///
/// # Errors
/// As [`Datapath::open`].
pub fn load_unpinned_sized(max_pods: u32, max_routes: u32) -> anyhow::Result<Ebpf> {
    let options = Options { max_pods, max_routes, ..Options::new(PathBuf::new()) };
    let types = KernelTypes::read()?;
    let features = Features::of(&types)?;
    let post_routing = features.netfilter.then(|| post_routing::Globals::find(&types)).transpose()?;
    let mut ebpf = load(None, &options, &Globals { post_routing, ..Globals::default() })?;
    load_programs(&mut ebpf, features.xdp)?;
    Ok(ebpf)
}

/// The XDP program needs a newer kernel than the others: it is loaded only where it is wanted.
pub(super) fn load_programs(ebpf: &mut Ebpf, xdp: bool) -> anyhow::Result<()> {
    for hook in Hook::ALL {
        match hook {
            // Loaded by its own module.
            Hook::PostRouting => continue,
            Hook::XdpFromWire if !xdp => continue,
            Hook::XdpFromWire => xdp_program(ebpf)?.load(),
            _ => program(ebpf, *hook)?.load(),
        }
        .with_context(|| format!("loading the program {}", hook.name()))?;
    }
    Ok(())
}

/// Creates the maps, or takes those that are pinned, and reads the programs.
pub(super) fn load(pins: Option<&Path>, options: &Options, globals: &Globals) -> anyhow::Result<Ebpf> {
    // aya-log's levels: 0 is off, and the verifier then removes the logging; 2 is "warn".
    let log_level: u8 = if options.log_drops { 2 } else { 0 };
    let pods = options.max_pods;
    let routes = options.max_routes;
    let flows = options.max_stack_flows;
    let mut loader = EbpfLoader::new();
    loader
        .verifier_log_level(VerifierLogLevel::STATS)
        .override_global("AYA_LOG_LEVEL", &log_level, false)
        .override_global("VNI", &options.vni, true)
        .override_global("VXLAN_PORT", &options.vxlan_port, true)
        .map_max_entries("pods4", pods)
        .map_max_entries("pods6", pods)
        .map_max_entries("routes4", routes)
        .map_max_entries("routes6", routes)
        .map_max_entries("tunnels", routes.saturating_add(1).min(TUNNELS))
        .map_max_entries("nodes4", routes)
        .map_max_entries("nodes6", routes)
        .map_max_entries("stack_flows4", flows)
        .map_max_entries("stack_flows6", flows)
        .map_max_entries("wire_ports", pods);
    if let Some(globals) = &globals.post_routing {
        loader
            .override_global("SKB_LEN_OFFSET", &globals.len, true)
            .override_global("SKB_DATA_LEN_OFFSET", &globals.data_len, true)
            .override_global("SKB_MARK_OFFSET", &globals.mark, true)
            .override_global("SKB_DATA_OFFSET", &globals.data, true);
    }
    if let Some(globals) = &globals.redirect_errors {
        loader
            .override_global("IFINDEX_OFFSET", &globals.ifindex, true)
            .override_global("NAMESPACE_OFFSET", &globals.namespace, true)
            .override_global("COOKIE_OFFSET", &globals.cookie_offset, true)
            .override_global("NAMESPACE_COOKIE", &globals.cookie, true);
    }
    if !options.log_drops {
        // The smallest ring buffer there is, as nothing will be written to it.
        loader.map_max_entries("AYA_LOGS", 4096);
    }
    if let Some(dir) = pins {
        for name in maps::NAMES {
            loader.map_pin_path(name, dir.join(name));
        }
    }
    loader.load(PROGRAMS).context(
        "loading the eBPF maps and programs: the agent needs root (or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON) and a kernel with BTF",
    )
}

/// A map's descriptor and definition, of the kinds that the object has.
pub(super) fn map_data<'a>(ebpf: &'a Ebpf, name: &str) -> anyhow::Result<&'a MapData> {
    match ebpf.map(name).with_context(|| format!("the embedded object has no map {name}, or it is taken"))? {
        Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::DevMapHash(data)
        | Map::RingBuf(data) => Ok(data),
        _ => Err(anyhow!("the map {name} is of a kind that the object did not have")),
    }
}

/// The classifier of a hook.
pub(super) fn program(ebpf: &mut Ebpf, hook: Hook) -> anyhow::Result<&mut SchedClassifier> {
    let name = hook.name();
    let program =
        ebpf.program_mut(name).ok_or_else(|| anyhow!("the embedded object has no program {name}"))?;
    program.try_into().with_context(|| format!("the program {name} is not a tc classifier"))
}

/// The XDP program.
pub(super) fn xdp_program(ebpf: &mut Ebpf) -> anyhow::Result<&mut Xdp> {
    let name = Hook::XdpFromWire.name();
    let program =
        ebpf.program_mut(name).ok_or_else(|| anyhow!("the embedded object has no program {name}"))?;
    program.try_into().with_context(|| format!("the program {name} is not an XDP program"))
}
