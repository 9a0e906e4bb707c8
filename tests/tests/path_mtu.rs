//! Errors that the network owes its users: what is too big, too far, not there. All of them reach the pod, from the
//! right address, on the fast path, beside flows that go through the stack, and without any program.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, ensure};
use nix::errno::Errno;
use podlane_tests::lab::{Node, Pod};
use podlane_tests::probe::path::{Family, Path};
use podlane_tests::probe::{pins, tcp, udp};
use podlane_tests::services::{Rules, Service};
use podlane_tests::{Binaries, Cells, Lab, Topology};

/// The link in the middle.
const SMALL: u32 = 1400;

struct Fixture {
    lab: Lab,
    client: Pod,
    server: Pod,
    /// What the overlay takes of a link's MTU.
    overhead: u32,
}

fn fixture(topology: Topology, outer: Family) -> anyhow::Result<Fixture> {
    let builder = topology.lab()?;
    let builder = match topology {
        Topology::Direct => builder,
        Topology::Routed | Topology::Vxlan => builder.middle_mtu(SMALL),
    };
    // Ethernet, VXLAN, UDP and an IP header around a packet.
    let (lab, overhead) = match outer {
        Family::V4 => (builder.build()?, 50),
        Family::V6 => {
            let lab = builder.podlane_stopped(Binaries::find()?).build()?;
            let mut cluster = lab.cluster();
            for node in &mut cluster.nodes {
                node.addresses.retain(IpAddr::is_ipv6);
            }
            lab.write_cluster(&cluster)?;
            lab.start_agents()?;
            (lab, 70)
        }
    };
    let [client] = lab.node(1).ready_pods(["client"])?;
    let [server] = lab.node(2).ready_pods(["server"])?;
    Ok(Fixture { lab, client, server, overhead })
}

impl Fixture {
    /// Makes a service with the client's pod as its backend, and asks it: flows go through the stack from now on.
    fn open_gate(&self) -> anyhow::Result<()> {
        for family in Family::BOTH {
            let service = Service::of(&self.client, family)?;
            for node in self.lab.nodes() {
                service.set(Rules::Nftables, node, node.name() == self.client.node())?;
            }
            let path = Path::by_service(
                self.server.namespace(),
                service.cluster_ip(),
                self.client.namespace(),
                service.listen(),
            );
            tcp::small(&path)?;
        }
        for node in self.lab.nodes() {
            let gate = pins::flow_gate(node.agent()?)?;
            // Only the node that rewrites has to know.
            ensure!(
                node.name() == self.client.node() || matches!(gate, 1 | 3),
                "{}: flow_gate is {gate}",
                node.name()
            );
        }
        Ok(())
    }

    fn detach(&self) -> anyhow::Result<()> {
        for node in self.lab.nodes() {
            node.agent()?.stop()?;
            ensure!(pins::detach_all(node.agent()?)? > 0, "there was no program to detach");
        }
        Ok(())
    }
}

/// All addresses that stand for a node: its own and its gateways'.
fn addresses_of(node: &Node) -> Vec<IpAddr> {
    let gateways = node.pod_cidrs().iter().filter_map(|cidr| cidr.iter().nth(1));
    node.addresses().chain(gateways).collect()
}

fn to_pod<'a>(client: &'a Pod, server: &'a Pod, family: Family) -> anyhow::Result<Path<'a>> {
    Path::between(client, server, family)
}

/// What is there, but does not listen; what is not there at all.
fn unreachable(fixture: &Fixture, family: Family) -> anyhow::Result<()> {
    let path = to_pod(&fixture.client, &fixture.server, family)?;
    let closed = SocketAddr::new(path.listen.ip(), 9);
    let refusal = udp::refusal(&path, closed, 100, None, || false)?.context("nothing said")?;
    ensure!(
        refusal.error == Errno::ECONNREFUSED && refusal.offender == Some(closed.ip()),
        "a closed port: {refusal:?}"
    );
    for node in fixture.lab.nodes() {
        let cidr = node.pod_cidrs().iter().find(|cidr| cidr.is_ipv4() == (family == Family::V4));
        let unused = cidr.and_then(|cidr| cidr.iter().nth(200)).context("a small pod CIDR")?;
        let refusal =
            udp::refusal(&path, (unused, 9).into(), 100, None, || false)?.context("nothing said")?;
        let expected = matches!(refusal.error, Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::EACCES);
        let by_its_node = refusal.offender.is_some_and(|who| addresses_of(node).contains(&who));
        ensure!(expected && by_its_node, "{unused} on {}: {refusal:?}", node.name());
    }
    Ok(())
}

/// The hops between the pods as `traceroute` shows them, the server's own address not among them.
fn hops(fixture: &Fixture, family: Family) -> anyhow::Result<Vec<IpAddr>> {
    let target = family.of(&fixture.server)?;
    let command = ["traceroute", "-n", "-q", "1", "-w", "2", "-N", "1", "-m", "8", &target.to_string()];
    let text = fixture.client.exec(command)?;
    // `traceroute to …`, then ` 1  10.244.1.1  0.050 ms`; `*` where nobody answers.
    let hops = text.lines().skip(1).map(|line| {
        let hop = line.split_whitespace().nth(1).unwrap_or_default();
        hop.parse::<IpAddr>().with_context(|| format!("nobody answers at a hop:\n{text}"))
    });
    let mut hops = hops.collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(hops.pop() == Some(target), "the server was not reached:\n{text}");
    Ok(hops)
}

