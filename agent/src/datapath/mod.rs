//! The only place that touches BPF: loading the embedded programs, pinning, attaching, typed maps.
//!
//! Everything is pinned under `<bpfDir>/<layout>/`: maps under their names, links under `links/`. What is pinned
//! outlives the agent; [`Datapath::open`] takes it up again, swaps the programs atomically and flushes nothing.

mod attach;
mod bpffs;
mod carry;
mod family;
mod features;
mod flow_filter;
mod handover;
mod kernel_types;
mod load;
mod maps;
mod node;
mod pins;
mod pods;
mod post_routing;
mod redirect_errors;
mod remove;
mod shape;
mod slots;
mod sys;
mod tunnels;
mod written;
mod xdp;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use aya::{Ebpf, maps::MapInfo, programs::TcAttachType};
use dataplane_common::{Counter, Hook, LAYOUT, Settings, Verdict};

pub use attach::{AttachMode, AttachSetting, Device};
pub use features::Features;
pub use handover::Contents;
pub use load::{FLOORS, Options, load_unpinned, load_unpinned_sized};
pub use maps::{FlowAges, OwnAddresses, PeerNextHop, PeerRoute};
pub use post_routing::PostRouting;
pub use tunnels::Underlay;

use handover::{Handover, Scene};
use kernel_types::KernelTypes;
use load::{Globals, load, load_programs, program, xdp_program};
use maps::Maps;
use pins::Pins;
pub use remove::remove;
pub use xdp::XdpMode;

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapUse {
    /// The map.
    pub name: &'static str,
    /// How many entries it has.
    pub entries: usize,
    /// How many it can have.
    pub capacity: u32,
}

/// The loaded programs and their maps.
pub struct Datapath {
    state: Mutex<State>,
    mode: AttachMode,
    /// Notes the stack's flows in the place of `to_pod` and `to_wire`, where it can.
    post_routing: Option<PostRouting>,
    xdp: XdpMode,
    features: Features,
    /// The folder of our layout.
    dir: PathBuf,
}

struct State {
    ebpf: Ebpf,
    maps: Maps,
    pins: Pins,
    /// What the maps do not hold yet.
    missing: BTreeSet<Contents>,
    /// Until our programs have taken the places of another layout's.
    handover: Option<Handover>,
    /// The settings as they were written; none before, and after somebody else has changed a map.
    settings: Option<Settings>,
}

impl Datapath {
    /// Loads the programs, with the maps that are pinned already or new ones.
    ///
    /// # Errors
    /// Where the kernel lacks a needed feature or refuses a program (its verifier's words are part of the error).
    pub fn open(options: &Options) -> anyhow::Result<Self> {
        bpffs::ensure(&options.bpf_dir)?;
        let dir = layout_dir(&options.bpf_dir);
        let links = dir.join(pins::LINKS);
        fs_err::create_dir_all(&links).context("preparing the folder for pinned links")?;
        let former = pins::other_layouts(&options.bpf_dir)?;
        let types = KernelTypes::read()?;
        let features = Features::of(&types)?;
        let mode = features.attach_mode(options.attach)?;
        features.check_xdp(options.xdp)?;
        let xdp = options.xdp != XdpMode::Off;
        let mut globals = Globals::default();
        let traced = if xdp {
            redirect_errors::Globals::find(&types).map(|found| globals.redirect_errors = Some(found))
        } else {
            Ok(())
        };
        // With clsact everything is as on the kernels before 6.6.
        if features.netfilter && mode == AttachMode::Tcx {
            globals.post_routing = post_routing::or_tell(post_routing::Globals::find(&types));
        }
        drop(types);
        let handover = if former.is_empty() {
            None
        } else {
            let apart = carry::share(&dir, &former, options).context("looking at another layout's maps")?;
            Some(Handover::from(former.clone(), apart))
        };
        let mut ebpf = load(Some(&dir), options, &globals)?;
        // Also while another layout's programs run: what it notes too early is only too much.
        let post_routing =
            globals.post_routing.and_then(|_| post_routing::or_tell(PostRouting::attach(&ebpf, &links)));
        let maps = Maps::take(&mut ebpf)?;
        load_programs(&mut ebpf, xdp)?;
        let traced = traced.and_then(|()| match globals.redirect_errors {
            // The former agent's count until then.
            Some(_) if handover.is_some() => Ok(()),
            Some(_) => redirect_errors::attach(&mut ebpf, &links),
            None => redirect_errors::detach(&links),
        });
        if let Err(error) = traced {
            tracing::warn!(error = format!("{error:#}"), "frames that XDP redirects in vain are not counted");
        }
        let former = former.iter().map(|dir| dir.join(pins::LINKS)).collect();
        let pins = Pins { own: links, former };
        let missing = [Contents::Pods, Contents::Peers].into();
        let state = State { ebpf, maps, pins, missing, handover, settings: None };
        Ok(Self { state: Mutex::new(state), mode, post_routing, xdp: options.xdp, features, dir })
    }

