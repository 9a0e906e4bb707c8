//! What connects the nodes.

use super::Namespace;

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
}

/// The namespaces and links of a wire, ready to be made by one run of `ip`.
pub(super) struct Plan {
    /// Run in the lab owner's own namespace.
    pub(super) creation: Vec<String>,
    /// The switch and its ports, if there is one.
    pub(super) switch: Option<(Namespace, Vec<String>)>,
}

impl Wire {
    pub(super) fn plan(self, lab: &str, nodes: &[Namespace], mtu: u32) -> Plan {
        let mut creation: Vec<_> = nodes.iter().map(|node| format!("netns add {}", node.name())).collect();
        let link = |node: &Namespace, port: &str, other: &Namespace| {
            format!(
                "link add {UPLINK} mtu {mtu} netns {} type veth peer name {port} mtu {mtu} netns {}",
                node.name(),
                other.name(),
            )
        };
        match self {
            Self::Cable => {
                if let [one, two] = nodes {
                    creation.push(link(one, UPLINK, two));
                }
                Plan { creation, switch: None }
            }
            Self::Switch => {
                let switch = Namespace::named(format!("pl{lab}-switch"));
                creation.push(format!("netns add {}", switch.name()));
                let ports: Vec<_> = (1..=nodes.len()).map(|number| format!("port{number}")).collect();
                creation.extend(nodes.iter().zip(&ports).map(|(node, port)| link(node, port, &switch)));
                Plan { creation, switch: Some((switch, ports)) }
            }
        }
    }
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
