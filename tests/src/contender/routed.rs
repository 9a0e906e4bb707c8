//! Kernel routing without a bridge: a route and a permanent neighbour for each pod, as Calico and Podlane's own slow
//! path do. Nothing has to be resolved, nothing is flooded: the best that the kernel alone can do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};

use super::Endpoint;
use super::plugins::{forward, route_directly};
use crate::lab::{Builder, Lab, Node, UPLINK};

/// The device at the other end of every pod's link; the next hop it answers for is never asked for.
const HOST_MAC: &str = "02:00:00:00:01:01";
const GATEWAYS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1)), IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1))];
const OVERLAY: &str = "flannel.1";
/// What VXLAN over IPv4 takes of the wire's 1500.
const OVERLAY_MTU: u32 = 1450;

/// Flannel's `host-gw`: the next hop of a pod CIDR is its node.
pub(super) fn host_gw(lab: Builder) -> Result<(Lab, [Endpoint; 3])> {
    let lab = lab.build()?;
    forward(&lab)?;
    route_directly(&lab)?;
    let pods = pods(&lab, 1500)?;
    Ok((lab, pods))
}

/// Flannel's default: one VXLAN device a node, its peers' addresses all known beforehand.
pub(super) fn vxlan(lab: Builder) -> Result<(Lab, [Endpoint; 3])> {
    let lab = lab.build()?;
    forward(&lab)?;
    let mac = |number: usize| format!("02:00:00:00:02:{number:02x}");
    for (index, node) in lab.nodes().iter().enumerate() {
        let own = node.addresses().find(IpAddr::is_ipv4).context("a node has no IPv4 address")?;
        let mut lines = vec![
            format!(
                "link add {OVERLAY} address {} mtu {OVERLAY_MTU} type vxlan id 1 dev {UPLINK} local {own} dstport 8472 nolearning",
                mac(index + 1)
            ),
            format!("link set {OVERLAY} addrgenmode none"),
        ];
        for cidr in node.pod_cidrs() {
            let nodad = if cidr.is_ipv6() { " nodad" } else { "" };
            lines.push(format!("address add {} dev {OVERLAY}{nodad}", cidr.network()));
        }
        lines.push(format!("link set {OVERLAY} up"));
        for (other, peer) in lab.nodes().iter().enumerate().filter(|(other, _)| *other != index) {
            for cidr in peer.pod_cidrs() {
                let router = cidr.network();
                lines.push(format!(
                    "neighbour replace {router} lladdr {} dev {OVERLAY} nud permanent",
                    mac(other + 1)
                ));
                lines.push(format!("route add {cidr} via {router} dev {OVERLAY} onlink"));
            }
        }
        node.namespace().ip(&lines)?;
        for (other, peer) in lab.nodes().iter().enumerate().filter(|(other, _)| *other != index) {
            let far = peer.addresses().find(IpAddr::is_ipv4).context("a node has no IPv4 address")?;
            let (mac, far) = (mac(other + 1), far.to_string());
            node.exec(["bridge", "fdb", "append", &mac, "dev", OVERLAY, "dst", &far])?;
        }
    }
    let pods = pods(&lab, OVERLAY_MTU)?;
    Ok((lab, pods))
}

fn pods(lab: &Lab, mtu: u32) -> Result<[Endpoint; 3]> {
    Ok([
        pod(lab.node(1), "client", 2, mtu)?,
        pod(lab.node(1), "server", 3, mtu)?,
        pod(lab.node(2), "server", 2, mtu)?,
    ])
}

/// The host-side interface of the pod called `name`.
pub(super) fn interface(name: &str) -> String {
    format!("pod-{name}")
}

/// The pod with that number in its node's pod CIDRs.
fn pod(node: &Node, name: &str, number: u16, mtu: u32) -> Result<Endpoint> {
    let namespace = node.make_sandbox(name)?.namespace;
    let (device, mac) = (interface(name), format!("02:00:00:00:03:{number:02x}"));
    let mut host = vec![
        format!(
            "link add {device} address {HOST_MAC} mtu {mtu} type veth peer name eth0 address {mac} mtu {mtu} netns {}",
            namespace.name()
        ),
        format!("link set {device} up"),
    ];
    let mut inside = vec!["link set eth0 up".to_owned()];
    let mut addresses = Vec::new();
    for cidr in node.pod_cidrs() {
        let address = match cidr.network() {
            IpAddr::V4(network) => IpAddr::from(Ipv4Addr::from(u32::from(network) + u32::from(number))),
            IpAddr::V6(network) => IpAddr::from(Ipv6Addr::from(u128::from(network) + u128::from(number))),
        };
        let gateway = GATEWAYS[usize::from(address.is_ipv6())];
        host.push(format!("route add {address} dev {device}"));
        host.push(format!("neighbour replace {address} lladdr {mac} dev {device} nud permanent"));
        inside
            .push(format!("address add {address} dev eth0{}", if address.is_ipv6() { " nodad" } else { "" }));
        inside.push(format!("neighbour replace {gateway} lladdr {HOST_MAC} dev eth0 nud permanent"));
        inside.push(format!("route add {gateway} dev eth0"));
        inside.push(format!("route add default via {gateway} dev eth0"));
        addresses.push(address);
    }
    node.namespace().ip(&host)?;
    namespace.ip(&inside)?;
    Ok(Endpoint { namespace, addresses })
}