fn check_hops(fixture: &Fixture, topology: Topology, family: Family) -> anyhow::Result<()> {
    let hops = hops(fixture, family)?;
    let mut expected = vec![addresses_of(fixture.lab.node(1))];
    if topology == Topology::Routed {
        // The routers: the first one's address towards the node, the second one's towards the first.
        expected.push(vec!["192.168.1.1".parse()?, "fd00:1::1".parse()?]);
        expected.push(vec!["172.31.0.2".parse()?, "fd00:31::2".parse()?]);
    }
    expected.push(addresses_of(fixture.lab.node(2)));
    let matches = hops.len() == expected.len()
        && hops.iter().zip(&expected).all(|(hop, expected)| expected.contains(hop));
    ensure!(matches, "{hops:?} instead of one each of {expected:?}");
    Ok(())
}

/// With the largest packets that the pod's own link takes.
fn too_big(fixture: &Fixture, topology: Topology, stack: Stack, family: Family) -> anyhow::Result<()> {
    let path = to_pod(&fixture.client, &fixture.server, family)?;
    let sink = udp::sink(&path)?;
    let path_mtu = match topology {
        Topology::Direct => 1500,
        Topology::Routed => SMALL,
        Topology::Vxlan => SMALL - fixture.overhead,
    };
    let link_mtu = if topology == Topology::Vxlan { 1500 - fixture.overhead } else { 1500 };
    let fitting = |mtu: u32| anyhow::Ok(usize::try_from(mtu)? - family.header_len() - 8);
    let target = sink.local_addr()?;
    // Larger than the pod's link: its own kernel refuses.
    let refusal = udp::refusal(&path, target, fitting(link_mtu)? + 1, None, || udp::arrived(&sink))?;
    let refusal = refusal.context("a datagram larger than the pod's link arrived")?;
    ensure!(refusal.error == Errno::EMSGSIZE, "larger than the link: {refusal:?}");
    if path_mtu < link_mtu {
        let size = fitting(link_mtu)?;
        if (topology, stack) == (Topology::Vxlan, Stack::Only) {
            // Nobody is there to hear of it under the overlay: the kernel's tunnel has the packet arrive in pieces.
            let refusal = udp::refusal(&path, target, size, None, || udp::arrived(&sink))?;
            ensure!(refusal.is_none(), "larger than the path, without programs: {refusal:?}");
        } else {
            let told = udp::refusal_in_time(&path, target, size)?;
            ensure!(told.error == Errno::EMSGSIZE && told.info == path_mtu, "larger than the path: {told:?}");
            while udp::arrived(&sink) {}
        }
    }
    let fits = udp::refusal(&path, target, fitting(path_mtu)?, None, || udp::arrived(&sink))?;
    ensure!(fits.is_none(), "as large as the path takes: {fits:?}");
    Ok(())
}

fn run(topology: Topology, stack: Stack) -> anyhow::Result<()> {
    run_by(topology, stack, Family::V4)
}

/// With the overlay's outer packets of that family.
fn run_by(topology: Topology, stack: Stack, outer: Family) -> anyhow::Result<()> {
    let fixture = fixture(topology, outer)?;
    match stack {
        Stack::Unused => {}
        Stack::Used => fixture.open_gate()?,
        Stack::Only => fixture.detach()?,
    }
    let mut cells = Cells::default();
    for family in Family::BOTH {
        let mut check = |what: &str, outcome| {
            cells.check([family.name(), topology.name(), stack.name(), what].join("/"), outcome);
        };
        check("unreachable", unreachable(&fixture, family));
        check("traceroute", check_hops(&fixture, topology, family));
        // First TCP, which has to find the path's MTU by itself.
        let bulk = to_pod(&fixture.client, &fixture.server, family).and_then(|path| tcp::bulk(&path));
        check("tcp-bulk", bulk.map(|_| ()));
        check("too-big", too_big(&fixture, topology, stack, family));
    }
    cells.finish(2 * 4)
}

/// Which part the kernel's stack has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stack {
    /// No flow goes through it.
    Unused,
    /// Some flows go through it.
    Used,
    /// There is nothing else.
    Only,
}

impl Stack {
    const fn name(self) -> &'static str {
        match self {
            Self::Unused => "fast-path",
            Self::Used => "beside-stack-flows",
            Self::Only => "detached",
        }
    }
}

#[test]
fn direct() -> anyhow::Result<()> {
    run(Topology::Direct, Stack::Unused)
}

#[test]
fn direct_beside_stack_flows() -> anyhow::Result<()> {
    run(Topology::Direct, Stack::Used)
}

#[test]
fn direct_without_programs() -> anyhow::Result<()> {
    run(Topology::Direct, Stack::Only)
}

#[test]
fn routed() -> anyhow::Result<()> {
    run(Topology::Routed, Stack::Unused)
}

#[test]
fn routed_beside_stack_flows() -> anyhow::Result<()> {
    run(Topology::Routed, Stack::Used)
}

#[test]
fn routed_without_programs() -> anyhow::Result<()> {
    run(Topology::Routed, Stack::Only)
}

#[test]
fn vxlan() -> anyhow::Result<()> {
    run(Topology::Vxlan, Stack::Unused)
}

#[test]
fn vxlan_beside_stack_flows() -> anyhow::Result<()> {
    run(Topology::Vxlan, Stack::Used)
}

#[test]
fn vxlan_without_programs() -> anyhow::Result<()> {
    run(Topology::Vxlan, Stack::Only)
}

/// Nodes that know each other by IPv6 only.
#[test]
fn vxlan_over_ipv6() -> anyhow::Result<()> {
    run_by(Topology::Vxlan, Stack::Unused, Family::V6)
}
