//! Next to netfilter: services as kube-proxy and the portmap plugin program them, from every place to every place,
//! while everything that they don't concern stays on the fast path.

use std::net::{IpAddr, SocketAddr};

use anyhow::ensure;
use podlane_tests::lab::{Namespace, Node};
use podlane_tests::probe::path::{Family, Path};
use podlane_tests::probe::traffic::Traffic;
use podlane_tests::probe::verdicts::Verdicts;
use podlane_tests::probe::{counters, pins};
use podlane_tests::services::{Rules, Service};
use podlane_tests::{Cells, Lab, Topology};

/// Who asks. The backend is on node 1.
struct Client<'a> {
    name: &'static str,
    namespace: &'a Namespace,
    /// Its own addresses: what the backend should see where nobody is to change it.
    own: Vec<IpAddr>,
}

/// How the client knows the service.
struct Access {
    name: &'static str,
    service: SocketAddr,
    /// Whether the rules are to hide the client from the backend.
    masquerades: fn(&Client<'_>) -> bool,
}

const TRAFFIC: [Traffic; 4] = [Traffic::TcpSmall, Traffic::TcpBulk, Traffic::Udp, Traffic::Sctp];

/// The pod itself: it must not see its own address.
fn is_backend(client: &Client<'_>) -> bool {
    client.name == "backend"
}

fn accesses(service: &Service, lab: &Lab) -> anyhow::Result<Vec<Access>> {
    let (one, two) = (lab.node(1), lab.node(2));
    Ok(vec![
        Access {
            name: "cluster-ip",
            service: service.cluster_ip(),
            // Hosts' addresses are none of the pods'.
            masquerades: |client| is_backend(client) || client.name.ends_with("node"),
        },
        Access { name: "node-port", service: service.node_port(one)?, masquerades: |_| true },
        Access { name: "node-port-of-other", service: service.node_port(two)?, masquerades: |_| true },
        Access { name: "host-port", service: service.host_port(one)?, masquerades: is_backend },
    ])
}

fn run(topology: Topology, rules: Rules, xdp: &str) -> anyhow::Result<()> {
    let lab = topology.lab()?.outside().agent_setting("xdp", xdp).build()?;
    let [backend, neighbour] = lab.node(1).ready_pods(["backend", "neighbour"])?;
    let [remote] = lab.node(2).ready_pods(["remote"])?;
    let pod =
        |name, pod: &podlane_tests::lab::Pod| (name, pod.namespace().clone(), pod.addresses().collect());
    let node = |name, node: &Node| (name, node.namespace().clone(), node.addresses().collect());
    let clients: [(_, Namespace, Vec<IpAddr>); 6] = [
        pod("backend", &backend),
        pod("same-node", &neighbour),
        pod("other-node", &remote),
        node("own-node", lab.node(1)),
        node("remote-node", lab.node(2)),
        ("outside", lab.outside()?.clone(), vec!["203.0.113.9".parse()?, "2001:db8::9".parse()?]),
    ];
    let mut cells = Cells::default();
    let mut expected = 0;
    for family in Family::BOTH {
        let service = Service::of(&backend, family)?;
        for node in lab.nodes() {
            service.set(rules, node, node.name() == backend.node())?;
        }
        for (name, namespace, own) in &clients {
            let client = Client { name, namespace, own: own.clone() };
            for access in accesses(&service, &lab)? {
                // Cluster IPs are for the cluster.
                if client.name == "outside" && access.name == "cluster-ip" {
                    continue;
                }
                for traffic in TRAFFIC {
                    let words =
                        [family.name(), topology.name(), rules.name(), access.name, name, traffic.name()];
                    expected += 1;
                    let outcome = cell(traffic, &client, &access, backend.namespace(), &service);
                    cells.check(words.join("/"), outcome);
                }
            }
        }
        // Fragments are told from others by the stack only.
        for (place, server) in [("same-node", &neighbour), ("other-node", &remote)] {
            expected += 1;
            let words = [family.name(), topology.name(), "beside", place, Traffic::Fragments.name()];
            let path = Path::between(&backend, server, family)?;
            cells.check(words.join("/"), Traffic::Fragments.send(&path).map(|_| ()));
        }
        // Beside these flows others take the fast path, on the same nodes.
        for (place, client, server) in
            [("same-node", &neighbour, &backend), ("other-node", &remote, &neighbour)]
        {
            for traffic in [Traffic::TcpSmall, Traffic::Udp, Traffic::Icmp] {
                expected += 1;
                let words = [family.name(), topology.name(), "beside", place, traffic.name()];
                let path = Path::between(client, server, family)?;
                cells.check(words.join("/"), stays_on_the_fast_path(&lab, traffic, &path));
            }
        }
    }
    cells.finish(expected)?;
    ensure!(gate_is_open(lab.node(1))?, "the gate is shut though flows went through the stack");
    ensure!(flows(lab.node(1))? > 0, "no flow has been noted");
    Ok(())
}

fn cell(
    traffic: Traffic,
    client: &Client<'_>,
    access: &Access,
    backend: &Namespace,
    service: &Service,
) -> anyhow::Result<()> {
    let seen =
        traffic.send(&Path::by_service(client.namespace, access.service, backend, service.listen()))?;
    let is_own = client.own.contains(&seen);
    if (access.masquerades)(client) {
        // A node may stand for itself.
        ensure!(!is_own || client.name.ends_with("node"), "the backend sees the client's own {seen}");
    } else if client.name == "own-node" {
        // From the gateway's address, which is the node's as well: the kernel's choice by the pod's route.
        ensure!(seen != service.listen().ip(), "the backend sees itself");
    } else {
        ensure!(is_own, "the backend sees {seen}, not one of {:?}", client.own);
    }
    Ok(())
}

fn stays_on_the_fast_path(lab: &Lab, traffic: Traffic, path: &Path<'_>) -> anyhow::Result<()> {
    let before = counters::forwarded_by(lab.nodes())?;
    traffic.send(path)?;
    let after = counters::forwarded_by(lab.nodes())?;
    ensure!(after == before, "the nodes' kernels forwarded packets: {before:?} and then {after:?}");
    Ok(())
}

fn gate_is_open(node: &Node) -> anyhow::Result<bool> {
    Ok(pins::flow_gate(node.agent()?)? != 0)
}

/// How many flows are noted to go through the stack.
fn flows(node: &Node) -> anyhow::Result<usize> {
    let count = |map| anyhow::Ok(pins::entries(node.agent()?, map)?.len());
    Ok(count("stack_flows4")? + count("stack_flows6")?)
}

#[test]
fn iptables_direct() -> anyhow::Result<()> {
    run(Topology::Direct, Rules::IptablesNft, "off")
}

#[test]
fn iptables_direct_xdp() -> anyhow::Result<()> {
    run(Topology::Direct, Rules::IptablesNft, "native")
}

#[test]
fn iptables_legacy_direct_xdp() -> anyhow::Result<()> {
    run(Topology::Direct, Rules::IptablesLegacy, "generic")
}

#[test]
fn iptables_vxlan_xdp() -> anyhow::Result<()> {
    run(Topology::Vxlan, Rules::IptablesNft, "native")
}

#[test]
fn nftables_direct() -> anyhow::Result<()> {
    run(Topology::Direct, Rules::Nftables, "off")
}

#[test]
fn nftables_routed() -> anyhow::Result<()> {
    run(Topology::Routed, Rules::Nftables, "off")
}

#[test]
fn nftables_vxlan() -> anyhow::Result<()> {
    run(Topology::Vxlan, Rules::Nftables, "off")
}

#[test]
fn packets_that_went_into_the_stack_as_they_leave_it_are_not_noted() -> anyhow::Result<()> {
    for attach in ["tcx", "clsact"] {
        let lab = Topology::Direct.lab()?.agent_setting("attach", attach).build()?;
        let [client, neighbour] = lab.node(1).ready_pods(["client", "neighbour"])?;
        let [remote] = lab.node(2).ready_pods(["remote"])?;
        for server in [&neighbour, &remote] {
            // An IP option: the programs pass it.
            client.exec(["ping", "-c", "3", "-i", "0.05", "-R", &server.address().to_string()])?;
        }
        for node in lab.nodes() {
            ensure!(!gate_is_open(node)?, "{attach}, {}: the gate is open without any rules", node.name());
        }
        let passed = Verdicts::on(lab.node(1))?.packets("from_pod", "pass-options");
        ensure!(passed >= 6, "{attach}: {passed} packets with options");
    }
    Ok(())
}

/// Pods, nodes and the outside talk, and nothing is ever looked up for it.
fn without_rules(topology: Topology) -> anyhow::Result<()> {
    let lab = topology.lab()?.outside().build()?;
    let [client, neighbour] = lab.node(1).ready_pods(["client", "neighbour"])?;
    let [remote] = lab.node(2).ready_pods(["remote"])?;
    let outside = ["203.0.113.9".parse()?, "2001:db8::9".parse()?];
    let mut cells = Cells::default();
    for family in Family::BOTH {
        let pod = family.of(&client)?;
        let paths = [
            ("same-node", Path::between(&client, &neighbour, family)?),
            ("other-node", Path::between(&client, &remote, family)?),
            ("own-node", Path::new(lab.node(1).namespace(), client.namespace(), pod)),
            ("remote-node", Path::new(lab.node(2).namespace(), client.namespace(), pod)),
            ("outside", Path::new(client.namespace(), lab.outside()?, family.pick(outside)?)),
        ];
        for (place, path) in paths {
            for traffic in Traffic::ALL {
                if place == "outside" && traffic == Traffic::Fragments {
                    // From a link with a larger MTU than the pods': the first one is lost to path MTU discovery.
                    continue;
                }
                let words = [family.name(), topology.name(), place, traffic.name()];
                cells.check(words.join("/"), traffic.send(&path).map(|_| ()));
            }
        }
    }
    cells.finish(2 * (5 * Traffic::ALL.len() - 1))?;
    for node in lab.nodes() {
        ensure!(!gate_is_open(node)?, "{}: the gate is open without any rules", node.name());
        ensure!(flows(node)? == 0, "{}: flows are noted without any rules", node.name());
    }
    Ok(())
}

#[test]
fn without_rules_the_gate_stays_shut_direct() -> anyhow::Result<()> {
    without_rules(Topology::Direct)
}

#[test]
fn without_rules_the_gate_stays_shut_vxlan() -> anyhow::Result<()> {
    without_rules(Topology::Vxlan)
}