    /// Tells that the maps hold these contents. Once they hold all, the programs of an agent with another map layout are
    /// swapped for ours, if there are any; until then nothing is attached but `post_routing`.
    ///
    /// # Errors
    /// Where what the former agent has left cannot be removed.
    pub fn filled(&self, contents: Contents) -> anyhow::Result<()> {
        let mut state = self.state();
        let State { ebpf, maps, pins, missing, handover, .. } = &mut *state;
        if !missing.remove(&contents) || !missing.is_empty() {
            return Ok(());
        }
        let post_routing = self.post_routing.is_some();
        let mut finished = Ok(());
        if let Some(pending) = handover.take() {
            let (dir, mode, xdp) = (&self.dir, self.mode, self.xdp);
            finished = pending.finish(&mut Scene { ebpf, maps, pins, dir, mode, post_routing, xdp });
            pins.former.clear();
        }
        if !post_routing {
            // An agent with another `attach` has left it; every device has `to_pod` or `to_wire` by now.
            post_routing::detach(&pins.own)?;
        }
        finished
    }

    /// Why another layout's programs still run, while they do.
    #[must_use]
    pub fn handover(&self) -> Option<String> {
        let state = self.state();
        let awaited = state.missing.first()?.awaited();
        let reason = || format!("the programs of an agent with another map layout forward until {awaited}");
        state.handover.as_ref().map(|_| reason())
    }

    /// The hooks that programs are attached at by tc, on such a device: in this order.
    pub fn hooks(&self, device: Device) -> impl Iterator<Item = Hook> + use<> {
        let [egress, ingress] = device.hooks();
        [self.post_routing.is_none().then_some(egress), Some(ingress)].into_iter().flatten()
    }

