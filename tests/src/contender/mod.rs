//! What Podlane is measured against, built from ordinary tools: each a lab of two nodes on one cable, with two pods
//! on the first node and one on the second.

mod floor;
mod netfilter;
pub(crate) mod plugins;
mod proof;
mod routed;
mod wire;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use self::floor::Floor;
use crate::lab::{Builder, Lab, Namespace, Wire};
use crate::{Binaries, lab, probe};

/// Longer than duplicate address detection takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// A way to connect pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// No pod network: two namespaces on one veth pair; the two nodes themselves across the cable. The limit.
    Wire,
    /// A bridge on each node and static routes between them, as our users have it.
    Classic,
    /// The bridge plugin of containernetworking, static routes between the nodes.
    Bridge,
    /// The ptp plugin of containernetworking, static routes between the nodes.
    Ptp,
    /// Routed veths with permanent neighbours, kernel routes between the nodes.
    HostGw,
    /// The same with the kernel's VXLAN between the nodes.
    Vxlan,
    /// Programs at tc that redirect and do nothing else, IPv4 only: the least that any can take.
    Floor,
    /// Podlane, direct, its programs at tc.
    Podlane,
    /// Podlane through its overlay.
    PodlaneVxlan,
    /// Podlane, direct, with generic XDP at the uplinks.
    PodlaneXdpGeneric,
    /// Podlane, direct, with native XDP at the uplinks.
    PodlaneXdp,
}

impl Kind {
    /// All of them, the limit first.
    pub const ALL: [Self; 11] = [
        Self::Wire,
        Self::Classic,
        Self::Bridge,
        Self::Ptp,
        Self::HostGw,
        Self::Vxlan,
        Self::Floor,
        Self::Podlane,
        Self::PodlaneVxlan,
        Self::PodlaneXdpGeneric,
        Self::PodlaneXdp,
    ];

    /// Its name in `bench.json`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wire => "wire",
            Self::Classic => "classic",
            Self::Bridge => "bridge",
            Self::Ptp => "ptp",
            Self::HostGw => "host-gw",
            Self::Vxlan => "vxlan",
            Self::Floor => "tc-floor",
            Self::Podlane => "podlane",
            Self::PodlaneVxlan => "podlane-vxlan",
            Self::PodlaneXdpGeneric => "podlane-xdp-generic",
            Self::PodlaneXdp => "podlane-xdp",
        }
    }

    /// Whether netfilter rules on the nodes can be in its way.
    #[must_use]
    pub const fn has_netfilter_variant(self) -> bool {
        !matches!(self, Self::Wire | Self::Floor)
    }

    /// Whether it is Podlane, in whichever mode.
    #[must_use]
    pub const fn is_podlane(self) -> bool {
        matches!(self, Self::Podlane | Self::PodlaneVxlan | Self::PodlaneXdpGeneric | Self::PodlaneXdp)
    }

    /// Whether it tunnels between nodes.
    #[must_use]
    pub const fn has_overlay(self) -> bool {
        matches!(self, Self::Vxlan | Self::PodlaneVxlan)
    }

    /// Whether it connects pods by IPv6 as well.
    #[must_use]
    pub const fn has_ipv6(self) -> bool {
        !matches!(self, Self::Classic | Self::Floor)
    }
}

/// Where a generator runs: a pod, or a node itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its network namespace.
    pub namespace: Namespace,
    /// Its addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
}

impl Endpoint {
    /// Its address of that family, if it has one.
    #[must_use]
    pub fn address(&self, ipv6: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv6() == ipv6)
    }
}

/// Who talks to whom.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pair {
    /// Who asks.
    pub client: Endpoint,
    /// Who answers.
    pub server: Endpoint,
}

/// A built contender.
#[derive(Debug)]
pub struct Contender {
    /// What it is.
    pub kind: Kind,
    /// Whether its nodes have a typical node's netfilter rules.
    pub netfilter: bool,
    /// Two ends on one node.
    pub same_node: Pair,
    /// Two ends on different nodes.
    pub across_nodes: Pair,
    floor: Option<Floor>,
    lab: Lab,
}

impl Contender {
    /// Builds it.
    ///
    /// # Errors
    /// Where a tool is missing or refuses.
    pub fn build(kind: Kind, netfilter: bool, binaries: &Binaries) -> Result<Self> {
        Self::try_build(kind, netfilter, binaries).with_context(|| {
            format!(
                "building the contender {} {} netfilter",
                kind.name(),
                if netfilter { "with" } else { "without" }
            )
        })
    }

