//! What a lab is to be made of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, ensure};
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::folder::Folder;
use super::guard::Guard;
use super::namespace::ip_batch;
use super::node::Node;
use super::wire::{Wire, finish_checksums, start_switch};
use super::{Lab, Namespace, UPLINK, podlane};
use crate::Binaries;

/// Settings of a lab; see [`Lab::builder`].
#[derive(Debug, Clone)]
pub struct Builder {
    nodes: u8,
    ipv6: bool,
    wire: Wire,
    mtu: u32,
    network: Network,
    pod_cidrs: Vec<(usize, Vec<IpNetwork>)>,
    agent_settings: Vec<(String, serde_norway::Value)>,
}

/// What connects the pods.
#[derive(Debug, Clone)]
enum Network {
    None,
    Classic,
    Podlane { binaries: Binaries, start: bool },
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            nodes: 1,
            ipv6: false,
            wire: Wire::default(),
            mtu: 1500,
            network: Network::None,
            pod_cidrs: Vec::new(),
            agent_settings: Vec::new(),
        }
    }
}

impl Builder {
    /// The number of nodes, 1 to 200; 1 by default.
    #[must_use]
    pub fn nodes(mut self, nodes: u8) -> Self {
        self.nodes = nodes;
        self
    }

    /// Gives nodes and pods IPv6 as well as IPv4.
    #[must_use]
    pub fn ipv6(mut self, ipv6: bool) -> Self {
        self.ipv6 = ipv6;
        self
    }

    /// What connects the nodes; a switch by default.
    #[must_use]
    pub fn wire(mut self, wire: Wire) -> Self {
        self.wire = wire;
        self
    }

    /// The MTU of the wire; 1500 by default.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// Pods are connected by a bridge on each node and static routes between the nodes.
    #[must_use]
    pub fn classic(mut self) -> Self {
        self.network = Network::Classic;
        self
    }

    /// Pods are connected by Podlane; every node's agent is started and ready when the lab is.
    #[must_use]
    pub fn podlane(mut self, binaries: Binaries) -> Self {
        self.network = Network::Podlane { binaries, start: true };
        self
    }

    /// As [`Self::podlane`], but no agent is started: `node.agent()?.start()` does.
    #[must_use]
    pub fn podlane_stopped(mut self, binaries: Binaries) -> Self {
        self.network = Network::Podlane { binaries, start: false };
        self
    }

    /// Pod CIDRs of node `number` (from 1), instead of 10.244.`number`.0/24.
    #[must_use]
    pub fn pod_cidrs(mut self, number: usize, pod_cidrs: impl IntoIterator<Item = IpNetwork>) -> Self {
        self.pod_cidrs.push((number, pod_cidrs.into_iter().collect()));
        self
    }

    /// A line of every agent's configuration file, for example `attach: clsact`.
    #[must_use]
    pub fn agent_setting(mut self, key: &str, value: impl Into<serde_norway::Value>) -> Self {
        self.agent_settings.push((key.to_owned(), value.into()));
        self
    }

    /// Makes the lab.
    pub fn build(self) -> anyhow::Result<Lab> {
        ensure!((1..=200).contains(&self.nodes), "a lab has 1 to 200 nodes, not {}", self.nodes);
        ensure!(
            self.wire != Wire::Cable || self.nodes == 2,
            "a cable connects two nodes, not {}",
            self.nodes
        );
        let folder = Folder::create()?;
        // From here on the guard, or the next lab's sweep, cleans up after every error.
        let guard = Guard::start(folder.id())?;
        let nodes =
            (1..=self.nodes).map(|number| self.node(&folder, number)).collect::<anyhow::Result<Vec<_>>>()?;
        let mut lab = Lab { nodes, folder, guard: Some(guard), kept: false };
        self.start_wire(&lab)
            .with_context(|| format!("making the nodes and the wire of lab {}", lab.id()))?;
        match self.network {
            Network::None => {}
            Network::Classic => super::classic::start(&mut lab)?,
            Network::Podlane { binaries, start } => {
                podlane::prepare(&mut lab, &binaries, &self.agent_settings)?;
                if start {
                    lab.start_agents()?;
                }
            }
        }
        Ok(lab)
    }

    fn node(&self, folder: &Folder, number: u8) -> anyhow::Result<Node> {
        let mut addresses = vec![IpNetwork::new(Ipv4Addr::new(192, 168, 1, 10 + number).into(), 24)?];
        let mut pod_cidrs = vec![IpNetwork::V4(Ipv4Network::new(Ipv4Addr::new(10, 244, number, 0), 24)?)];
        if self.ipv6 {
            let hex = u16::from(number);
            // Read as decimal digits, so that node 12 is …::22 as well as ….22.
            let host = u16::from_str_radix(&(10 + number).to_string(), 16)?;
            addresses.push(IpNetwork::new(IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, host)), 64)?);
            let prefix = Ipv6Addr::new(0xfd00, 0x244, hex, 0, 0, 0, 0, 0);
            pod_cidrs.push(IpNetwork::V6(Ipv6Network::new(prefix, 64)?));
        }
        if let Some((_, own)) = self.pod_cidrs.iter().rev().find(|(node, _)| *node == usize::from(number)) {
            pod_cidrs.clone_from(own);
        }
        let name = format!("node{number}");
        let namespace = Namespace::named(format!("pl{}-{name}", folder.id()));
        Ok(Node::new(name, namespace, addresses, pod_cidrs, folder.path()))
    }

    fn start_wire(&self, lab: &Lab) -> anyhow::Result<()> {
        let namespaces: Vec<_> = lab.nodes.iter().map(|node| node.namespace().clone()).collect();
        let plan = self.wire.plan(lab.id(), &namespaces, self.mtu);
        ip_batch(&plan.creation)?;
        std::thread::scope(|scope| {
            let switch = plan.switch.as_ref();
            let switch = switch.map(|(switch, ports)| scope.spawn(|| start_switch(switch, ports, self.mtu)));
            let nodes: Vec<_> = lab.nodes.iter().map(|node| scope.spawn(|| start_node(node))).collect();
            for thread in switch.into_iter().chain(nodes) {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
            Ok(())
        })
    }
}

fn start_node(node: &Node) -> anyhow::Result<()> {
    fs_err::create_dir_all(node.dir())?;
    if node.addresses().any(|address| address.is_ipv6()) {
        // Duplicate address detection would leave the node without a usable address for two seconds.
        node.namespace().sysctl(&format!("net/ipv6/conf/{UPLINK}/accept_dad"), "0")?;
    }
    let mut lines = vec!["link set lo up".to_owned()];
    lines.extend(node.networks().iter().map(|address| format!("address add {address} dev {UPLINK}")));
    lines.push(format!("link set {UPLINK} up"));
    node.namespace().ip(&lines)?;
    // A namespace starts with the machine's own setting. Turning it on is the pod network's duty.
    node.namespace().sysctl("net/ipv4/ip_forward", "0")?;
    finish_checksums(node.namespace(), &[UPLINK.to_owned()])
}
