//! The only place that touches BPF: loading the embedded programs, pinning, attaching, typed maps.
//!
//! Everything is pinned under `<bpfDir>/<layout>/`: maps under their names, links under `links/`. What is pinned
//! outlives the agent; [`Datapath::open`] takes it up again, swaps the programs atomically and flushes nothing.

mod attach;
mod bpffs;
mod features;
mod maps;
mod remove;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, anyhow};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel, programs::SchedClassifier};
use dataplane_common::{Counter, Hook, LAYOUT, Verdict};
use ipnetwork::IpNetwork;

pub use attach::{AttachMode, AttachSetting};
pub use maps::PeerRoute;

use maps::Maps;
pub use remove::remove;

use crate::pods::{FastPath, PodEndpoint};

/// The programs as the build has compiled them, aligned as the ELF reader wants it.
static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/podlane-ebpf"));

/// The programs that the benches measure ours against. The agent does not refer to them, so that its binary does not
/// carry them.
pub static FLOORS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/podlane-floors"));

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
    /// Size of the route maps, in pod CIDRs.
    pub max_routes: u32,
}

/// The loaded programs and their maps.
pub struct Datapath {
    state: Mutex<State>,
    mode: AttachMode,
    links: PathBuf,
}

struct State {
    ebpf: Ebpf,
    maps: Maps,
}

impl Datapath {
    /// Loads the programs, with the maps that are pinned already or new ones.
    ///
    /// # Errors
    /// Where the kernel lacks a needed feature or refuses a program (its verifier's words are part of the error).
    pub fn open(options: &Options) -> anyhow::Result<Self> {
        bpffs::ensure(&options.bpf_dir)?;
        let dir = layout_dir(&options.bpf_dir);
        let links = dir.join("links");
        fs_err::create_dir_all(&links).context("preparing the folder for pinned links")?;
        let mode = features::attach_mode(options.attach)?;
        let mut ebpf = load(Some(&dir), options)?;
        let maps = Maps::take(&mut ebpf)?;
        for hook in Hook::ALL {
            program(&mut ebpf, *hook)?
                .load()
                .with_context(|| format!("loading the program {}", hook.name()))?;
        }
        Ok(Self { state: Mutex::new(State { ebpf, maps }), mode, links })
    }

    /// How programs are attached here.
    #[must_use]
    pub const fn attach_mode(&self) -> AttachMode {
        self.mode
    }

    /// Attaches `hook`'s program to an interface, or swaps it for this agent's where an older one is attached.
    ///
    /// # Errors
    /// Where the interface does not exist or the kernel refuses.
    pub fn attach(&self, hook: Hook, interface: &str) -> anyhow::Result<()> {
        let mut state = self.state();
        let program = program(&mut state.ebpf, hook)?;
        attach::attach(program, hook, interface, self.mode, &self.links)
    }

    /// Detaches `hook`'s program from an interface; not an error where it is not attached or the interface is gone.
    ///
    /// # Errors
    /// Where the pinned link cannot be removed.
    pub fn detach(&self, hook: Hook, interface: &str) -> anyhow::Result<()> {
        attach::detach(hook, interface, self.mode, &self.links)
    }

    /// The interfaces that `hook`'s program is attached to by this agent or one before it (tcx links; with clsact
    /// the kernel keeps no list, and this is empty).
    ///
    /// # Errors
    /// Where the folder of pinned links cannot be read.
    pub fn attached(&self, hook: Hook) -> anyhow::Result<Vec<String>> {
        attach::pinned(hook, &self.links)
    }

    /// Whether this agent's program runs at `hook` of an interface.
    ///
    /// # Errors
    /// Where the kernel cannot be asked.
    pub fn is_attached(&self, hook: Hook, interface: &str) -> anyhow::Result<bool> {
        let mut state = self.state();
        attach::is_attached(program(&mut state.ebpf, hook)?, hook, interface, self.mode, &self.links)
    }

    /// Makes the route maps hold exactly these routes, by difference. Returns what could not be installed, in words.
    ///
    /// # Errors
    /// Where a map cannot be read or written.
    pub fn set_routes(&self, routes: &BTreeMap<IpNetwork, PeerRoute>) -> anyhow::Result<Vec<String>> {
        self.state().maps.set_routes(routes)
    }

    /// The counters, summed over the CPUs.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn counters(&self) -> anyhow::Result<Vec<(Hook, Verdict, Counter)>> {
        self.state().maps.counters()
    }

    /// The programs' log records as they come, where `logDrops` has been set.
    ///
    /// # Errors
    /// Where the log's ring buffer cannot be opened.
    pub fn drop_log(&self) -> anyhow::Result<aya_log::EbpfLogger<&'static dyn log::Log>> {
        aya_log::EbpfLogger::init(&mut self.state().ebpf).context("opening the programs' log")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The maps' truth is in the kernel: a panic elsewhere leaves nothing half-changed here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FastPath for Datapath {
    fn attach_pod(&self, interface: &str, _ifindex: u32) -> anyhow::Result<()> {
        self.attach(Hook::FromPod, interface)
    }

    fn detach_pod(&self, interface: &str) -> anyhow::Result<()> {
        self.detach(Hook::FromPod, interface)
    }

    fn set_pod(&self, address: IpAddr, pod: PodEndpoint) -> anyhow::Result<()> {
        self.state().maps.set_pod(address, pod)
    }

    fn remove_pod(&self, address: IpAddr) -> anyhow::Result<()> {
        self.state().maps.remove_pod(address)
    }

    fn pods(&self) -> anyhow::Result<BTreeMap<IpAddr, PodEndpoint>> {
        self.state().maps.pods()
    }

    fn attached(&self) -> anyhow::Result<Vec<String>> {
        Self::attached(self, Hook::FromPod)
    }
}

/// Loads the programs with maps of their own: nothing is pinned, nothing attached. For packet tests and benches.
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
    let options = Options {
        bpf_dir: PathBuf::new(),
        attach: AttachSetting::Auto,
        log_drops: false,
        max_pods,
        max_routes,
    };
    let mut ebpf = load(None, &options)?;
    load_programs(&mut ebpf)?;
    Ok(ebpf)
}

fn load_programs(ebpf: &mut Ebpf) -> anyhow::Result<()> {
    for hook in Hook::ALL {
        program(ebpf, *hook)?.load().with_context(|| format!("loading the program {}", hook.name()))?;
    }
    Ok(())
}

/// Where this layout's maps and links are pinned.
fn layout_dir(bpf_dir: &Path) -> PathBuf {
    bpf_dir.join(LAYOUT)
}

fn load(pins: Option<&Path>, options: &Options) -> anyhow::Result<Ebpf> {
    // aya-log's levels: 0 is off, and the verifier then removes the logging; 2 is "warn".
    let log_level: u8 = if options.log_drops { 2 } else { 0 };
    let pods = options.max_pods;
    let routes = options.max_routes;
    let mut loader = EbpfLoader::new();
    loader
        .verifier_log_level(VerifierLogLevel::STATS)
        .override_global("AYA_LOG_LEVEL", &log_level, false)
        .map_max_entries("pods4", pods)
        .map_max_entries("pods6", pods)
        .map_max_entries("routes4", routes)
        .map_max_entries("routes6", routes);
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

fn program(ebpf: &mut Ebpf, hook: Hook) -> anyhow::Result<&mut SchedClassifier> {
    let name = hook.name();
    let program =
        ebpf.program_mut(name).ok_or_else(|| anyhow!("the embedded object has no program {name}"))?;
    program.try_into().with_context(|| format!("the program {name} is not a tc classifier"))
}
