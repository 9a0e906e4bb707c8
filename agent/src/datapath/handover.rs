//! Taking over from an agent with another map layout, newer or older, without a gap.
//!
//! Its programs run on, with its maps, until ours are filled: from the records of the pods and from the cluster. What is
//! to be attached waits until then. Then every program is swapped on its link, which is pinned anew in our folder, and
//! the other folder goes. An agent that is killed on the way, or gives up waiting, leaves a datapath that works; the
//! next one, of whichever version, starts over.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use aya::Ebpf;
use dataplane_common::Hook;

use super::{
    AttachMode, XdpMode, attach, carry, maps::Maps, pins::Pins, program, redirect_errors, remove, xdp,
};
use super::{pins, xdp_program};
use crate::failpoint::step;

/// What has to be in our maps before our programs run in the place of another layout's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contents {
    /// This node's pods.
    Pods,
    /// The ways to the other nodes.
    Peers,
}

impl Contents {
    /// What the agent waits for, in words.
    pub(super) const fn awaited(self) -> &'static str {
        match self {
            Self::Pods => "the attachment records are restored",
            Self::Peers => "the cluster is known",
        }
    }
}

/// What waits for the maps to be filled.
#[derive(Debug)]
pub(super) struct Handover {
    layouts: Vec<PathBuf>,
    /// By interface and hook; true stands for egress, which comes first.
    tc: BTreeSet<(bool, String, Hook)>,
    xdp: BTreeSet<String>,
    /// Their programs note flows where ours don't find them.
    flows_apart: bool,
}

/// What a handover works on.
pub(super) struct Scene<'a> {
    pub(super) ebpf: &'a mut Ebpf,
    pub(super) maps: &'a mut Maps,
    pub(super) pins: &'a Pins,
    pub(super) dir: &'a Path,
    pub(super) mode: AttachMode,
    pub(super) post_routing: bool,
    pub(super) xdp: XdpMode,
}

impl Handover {
    /// From the agents that have left these folders.
    pub(super) fn from(layouts: Vec<PathBuf>, flows_apart: bool) -> Self {
        tracing::info!(
            ?layouts,
            "taking over from an agent with another map layout: its programs run until our maps are filled"
        );
        Self { layouts, tc: BTreeSet::new(), xdp: BTreeSet::new(), flows_apart }
    }

    pub(super) fn defer(&mut self, hook: Hook, interface: &str) {
        let ingress = matches!(attach::side(hook), aya::programs::TcAttachType::Ingress);
        self.tc.insert((ingress, interface.to_owned(), hook));
    }

    pub(super) fn defer_xdp(&mut self, uplink: &str) {
        self.xdp.insert(uplink.to_owned());
    }

    pub(super) fn forget(&mut self, hook: Hook, interface: &str) {
        self.tc.retain(|(_, name, other)| (name.as_str(), *other) != (interface, hook));
    }

    pub(super) fn forget_xdp(&mut self, uplink: &str) {
        self.xdp.remove(uplink);
    }

    pub(super) fn deferred(&self, hook: Hook) -> impl Iterator<Item = &String> {
        self.tc.iter().filter(move |(_, _, other)| *other == hook).map(|(_, interface, _)| interface)
    }

    /// Swaps the programs, and removes what the former agents have left. What goes wrong with one interface is told, and
    /// mended by the passes that look for programs that are not attached.
    pub(super) fn finish(&self, scene: &mut Scene<'_>) -> anyhow::Result<()> {
        if self.flows_apart {
            scene.maps.pass_all_flows()?;
            step("flow gate set for all");
        }
        for (_, interface, hook) in &self.tc {
            if let Err(error) = self.take(*hook, interface, scene) {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "a program of another map layout is not taken over"
                );
            }
            step("program taken over");
        }
        for uplink in &self.xdp {
            let taken = xdp_program(scene.ebpf)
                .and_then(|program| xdp::attach(program, uplink, scene.xdp, scene.pins));
            if let Err(error) = taken {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "an XDP program of another map layout is not taken over"
                );
            }
            step("XDP program taken over");
        }
        if scene.xdp != XdpMode::Off
            && let Err(error) = redirect_errors::attach(scene.ebpf, &scene.pins.own)
        {
            tracing::warn!(error = format!("{error:#}"), "frames that XDP redirects in vain are not counted");
        }
        for left in self.layouts.iter().flat_map(|dir| pins::entries(&dir.join(pins::LINKS))).flatten() {
            tracing::info!(pin = %left.display(), "detached: nothing that this agent knows needs it");
        }
        if self.flows_apart {
            // From here on the former layouts' programs, where any are left, note nothing that counts.
            carry::merge_flows(scene.dir, &self.layouts)?;
            scene.maps.pass_known_flows()?;
            step("flow gate opened");
        }
        for dir in &self.layouts {
            remove::layout(dir).context("removing the pins of another map layout")?;
            tracing::info!(path = %dir.display(), "taken over from another map layout");
        }
        Ok(())
    }

    fn take(&self, hook: Hook, interface: &str, scene: &mut Scene<'_>) -> anyhow::Result<()> {
        attach::attach(program(scene.ebpf, hook)?, hook, interface, scene.mode, scene.pins)?;
        // Where the former agent has attached by clsact, its filter is no link that could be taken over.
        attach::detach_other(hook, interface, scene.mode, scene.post_routing, scene.pins)
    }
}
