//! Two routers between the nodes: the first node's subnet is behind one, everybody else's behind the other.

use super::wire::{
    Mtus, OUTSIDE, UPLINK, finish_checksums, gateways, has_ipv6, link, skip_address_detection,
};
use super::{Namespace, Node};

/// The routers' devices on the link between them.
const MIDDLE: &str = "middle";
/// The second router's device towards the host outside.
const OUT: &str = "outside";

/// Addresses on the link between the routers, and of the second one towards the outside.
const MIDDLE_ADDRESSES: [[&str; 2]; 2] = [["172.31.0.1", "172.31.0.2"], ["fd00:31::1", "fd00:31::2"]];
const OUT_ADDRESSES: [&str; 2] = ["203.0.113.1", "2001:db8::1"];

/// Both routers, ready to be started.
pub(super) struct Routers {
    both: [Router; 2],
}

pub(super) struct Router {
    namespace: Namespace,
    devices: Vec<String>,
    lines: Vec<String>,
}

impl Routers {
    pub(super) fn plan(lab: &str, nodes: &[Node], pod_routes: bool, outside: Option<&Namespace>) -> Self {
        let families = if has_ipv6(nodes) { 2 } else { 1 };
        let mut both = [1, 2].map(|number| Router {
            namespace: Namespace::named(format!("pl{lab}-router{number}")),
            devices: vec![MIDDLE.to_owned()],
            lines: Vec::new(),
        });
        let [first, second] = &mut both;
        for [one, two] in MIDDLE_ADDRESSES.into_iter().take(families) {
            first.lines.push(format!("address add {}/{} dev {MIDDLE} nodad", one, length(one)));
            second.lines.push(format!("address add {}/{} dev {MIDDLE} nodad", two, length(two)));
            first.lines.push(format!("route add default via {two} dev {MIDDLE} onlink"));
        }
        for (index, node) in nodes.iter().enumerate() {
            let port = port(index);
            let router = if index == 0 { &mut *first } else { &mut *second };
            router.devices.push(port.clone());
            for gateway in gateways(Some(node)) {
                router.lines.push(format!("address add {gateway} dev {port} nodad"));
            }
            for cidr in node.pod_cidrs().iter().filter(|_| pod_routes) {
                let next_hop = node.addresses().find(|address| address.is_ipv4() == cidr.is_ipv4());
                router.lines.extend(
                    next_hop.map(|next_hop| format!("route add {cidr} via {next_hop} dev {port} onlink")),
                );
            }
        }
        if let Some(node) = nodes.first() {
            let pod_cidrs = node.pod_cidrs().iter().filter(|_| pod_routes);
            for subnet in node.networks().iter().chain(pod_cidrs) {
                let [[via, _], [via6, _]] = MIDDLE_ADDRESSES;
                let via = if subnet.is_ipv4() { via } else { via6 };
                let subnet = format!("{}/{}", subnet.network(), subnet.prefix());
                second.lines.push(format!("route add {subnet} via {via} dev {MIDDLE} onlink"));
            }
        }
        if outside.is_some() {
            second.devices.push(OUT.to_owned());
            for address in OUT_ADDRESSES.into_iter().take(families) {
                second.lines.push(format!("address add {address}/{} dev {OUT} nodad", length(address)));
            }
        }
        for router in &mut both {
            // Addresses and routes need their devices up.
            let up = router.devices.iter().map(|device| format!("link set {device} up")).collect();
            let lines = std::mem::replace(&mut router.lines, up);
            router.lines.extend(lines);
        }
        Self { both }
    }

    /// The lines that make the namespaces and links.
    pub(super) fn creation(&self, nodes: &[Node], mtus: Mtus, outside: Option<&Namespace>) -> Vec<String> {
        let [first, second] = &self.both;
        let mut lines: Vec<_> =
            self.both.iter().map(|router| format!("netns add {}", router.namespace.name())).collect();
        lines.push(format!(
            "link add {MIDDLE} mtu {} netns {} type veth peer name {MIDDLE} mtu {} netns {}",
            mtus.middle,
            first.namespace.name(),
            mtus.middle,
            second.namespace.name(),
        ));
        for (index, node) in nodes.iter().enumerate() {
            let router = if index == 0 { first } else { second };
            lines.push(link(node.namespace(), &port(index), &router.namespace, mtus.uplinks));
        }
        lines.extend(outside.map(|outside| link(outside, OUT, &second.namespace, mtus.uplinks)));
        lines
    }

    pub(super) fn start(&self) -> anyhow::Result<()> {
        for router in &self.both {
            skip_address_detection(&router.namespace, &router.devices)?;
            router.namespace.sysctl("net/ipv4/ip_forward", "1")?;
            router.namespace.sysctl("net/ipv6/conf/all/forwarding", "1")?;
            router.namespace.ip(&router.lines)?;
            finish_checksums(&router.namespace, &router.devices)?;
        }
        Ok(())
    }
}

/// The lines that configure a host outside, behind the second router.
pub(super) fn outside_lines(nodes: &[Node]) -> Vec<String> {
    let families = if has_ipv6(nodes) { 2 } else { 1 };
    let mut lines = vec![format!("link set {UPLINK} up")];
    for (own, gateway) in OUTSIDE.into_iter().zip(OUT_ADDRESSES).take(families) {
        lines.push(format!("address add {own}/{} dev {UPLINK} nodad", length(own)));
        lines.push(format!("route add default via {gateway} dev {UPLINK} onlink"));
    }
    lines
}

fn port(index: usize) -> String {
    format!("port{}", index + 1)
}

/// The length of the subnets here.
fn length(address: &str) -> u8 {
    if address.contains(':') { 64 } else { 24 }
}