    fn try_build(kind: Kind, netfilter: bool, binaries: &Binaries) -> Result<Self> {
        let lab = Lab::builder().nodes(2).wire(Wire::Cable).ipv6(kind.has_ipv6());
        let mut floor = None;
        let (lab, [client, server, far]) = match kind {
            Kind::Wire => wire::build(lab)?,
            Kind::Classic => with_pods(lab.classic().build()?)?,
            Kind::Bridge => with_pods(plugins::bridge(lab)?)?,
            Kind::Ptp => with_pods(plugins::ptp(lab)?)?,
            Kind::HostGw => routed::host_gw(lab)?,
            Kind::Vxlan => routed::vxlan(lab)?,
            Kind::Floor => {
                let (programs, built) = Floor::build(lab, binaries)?;
                floor = Some(programs);
                built
            }
            Kind::Podlane => with_pods(lab.podlane(binaries.clone()).build()?)?,
            Kind::PodlaneVxlan => podlane(lab, binaries, "tunnel", "always")?,
            Kind::PodlaneXdpGeneric => podlane(lab, binaries, "xdp", "generic")?,
            Kind::PodlaneXdp => podlane(lab, binaries, "xdp", "native")?,
        };
        if netfilter {
            netfilter::install(&lab)?;
        }
        let across_client = match kind {
            Kind::Wire => node_endpoint(lab.node(1)),
            _ => client.clone(),
        };
        let built = Self {
            kind,
            netfilter,
            same_node: Pair { client, server },
            across_nodes: Pair { client: across_client, server: far },
            floor,
            lab,
        };
        built.leave_pacing()?;
        built.wait_reachable()?;
        if netfilter {
            netfilter::use_services(&built.lab, &built.same_node, &built.across_nodes)?;
        }
        Ok(built)
    }

    /// A machine whose default is BBR paces every connection that begins with it, by a timer for each packet, also after
    /// another congestion control was chosen (`sk_pacing_status` stays): the timers would be measured. Reno is what every
    /// kernel has and every namespace may use.
    fn leave_pacing(&self) -> Result<()> {
        let ends = [&self.same_node, &self.across_nodes].map(|pair| [&pair.client, &pair.server]);
        ends.into_iter()
            .flatten()
            .try_for_each(|end| end.namespace.sysctl("net/ipv4/tcp_congestion_control", "reno"))
    }

    /// The plugins of containernetworking answer before their gateways' IPv6 addresses are usable.
    fn wait_reachable(&self) -> Result<()> {
        for pair in [&self.same_node, &self.across_nodes] {
            for address in &pair.server.addresses {
                let deadline = Instant::now() + PATIENCE;
                while let Err(error) = probe::ping::ping(&pair.client.namespace, *address) {
                    if Instant::now() > deadline {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends packets both ways and looks where they passed; says what was seen.
    ///
    /// # Errors
    /// Where they did not pass where this contender's packets have to.
    pub fn prove(&self) -> Result<Vec<String>> {
        proof::prove(self).with_context(|| format!("{} is not what it says it is", self.label()))
    }

    /// Switches generic receive offload of the wire's ends on or off. Every network card's driver has it; a veth's
    /// comes with a polling round for each packet, so that it is on only where packets are many.
    ///
    /// # Errors
    /// Where `ethtool` fails.
    pub fn set_wire_gro(&self, on: bool) -> Result<()> {
        for node in self.lab.nodes() {
            node.exec(["ethtool", "-K", lab::UPLINK, "gro", if on { "on" } else { "off" }])?;
        }
        Ok(())
    }

    /// Starts the agents anew, which load their programs again: to another place in memory.
    ///
    /// # Errors
    /// Where an agent does not come back.
    pub fn reload_programs(&self) -> Result<()> {
        if let Some(floor) = &self.floor {
            floor.reload()?;
        }
        if self.kind.is_podlane() {
            for node in self.lab.nodes() {
                node.agent()?.restart()?;
            }
        }
        Ok(())
    }

    /// Its name, to show.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}{}", self.kind.name(), if self.netfilter { " + netfilter" } else { "" })
    }

    /// Its lab.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }
}

/// Podlane with a setting of its agents.
fn podlane(lab: Builder, binaries: &Binaries, key: &str, value: &str) -> Result<(Lab, [Endpoint; 3])> {
    with_pods(lab.podlane(binaries.clone()).agent_setting(key, value).build()?)
}

/// Two pods on the first node, one on the second, attached by the lab's plugin.
fn with_pods(lab: Lab) -> Result<(Lab, [Endpoint; 3])> {
    let endpoint =
        |pod: lab::Pod| Endpoint { addresses: pod.addresses().collect(), namespace: pod.namespace().clone() };
    let client = endpoint(lab.node(1).add_pod("client")?);
    let server = endpoint(lab.node(1).add_pod("server")?);
    let far = endpoint(lab.node(2).add_pod("server")?);
    Ok((lab, [client, server, far]))
}

fn node_endpoint(node: &lab::Node) -> Endpoint {
    Endpoint { namespace: node.namespace().clone(), addresses: node.addresses().collect() }
}
