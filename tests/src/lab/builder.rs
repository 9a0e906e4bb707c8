//! What a lab is to be made of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, ensure};
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::folder::Folder;
use super::guard::Guard;
use super::namespace::ip_batch;
use super::node::Node;
use super::wire::{Middle, Mtus, Wire, finish_checksums, gateways, skip_address_detection, start_switch};
use super::{Between, Lab, Namespace, UPLINK, podlane};
use crate::Binaries;

/// Settings of a lab; see [`Lab::builder`].
#[derive(Debug, Clone)]
pub struct Builder {
    nodes: u8,
    ipv6: bool,
    wire: Wire,
    mtu: u32,
    middle_mtu: Option<u32>,
    outside: bool,
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
    ClassicBeforePodlane { binaries: Binaries, between: Between },
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            nodes: 1,
            ipv6: false,
            wire: Wire::default(),
            mtu: 1500,
            middle_mtu: None,
            outside: false,
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

    /// The MTU of the link between the routers of [`Wire::Routed`] and [`Wire::Subnets`]; as the others by default.
    #[must_use]
    pub fn middle_mtu(mut self, mtu: u32) -> Self {
        self.middle_mtu = Some(mtu);
        self
    }

    /// Adds a host that is not of the cluster, 203.0.113.9 and 2001:db8::9, see [`Lab::outside`].
    #[must_use]
    pub fn outside(mut self) -> Self {
        self.outside = true;
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

    /// Pods are connected by a classic network, as users have it before; every node's agent is prepared, and
    /// [`Lab::migrate`] turns a node over to it.
    #[must_use]
    pub fn classic_before_podlane(mut self, binaries: Binaries, between: Between) -> Self {
        self.network = Network::ClassicBeforePodlane { binaries, between };
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
        ensure!(!self.outside || self.wire != Wire::Cable, "a cable has no end for a host outside");
        ensure!(
            self.middle_mtu.is_none() || self.wire.has_routers(),
            "there is no link in the middle of a {:?}",
            self.wire
        );
        let folder = Folder::create()?;
        // From here on the guard, or the next lab's sweep, cleans up after every error.
        let guard = Guard::start(folder.id())?;
        let nodes =
            (1..=self.nodes).map(|number| self.node(&folder, number)).collect::<anyhow::Result<Vec<_>>>()?;
        let outside = self.outside.then(|| Namespace::named(format!("pl{}-outside", folder.id())));
        let mut lab = Lab { nodes, outside, folder, guard: Some(guard), kept: false };
        self.start_wire(&lab)
            .with_context(|| format!("making the nodes and the wire of lab {}", lab.id()))?;
        match self.network {
            Network::None => {}
            Network::Classic => super::classic::start(&mut lab, Between::Routes)?,
            Network::ClassicBeforePodlane { binaries, between } => {
                podlane::prepare(&mut lab, &binaries, &self.agent_settings)?;
                super::classic::start(&mut lab, between)?;
            }
            Network::Podlane { binaries, start } => {
                let routed = (self.wire == Wire::Routed).then(|| ("routed".to_owned(), true.into()));
                let settings: Vec<_> = routed.into_iter().chain(self.agent_settings).collect();
                podlane::prepare(&mut lab, &binaries, &settings)?;
                if start {
                    lab.start_agents()?;
                }
            }
        }
        Ok(lab)
    }

    fn node(&self, folder: &Folder, number: u8) -> anyhow::Result<Node> {
        let subnet = if self.wire.has_routers() { number } else { 1 };
        let mut addresses = vec![IpNetwork::new(Ipv4Addr::new(192, 168, subnet, 10 + number).into(), 24)?];
        let mut pod_cidrs = vec![IpNetwork::V4(Ipv4Network::new(Ipv4Addr::new(10, 244, number, 0), 24)?)];
        if self.ipv6 {
            let hex = u16::from(number);
            // Read as decimal digits, so that node 12 is …::22 as well as ….22.
            let host = u16::from_str_radix(&(10 + number).to_string(), 16)?;
            addresses.push(IpNetwork::new(
                IpAddr::V6(Ipv6Addr::new(0xfd00, subnet.into(), 0, 0, 0, 0, 0, host)),
                64,
            )?);
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
        let mtus = Mtus { uplinks: self.mtu, middle: self.middle_mtu.unwrap_or(self.mtu) };
        let plan = self.wire.plan(lab.id(), lab.nodes(), mtus, lab.outside.clone());
        ip_batch(&plan.creation)?;
        let has_gateway = self.wire.has_routers() || self.outside;
        std::thread::scope(|scope| {
            let mut threads: Vec<_> =
                lab.nodes.iter().map(|node| scope.spawn(move || start_node(node, has_gateway))).collect();
            threads.push(scope.spawn(|| match &plan.middle {
                Middle::Nothing => Ok(()),
                Middle::Switch(switch, ports) => start_switch(switch, ports, self.mtu),
                Middle::Routers(routers) => routers.start(),
            }));
            if let Some((outside, lines)) = &plan.outside {
                threads.push(scope.spawn(|| start_host(outside, lines.clone())));
            }
            for thread in threads {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
            Ok(())
        })
    }
}

fn start_node(node: &Node, has_gateway: bool) -> anyhow::Result<()> {
    fs_err::create_dir_all(node.dir())?;
    // A namespace starts with the machine's own setting. Turning it on is the pod network's duty.
    node.namespace().sysctl("net/ipv4/ip_forward", "0")?;
    let mut lines: Vec<_> =
        node.networks().iter().map(|address| format!("address add {address} dev {UPLINK} nodad")).collect();
    lines.push(format!("link set {UPLINK} up"));
    if has_gateway {
        let gateways = gateways(Some(node)).into_iter();
        lines.extend(gateways.map(|gateway| format!("route add default via {} dev {UPLINK}", gateway.ip())));
    }
    start_host(node.namespace(), lines)
}

fn start_host(namespace: &Namespace, mut lines: Vec<String>) -> anyhow::Result<()> {
    let uplink = [UPLINK.to_owned()];
    skip_address_detection(namespace, &uplink)?;
    lines.insert(0, "link set lo up".to_owned());
    namespace.ip(&lines)?;
    finish_checksums(namespace, &uplink)
}
