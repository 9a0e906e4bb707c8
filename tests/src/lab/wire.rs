//! What connects the nodes.

use ipnetwork::IpNetwork;

use super::router::{self, Routers};
use super::{Namespace, Node};

/// The name of each node's device on the wire.
pub const UPLINK: &str = "uplink";

/// How the nodes' uplinks are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wire {
    /// A bridge in a namespace of its own: one layer 2 for any number of nodes.
    #[default]
    Switch,
    /// One veth pair between two nodes, without a bridge's cost.
    Cable,
    /// Each node on a subnet of its own, with two routers in between that route the pod CIDRs as well: the agents are
    /// told so (`routed: true`).
    Routed,
    /// The same with routers that know the nodes only.
    Subnets,
}

impl Wire {
    /// Whether there are routers between the nodes.
    pub fn has_routers(self) -> bool {
        matches!(self, Self::Routed | Self::Subnets)
    }
}

/// A host that is not of the cluster, see [`super::Builder::outside`].
pub(super) const OUTSIDE: [&str; 2] = ["203.0.113.9", "2001:db8::9"];

/// Link MTUs of a wire.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mtus {
    pub(super) uplinks: u32,
    /// Between the routers.
    pub(super) middle: u32,
}

/// The namespaces and links of a wire, ready to be made by one run of `ip`.
pub(super) struct Plan {
    /// Run in the lab owner's own namespace.
    pub(super) creation: Vec<String>,
    /// What is neither node nor cable.
    pub(super) middle: Middle,
    /// The host outside, to be configured by these lines.
    pub(super) outside: Option<(Namespace, Vec<String>)>,
}

/// What stands between the nodes.
pub(super) enum Middle {
    Nothing,
    /// A bridge and its ports.
    Switch(Namespace, Vec<String>),
    Routers(Routers),
}

impl Wire {
    pub(super) fn plan(self, lab: &str, nodes: &[Node], mtus: Mtus, outside: Option<Namespace>) -> Plan {
        let mut creation: Vec<_> =
            nodes.iter().map(|node| format!("netns add {}", node.namespace().name())).collect();
        creation.extend(outside.iter().map(|outside| format!("netns add {}", outside.name())));
        let (middle, gateways) = match self {
            Self::Cable => {
                if let [one, two] = nodes {
                    creation.push(link(one.namespace(), UPLINK, two.namespace(), mtus.uplinks));
                }
                (Middle::Nothing, Vec::new())
            }
            Self::Switch => {
                let switch = Namespace::named(format!("pl{lab}-switch"));
                creation.push(format!("netns add {}", switch.name()));
                let hosts: Vec<_> = nodes.iter().map(Node::namespace).chain(&outside).collect();
                let ports: Vec<_> = (1..=hosts.len()).map(|number| format!("port{number}")).collect();
                let to_switch =
                    hosts.iter().zip(&ports).map(|(host, port)| link(host, port, &switch, mtus.uplinks));
                creation.extend(to_switch);
                // The host outside is the nodes' default gateway at the same time.
                let gateways = gateways(nodes.first());
                let mut lines = vec![format!("link set {UPLINK} up")];
                lines.extend(
                    own_addresses(nodes).map(|address| format!("address add {address} dev lo nodad")),
                );
                for gateway in gateways {
                    let subnet = format!("{}/{}", gateway.network(), gateway.prefix());
                    let own = own_addresses(nodes).find(|own| own.contains(':') == gateway.is_ipv6());
                    lines.push(format!("address add {gateway} dev {UPLINK} nodad noprefixroute"));
                    lines.extend(own.map(|own| format!("route add {subnet} dev {UPLINK} src {own}")));
                }
                (Middle::Switch(switch, ports), lines)
            }
            Self::Routed | Self::Subnets => {
                let routers = Routers::plan(lab, nodes, self == Self::Routed, outside.as_ref());
                creation.extend(routers.creation(nodes, mtus, outside.as_ref()));
                (Middle::Routers(routers), router::outside_lines(nodes))
            }
        };
        Plan { creation, middle, outside: outside.map(|outside| (outside, gateways)) }
    }
}

/// The addresses of the host outside in the families that the nodes have.
fn own_addresses(nodes: &[Node]) -> impl Iterator<Item = &'static str> {
    let v6 = has_ipv6(nodes);
    OUTSIDE.into_iter().filter(move |address| v6 || !address.contains(':'))
}

pub(super) fn has_ipv6(nodes: &[Node]) -> bool {
    nodes.iter().any(|node| node.networks().iter().any(IpNetwork::is_ipv6))
}

/// The first addresses of a node's subnets, with their lengths: its default gateways, where there are any.
pub(super) fn gateways(node: Option<&Node>) -> Vec<IpNetwork> {
    let first = |network: &IpNetwork| IpNetwork::new(network.iter().nth(1)?, network.prefix()).ok();
    node.into_iter().flat_map(Node::networks).filter_map(first).collect()
}

/// The line that connects `host`, by its uplink, to `port` of `other`.
pub(super) fn link(host: &Namespace, port: &str, other: &Namespace, mtu: u32) -> String {
    format!(
        "link add {UPLINK} mtu {mtu} netns {} type veth peer name {port} mtu {mtu} netns {}",
        host.name(),
        other.name(),
    )
}

/// Brings a switch up: its bridge forwards at once, as it runs no spanning tree.
pub(super) fn start_switch(switch: &Namespace, ports: &[String], mtu: u32) -> anyhow::Result<()> {
    let mut lines = vec![format!("link add switch mtu {mtu} type bridge"), "link set switch up".to_owned()];
    lines.extend(ports.iter().map(|port| format!("link set {port} master switch up")));
    switch.ip(&lines)?;
    finish_checksums(switch, ports)
}

/// A real wire carries finished checksums. A veth leaves them to be done by hardware, which XDP knows nothing of.
pub(super) fn finish_checksums(namespace: &Namespace, devices: &[String]) -> anyhow::Result<()> {
    for device in devices {
        namespace.command(["ethtool", "-K", device, "tx", "off"]).read()?;
    }
    Ok(())
}

/// Duplicate address detection would leave a device without a usable IPv6 address for two seconds.
pub(super) fn skip_address_detection(namespace: &Namespace, devices: &[String]) -> anyhow::Result<()> {
    for device in devices {
        namespace.sysctl(&format!("net/ipv6/conf/{device}/accept_dad"), "0")?;
    }
    Ok(())
}
