//! The node's own side: gateway addresses, slow-path routes, uplinks, and the fast path's routes to the peers.
//!
//! One task compares what the cluster says with what the kernel has and writes the difference. It runs again on every
//! change of cluster, links, addresses, routes or neighbours, so that what others break is mended.

mod files;
mod flows;
mod ledger;
mod masquerade;
mod mtu;
mod overlay;
mod path;
mod peers;
mod plan;
mod reconcile;
mod routes;
mod ruleset;
mod sysctl;
mod uplinks;
mod ways;
mod xdp;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use ipnetwork::IpNetwork;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time,
};

pub use files::NodeFile;
pub use masquerade::remove_masquerade;
pub use overlay::OVERLAY_DEVICE;
pub use peers::{Peer, PeerState};

use ledger::Ledger;
use masquerade::Masquerade;
use routes::Routes;
use ways::Ways;

use crate::{
    cluster::{Cluster, Update},
    config::Config,
    datapath::Datapath,
    netlink::{Change, Netlink},
    pods::{NodeNetwork, is_host_interface},
    repairs::Repairs,
};

/// Changes come in bursts: a pass waits this long for the rest of one.
const SETTLE: Duration = Duration::from_millis(20);

/// A pass without a change, in case one was missed; and how often forgotten flows are swept.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// How often the programs are asked whether routers have told them of smaller links under the overlay: the kernel
/// announces nothing of the kind.
const LISTEN_TO_ROUTERS: Duration = Duration::from_secs(1);

/// What `podlane status` tells of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeStatus {
    /// A pass has succeeded since the agent started: pods can be attached from then on.
    pub ready: bool,
    /// The uplinks in use.
    pub uplinks: Vec<String>,
    /// This node's pod CIDRs.
    pub pod_cidrs: Vec<IpNetwork>,
    /// MTU of the pods' interfaces; 0 before it is known.
    pub mtu: u32,
    /// MTU of the overlay device, while there is one.
    pub overlay_mtu: Option<u32>,
    /// The uplinks that XDP runs at.
    pub xdp_uplinks: Vec<String>,
    /// The other nodes.
    pub peers: Vec<Peer>,
    /// What keeps this node's pods from being attached or reached, in words.
    pub problems: Vec<String>,
    /// What else is wrong: about one peer, the speed, the way outside.
    pub warnings: Vec<String>,
    /// When a pass last went through.
    pub reconciled: Option<SystemTime>,
    /// The cluster source has been read, and can be.
    pub source_up: bool,
}

/// The task that keeps the node as the cluster says.
pub struct NodeTask {
    config: Config,
    netlink: Netlink,
    datapath: Arc<Datapath>,
    cluster: Option<Cluster>,
    cluster_problem: Option<String>,
    network: watch::Sender<Option<NodeNetwork>>,
    status: watch::Sender<NodeStatus>,
    memory: Memory,
    ledger: Ledger,
}

/// A wish for a pass now; answered when it is over.
pub type PassRequest = oneshot::Sender<()>;

/// What a pass remembers for the next one.
#[derive(Debug, Default)]
struct Memory {
    /// The uplinks that this agent's XDP program is attached to, with their indices.
    xdp: BTreeMap<String, u32>,
    /// The masquerade rules that were last looked after, and what was wrong with them; the inner `None` where there
    /// should be none.
    masquerade: Option<(Option<Masquerade>, Option<String>)>,
    /// The overlay device's index, while there is one.
    overlay: Option<u32>,
    /// The maps are to be compared with what was written.
    look_at_maps: bool,
    /// The kernel's ways to the peers.
    ways: Ways,
    /// The node's routes that were in the kernel after the last pass.
    routes: Routes,
    /// Since the last whole pass nothing has changed but the cluster: what is in kernel and maps need not be read.
    trusted: bool,
    /// How often routers had said that the overlay's packets are too big; `None` where there is no overlay.
    path_mtu_errors: Option<u64>,
    /// What they had said then.
    path_mtus: BTreeMap<IpAddr, u32>,
}

impl NodeTask {
    /// A task that has not heard of the cluster yet; what it finds out goes to `network` and `status`.
    #[must_use]
    pub fn new(
        config: Config,
        netlink: Netlink,
        datapath: Arc<Datapath>,
        network: watch::Sender<Option<NodeNetwork>>,
        status: watch::Sender<NodeStatus>,
        repairs: Repairs,
    ) -> Self {
        Self {
            config,
            netlink,
            datapath,
            cluster: None,
            cluster_problem: None,
            network,
            status,
            memory: Memory::default(),
            ledger: Ledger::new(repairs),
        }
    }

