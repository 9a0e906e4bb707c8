//! From a classic network to Podlane, one node after the other: docs/migration.md.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, ensure};
use podlane_tests::lab::{Between, Builder, Pod, Wire};
use podlane_tests::probe::{failures, ping, source};
use podlane_tests::{Binaries, Lab};

const PODS: [&str; 2] = ["a", "b"];

/// Every pod reaches every pod, in both directions, by ICMP and TCP, and is seen with its own address.
fn everybody_reaches_everybody(lab: &Lab, when: &str) -> anyhow::Result<()> {
    let pairs = lab.pod_pairs();
    ensure!(pairs.len() == 30, "{when}: {} pairs", pairs.len());
    let mut failed = failures(&ping::ping_pairs(&pairs, || {}));
    failed.extend(failures(&source::check_pairs(&pairs, || {})));
    ensure!(failed.is_empty(), "{when}: {}", failed.join("\n"));
    // And the nodes' own addresses, of either kind of node.
    for pod in lab.pods() {
        for node in lab.nodes().iter().filter(|node| node.name() != pod.node()) {
            let address = node.addresses().next().context("an address")?;
            ping::ping(pod.namespace(), address)
                .with_context(|| format!("{when}: {} to {address}", pod.label()))?;
        }
    }
    Ok(())
}

/// A connection between two nodes that stays open while another node is migrated.
struct Connection(TcpStream, TcpStream);

impl Connection {
    fn open(client: &Pod, server: &Pod) -> anyhow::Result<Self> {
        let ((accepted, _), outgoing) =
            source::connect(client.namespace(), server.namespace(), server.address())?;
        Ok(Self(accepted, outgoing))
    }

    fn passes_data(&mut self) -> anyhow::Result<()> {
        for (mut from, mut to) in [(&self.0, &self.1), (&self.1, &self.0)] {
            from.write_all(&[7; 3000])?;
            to.read_exact(&mut [0; 3000]).context("a connection between other nodes has died")?;
        }
        Ok(())
    }
}

fn node_by_node(lab: Builder, between: Between, by: &str) -> anyhow::Result<()> {
    let binaries = Binaries::find()?;
    let mut lab = lab.nodes(3).classic_before_podlane(binaries.clone(), between).build()?;
    for node in lab.nodes() {
        node.add_pods(&PODS)?;
    }
    everybody_reaches_everybody(&lab, "before")?;
    for number in 1..=3 {
        let others: Vec<Pod> =
            lab.pods().into_iter().filter(|pod| pod.node() != format!("node{number}")).collect();
        let [one, .., two] = &*others else { anyhow::bail!("no other pods") };
        ensure!(one.node() != two.node());
        let mut connection = Connection::open(one, two)?;
        connection.passes_data()?;
        // Drained, turned over, its pods come back.
        lab.node(number).del_pods(&PODS)?;
        lab.migrate(number, &binaries)?;
        connection.passes_data()?;
        lab.node(number).ready_pods(PODS)?;
        everybody_reaches_everybody(&lab, &format!("with node {number} migrated"))?;
        connection.passes_data()?;
        // Nothing is wrong by the agents of either kind of peer, and the fast path carries it already.
        for node in &lab.nodes()[..number] {
            let (status, _) = node.agent()?.status()?;
            ensure!(status["problems"] == serde_json::json!([]), "{status}");
            let peers = status["peers"].as_array().context("peers")?;
            ensure!(peers.len() == 2 && peers.iter().all(|peer| peer["state"] == by), "{status}");
            let verdict = if by == "tunnel" { "to-tunnel" } else { "to-peer" };
            let counters = status["counters"].as_array().context("counters")?;
            let forwarded = counters.iter().filter(|counter| counter["verdict"] == verdict);
            let packets: u64 = forwarded.filter_map(|counter| counter["packets"].as_u64()).sum();
            ensure!(packets > 0, "no packet to {verdict}: {status}");
        }
    }
    Ok(())
}

#[test]
fn from_bridges_and_static_routes_node_by_node() -> anyhow::Result<()> {
    node_by_node(Lab::builder(), Between::Routes, "direct")
}

#[test]
fn from_flannels_vxlan_node_by_node_on_one_segment() -> anyhow::Result<()> {
    node_by_node(Lab::builder().agent_setting("tunnel", "always"), Between::Vxlan, "tunnel")
}

#[test]
fn from_flannels_vxlan_node_by_node_across_subnets() -> anyhow::Result<()> {
    node_by_node(Lab::builder().wire(Wire::Subnets), Between::Vxlan, "tunnel")
}

#[test]
fn with_xdp_at_the_uplinks_too() -> anyhow::Result<()> {
    let lab = Lab::builder().wire(Wire::Subnets).agent_setting("xdp", "generic");
    node_by_node(lab, Between::Vxlan, "tunnel")
}