    /// Attaches `post_routing` where that is used and the program is not attached, or no longer. Returns whether it was.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn ensure_post_routing(&self) -> anyhow::Result<Option<bool>> {
        let state = self.state();
        match &self.post_routing {
            Some(program) => program.ensure(&state.pins.own).map(Some),
            None => Ok(None),
        }
    }

    /// How programs are attached here.
    #[must_use]
    pub const fn attach_mode(&self) -> AttachMode {
        self.mode
    }

    /// What this kernel has of what differs between kernels.
    #[must_use]
    pub const fn features(&self) -> &Features {
        &self.features
    }

    /// XDP at the uplinks, as set.
    #[must_use]
    pub const fn xdp_mode(&self) -> XdpMode {
        self.xdp
    }

    /// Attaches `xdp_from_wire` to an uplink in the mode that is set, or detaches it where that is [`XdpMode::Off`].
    ///
    /// # Errors
    /// Where the driver does not support the mode, or another tool's XDP program is there.
    pub fn attach_xdp(&self, uplink: &str) -> anyhow::Result<()> {
        let State { ebpf, pins, handover, .. } = &mut *self.state();
        match handover {
            Some(pending) => pending.defer_xdp(uplink),
            None => xdp::attach(xdp_program(ebpf)?, uplink, self.xdp, pins)?,
        }
        Ok(())
    }

    /// Detaches `xdp_from_wire` from a former uplink.
    ///
    /// # Errors
    /// Where the pinned link cannot be removed.
    pub fn detach_xdp(&self, uplink: &str) -> anyhow::Result<()> {
        let State { pins, handover, .. } = &mut *self.state();
        if let Some(pending) = handover {
            pending.forget_xdp(uplink);
        }
        xdp::detach(uplink, pins)
    }

    /// Forgets flows through the stack that conntrack has forgotten too, and shuts their gate when none is left.
    /// Returns how many remain.
    ///
    /// # Errors
    /// Where a map cannot be read or written.
    pub fn sweep_flows(&self, ages: FlowAges) -> anyhow::Result<usize> {
        let mut state = self.state();
        if state.handover.is_some() {
            // The gate may be open for flows that are elsewhere.
            return Ok(0);
        }
        state.maps.sweep_flows(now()?, ages)
    }

    /// Attaches `hook`'s program to an interface, or swaps it for this agent's where an older one is attached; one that
    /// is attached in another way (`attach` was set otherwise) is detached afterwards.
    ///
    /// # Errors
    /// Where the interface does not exist or the kernel refuses.
    pub fn attach(&self, hook: Hook, interface: &str) -> anyhow::Result<()> {
        self.attach_beside(hook, interface)?;
        let State { pins, handover, .. } = &mut *self.state();
        match handover {
            Some(_) => Ok(()),
            None => attach::detach_other(hook, interface, self.mode, self.post_routing.is_some(), pins),
        }
    }

    /// As [`Self::attach`], where nothing can be attached in another way.
    fn attach_beside(&self, hook: Hook, interface: &str) -> anyhow::Result<()> {
        let State { ebpf, pins, handover, .. } = &mut *self.state();
        match handover {
            Some(pending) => pending.defer(hook, interface),
            None => attach::attach(program(ebpf, hook)?, hook, interface, self.mode, pins)?,
        }
        Ok(())
    }

    /// Detaches `hook`'s program from an interface; not an error where it is not attached or the interface is gone.
    ///
    /// # Errors
    /// Where the pinned link cannot be removed.
    pub fn detach(&self, hook: Hook, interface: &str) -> anyhow::Result<()> {
        let State { pins, handover, .. } = &mut *self.state();
        if let Some(pending) = handover {
            pending.forget(hook, interface);
        }
        attach::detach(hook, interface, self.mode, pins)
    }

    /// The interfaces that `hook`'s program is attached to by this agent or one before it (tcx links; with clsact
    /// the kernel keeps no list, and this is empty).
    ///
    /// # Errors
    /// Where the folder of pinned links cannot be read.
    pub fn attached(&self, hook: Hook) -> anyhow::Result<Vec<String>> {
        let state = self.state();
        let mut interfaces = state.pins.interfaces(hook)?;
        interfaces.extend(state.handover.iter().flat_map(|pending| pending.deferred(hook)).cloned());
        Ok(interfaces.into_iter().collect())
    }

    /// Whether this agent's program runs at `hook` of an interface, by tcx; with clsact see [`Self::filter`].
    ///
    /// # Errors
    /// Where the kernel cannot be asked.
    pub fn is_attached(&self, hook: Hook, interface: &str) -> anyhow::Result<bool> {
        let State { ebpf, pins, handover, .. } = &mut *self.state();
        if handover.is_some() {
            return Ok(false);
        }
        attach::is_attached(program(ebpf, hook)?, hook, interface, self.mode, pins)
    }

    /// The filter that `hook`'s program is attached by, with clsact: the program's number, and whether it is at ingress.
    ///
    /// # Errors
    /// Where the kernel cannot be asked.
    pub fn filter(&self, hook: Hook) -> anyhow::Result<Option<(u32, bool)>> {
        if self.mode != AttachMode::Clsact {
            return Ok(None);
        }
        let id = program(&mut self.state().ebpf, hook)?.info()?.id();
        Ok(Some((id, matches!(attach::side(hook), TcAttachType::Ingress))))
    }

    /// Whether this agent's XDP program runs at an uplink.
    ///
    /// # Errors
    /// Where the kernel cannot be asked.
    pub fn is_xdp_attached(&self, uplink: &str) -> anyhow::Result<bool> {
        let State { ebpf, pins, handover, .. } = &mut *self.state();
        if handover.is_some() {
            return Ok(true);
        }
        xdp::is_attached(xdp_program(ebpf)?, uplink, self.xdp, pins)
    }

    /// The counters, summed over the CPUs.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn counters(&self) -> anyhow::Result<Vec<(Hook, Verdict, Counter)>> {
        self.state().maps.counters()
    }

    /// How full the maps are; the capacity is that of the maps that are pinned, which older settings may have made.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn map_use(&self) -> anyhow::Result<Vec<MapUse>> {
        let entries = self.state().maps.entries()?;
        let with_capacity = entries.into_iter().map(|(name, entries)| {
            let info =
                MapInfo::from_pin(self.dir.join(name)).with_context(|| format!("asking about {name}"))?;
            Ok(MapUse { name, entries, capacity: info.max_entries() })
        });
        with_capacity.collect()
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

impl State {
    /// Does what may change the settings, which are then as they should be, unless they were not before.
    fn changing_settings<T>(
        &mut self,
        change: impl FnOnce(&mut Maps) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let before = self.maps.settings()?;
        let done = change(&mut self.maps)?;
        if self.settings == Some(before) {
            self.settings = Some(self.maps.settings()?);
        }
        Ok(done)
    }
}

/// The clock that the programs read.
fn now() -> anyhow::Result<Duration> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).context("reading the clock")?;
    Ok(now.into())
}

/// Where this layout's maps and links are pinned.
fn layout_dir(bpf_dir: &Path) -> PathBuf {
    bpf_dir.join(LAYOUT)
}
