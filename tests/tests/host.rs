//! Hosts and pods, the outside, and addresses that nobody has.

use std::net::IpAddr;

use anyhow::{Context as _, ensure};
use nix::errno::Errno;
use podlane_tests::lab::{Namespace, Node};
use podlane_tests::probe::path::{Family, Path};
use podlane_tests::probe::traffic::Traffic;
use podlane_tests::probe::udp;
use podlane_tests::{Cells, Lab, Topology};

const TRAFFIC: [Traffic; 4] = [Traffic::TcpSmall, Traffic::TcpBulk, Traffic::Udp, Traffic::Icmp];

/// All addresses that stand for a node: its own and its gateways'.
fn addresses_of(node: &Node) -> Vec<IpAddr> {
    let gateways = node.pod_cidrs().iter().filter_map(|cidr| cidr.iter().nth(1));
    node.addresses().chain(gateways).collect()
}

fn outside_address(family: Family) -> anyhow::Result<IpAddr> {
    family.pick(["203.0.113.9".parse()?, "2001:db8::9".parse()?])
}

/// An address in the node's pod CIDR that no pod has.
fn unused(node: &Node, family: Family) -> anyhow::Result<IpAddr> {
    let cidr = node.pod_cidrs().iter().find(|cidr| cidr.is_ipv4() == (family == Family::V4));
    cidr.and_then(|cidr| cidr.iter().nth(200)).context("a small pod CIDR")
}

fn run(topology: Topology, xdp: &str) -> anyhow::Result<()> {
    let lab = topology.lab()?.outside().agent_setting("xdp", xdp).build()?;
    let [pod] = lab.node(1).ready_pods(["pod"])?;
    let [remote] = lab.node(2).ready_pods(["remote"])?;
    let (one, two) = (lab.node(1), lab.node(2));
    let mut cells = Cells::default();
    for family in Family::BOTH {
        let own: Vec<IpAddr> = pod.addresses().collect();
        let of_pod = Path::new(one.namespace(), pod.namespace(), family.of(&pod)?);
        let cases = [
            ("node-to-its-pod", of_pod, addresses_of(one)),
            ("node-to-remote-pod", Path { client: two.namespace(), ..of_pod }, addresses_of(two)),
            (
                "pod-to-its-node",
                Path::new(pod.namespace(), one.namespace(), family.pick(one.addresses())?),
                own.clone(),
            ),
            (
                "pod-to-remote-node",
                Path::new(pod.namespace(), two.namespace(), family.pick(two.addresses())?),
                own.clone(),
            ),
            (
                "pod-to-its-gateway",
                Path::new(pod.namespace(), one.namespace(), family.pick(gateways(one))?),
                own.clone(),
            ),
            (
                "pod-to-remote-gateway",
                Path::new(pod.namespace(), two.namespace(), family.pick(gateways(two))?),
                own.clone(),
            ),
            // The node stands for its pods, outside.
            (
                "pod-to-outside",
                Path::new(pod.namespace(), lab.outside()?, outside_address(family)?),
                one.addresses().collect(),
            ),
            (
                "node-to-outside",
                Path::new(one.namespace(), lab.outside()?, outside_address(family)?),
                one.addresses().collect(),
            ),
            ("pod-to-pod", Path::between(&pod, &remote, family)?, own),
        ];
        for (place, path, expected) in cases {
            for traffic in TRAFFIC {
                let words = [family.name(), topology.name(), xdp, place, traffic.name()];
                cells.check(words.join("/"), cell(traffic, &path, &expected));
            }
        }
        for (who, from) in [
            ("pod", pod.namespace()),
            ("node", one.namespace()),
            ("remote-node", two.namespace()),
            ("remote-pod", remote.namespace()),
        ] {
            let words = [family.name(), topology.name(), xdp, "unreachable-from", who];
            cells.check(words.join("/"), is_unreachable(from, one, family));
        }
    }
    cells.finish(2 * (9 * TRAFFIC.len() + 4))
}

fn gateways(node: &Node) -> Vec<IpAddr> {
    node.pod_cidrs().iter().filter_map(|cidr| cidr.iter().nth(1)).collect()
}

fn cell(traffic: Traffic, path: &Path<'_>, expected: &[IpAddr]) -> anyhow::Result<()> {
    let seen = traffic.send(path)?;
    ensure!(expected.contains(&seen), "the server sees {seen}, not one of {expected:?}");
    Ok(())
}

/// An unused address of the node's says so itself, or its node does for it.
fn is_unreachable(from: &Namespace, node: &Node, family: Family) -> anyhow::Result<()> {
    let target = unused(node, family)?;
    let path = Path::new(from, from, target);
    let refusal = match udp::refusal(&path, (target, 9).into(), 100, None, || false) {
        Ok(refusal) => refusal.context("nobody said anything")?.error,
        // On the node itself the kernel refuses before anything is sent.
        Err(error) => {
            let errno =
                error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>()?.raw_os_error());
            Errno::from_raw(errno.ok_or(error)?)
        }
    };
    ensure!(matches!(refusal, Errno::EHOSTUNREACH | Errno::ENETUNREACH), "{target}: {refusal}");
    Ok(())
}

#[test]
fn direct() -> anyhow::Result<()> {
    run(Topology::Direct, "off")
}

#[test]
fn direct_xdp() -> anyhow::Result<()> {
    run(Topology::Direct, "native")
}

#[test]
fn routed() -> anyhow::Result<()> {
    run(Topology::Routed, "off")
}

#[test]
fn vxlan() -> anyhow::Result<()> {
    run(Topology::Vxlan, "off")
}

#[test]
fn vxlan_xdp() -> anyhow::Result<()> {
    run(Topology::Vxlan, "native")
}

#[test]
fn without_masquerade_the_outside_sees_the_pod() -> anyhow::Result<()> {
    let lab: Lab = Topology::Routed.lab()?.outside().agent_setting("masquerade", false).build()?;
    let [pod] = lab.node(1).ready_pods(["pod"])?;
    for family in Family::BOTH {
        // The routers know the way back.
        let path = Path::new(pod.namespace(), lab.outside()?, outside_address(family)?);
        for traffic in TRAFFIC {
            cell(traffic, &path, &[family.of(&pod)?])?;
        }
    }
    Ok(())
}

#[test]
fn a_pod_on_the_host_network_is_its_node() -> anyhow::Result<()> {
    let lab = Topology::Direct.lab()?.build()?;
    let (one, two) = (lab.node(1), lab.node(2));
    for family in Family::BOTH {
        let path = Path::new(one.namespace(), two.namespace(), family.pick(two.addresses())?);
        for traffic in TRAFFIC {
            cell(traffic, &path, &[family.pick(one.addresses())?])?;
        }
    }
    Ok(())
}