    /// Runs for as long as the cluster source does.
    ///
    /// # Errors
    /// Where the kernel's changes cannot be listened to.
    pub async fn run(
        mut self,
        mut updates: mpsc::Receiver<Update>,
        mut requests: mpsc::Receiver<PassRequest>,
    ) -> anyhow::Result<()> {
        let mut changes = self.netlink.watch().context("listening to the kernel's changes")?;
        let mut pods = BTreeSet::new();
        let mut look_again = time::interval(LOOK_AGAIN);
        look_again.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut listen_to_routers = time::interval(LISTEN_TO_ROUTERS);
        listen_to_routers.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            let mut asked = None;
            tokio::select! {
                Some(request) = requests.recv() => {
                    asked = Some(request);
                    self.look_closely();
                }
                update = updates.recv() => match update {
                    Some(update) => {
                        self.take(update);
                        while let Ok(update) = updates.try_recv() {
                            self.take(update);
                        }
                    }
                    None => return Ok(()),
                },
                change = changes.next() => {
                    let change = change.context("the kernel's changes can no longer be listened to")?;
                    if !self.matters(&change, &mut pods) {
                        continue;
                    }
                    self.distrust();
                    time::sleep(SETTLE).await;
                    while let Some(Some(change)) = futures_util::FutureExt::now_or_never(changes.next()) {
                        self.matters(&change, &mut pods);
                    }
                }
                _ = listen_to_routers.tick(), if self.memory.path_mtu_errors.is_some() => {
                    if !self.has_new_path_mtus() {
                        continue;
                    }
                    self.distrust();
                }
                _ = look_again.tick() => {
                    self.look_closely();
                    self.sweep_flows();
                }
            }
            let whole = !self.memory.trusted;
            self.pass().await;
            if whole {
                // It may have read thousands of routes and map entries.
                crate::memory::give_back();
            }
            if let Some(asked) = asked {
                // Who asked may be gone.
                asked.send(()).ok();
            }
        }
    }

    fn take(&mut self, update: Update) {
        match update {
            Update::Cluster(cluster) => {
                tracing::info!(nodes = cluster.names().count(), "cluster state read");
                self.cluster = Some(cluster);
                self.cluster_problem = None;
            }
            Update::Problem(problem) => {
                let kept = if self.cluster.is_some() {
                    "the last good state stays in force"
                } else {
                    "waiting for it"
                };
                tracing::error!(problem, "cluster state cannot be read: {kept}");
                self.cluster_problem = Some(problem);
            }
        }
    }

    /// The next pass looks also at what costs time: others may have flushed nftables' rules, or changed
    /// maps, which nobody announces.
    fn look_closely(&mut self) {
        self.memory.look_at_maps = true;
        self.distrust();
        if self.config.masquerade {
            self.memory.masquerade = None;
        }
    }

    /// The next pass reads everything anew.
    fn distrust(&mut self) {
        self.memory.trusted = false;
        self.memory.ways.forget();
    }

    /// Whether a router has said that the overlay's packets are too big since the last pass.
    fn has_new_path_mtus(&self) -> bool {
        match self.datapath.path_mtu_errors() {
            Ok(errors) => Some(errors) != self.memory.path_mtu_errors,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "path MTUs under the overlay are not known");
                false
            }
        }
    }

    /// Forgets flows through the stack that conntrack has forgotten.
    fn sweep_flows(&self) {
        match self.datapath.sweep_flows(flows::ages()) {
            Ok(flows) => tracing::trace!(flows, "flows through the stack swept"),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "flows through the stack cannot be swept")
            }
        }
    }

    /// One pass of comparing and mending; nothing is touched before the cluster is known.
    async fn pass(&mut self) {
        let mut status = match self.cluster.take() {
            Some(cluster) => {
                let mut status = self.reconcile(&cluster).await;
                status.warnings.extend_from_slice(cluster.refused());
                self.cluster = Some(cluster);
                status
            }
            None => NodeStatus::default(),
        };
        status.source_up = self.cluster.is_some() && self.cluster_problem.is_none();
        status.reconciled = status.reconciled.or(self.status.borrow().reconciled);
        match (&self.cluster, self.cluster_problem.clone()) {
            // Whatever was known stays in force.
            (Some(_), problem) => status.warnings.extend(problem),
            (None, problem) => status.problems.extend(problem),
        }
        {
            let before = self.status.borrow();
            status.ready |= before.ready;
            tell("problem", &before.problems, &status.problems);
            tell("warning", &before.warnings, &status.warnings);
        }
        self.status.send_if_modified(|old| {
            let changed = *old != status;
            *old = status;
            changed
        });
    }
}

impl NodeTask {
    /// Whether the node may have to be mended. Neighbours learnt and forgotten are the kernel's business, but for the
    /// overlay's, which are ours: the fast path resolves the others itself. Pods' own interfaces and routes are not this
    /// task's: a pass for every pod that comes would ask the kernel about every peer. `pods` remembers their interfaces'
    /// indices.
    fn matters(&self, change: &Change, pods: &mut BTreeSet<u32>) -> bool {
        match change {
            Change::Neighbour { ifindex, removed } => *removed && self.memory.overlay == Some(*ifindex),
            Change::Route { ours: Some(_), to_host: true, .. } => false,
            // What the last pass has done itself.
            Change::Route { ours: Some(route), removed, .. } => {
                let wanted = self.memory.routes.at(route.place());
                if *removed { wanted.is_some() } else { wanted != Some(&**route) }
            }
            Change::Link { index, name, removed } if is_host_interface(name) => {
                if *removed {
                    pods.remove(index);
                } else {
                    pods.insert(*index);
                }
                false
            }
            // Each gets a link-local one from the kernel.
            Change::Address { ifindex } => !pods.contains(ifindex),
            Change::Link { .. } | Change::Route { .. } | Change::Rule | Change::Lost => true,
        }
    }
}

/// Logs what is wrong since the last pass, and what no longer is.
fn tell(kind: &str, before: &[String], now: &[String]) {
    let (were, are): (HashSet<&String>, HashSet<&String>) = (before.iter().collect(), now.iter().collect());
    for text in now.iter().filter(|text| !were.contains(text)) {
        tracing::warn!(text, "{kind}");
    }
    for text in before.iter().filter(|text| !are.contains(text)) {
        tracing::info!(text, "{kind} solved");
    }
}
