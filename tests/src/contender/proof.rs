//! A contender that isn't what it says is worse than none: looks where its packets pass.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};

use super::{Contender, Endpoint, Kind, Pair};
use crate::bench::ping_pong::RoundTrips;
use crate::lab::{Lab, Namespace, Node};
use crate::probe::{counters, pins};

/// Round trips of the proof: enough that stray packets of the lab's own do not matter.
const ROUND_TRIPS: usize = 400;

/// What is looked at before and after.
struct Seen {
    forwarded: [u64; 2],
    overlay: [u64; 2],
}

impl Seen {
    fn now(lab: &Lab) -> Result<Self> {
        let both = |look: &dyn Fn(&Node) -> Result<u64>| -> Result<[u64; 2]> {
            Ok([look(lab.node(1))?, look(lab.node(2))?])
        };
        Ok(Self {
            forwarded: both(&|node| counters::forwarded(node.namespace()))?,
            overlay: both(&|node| {
                let devices = ["flannel.1", "podlane.vxlan"].map(|device| received(node.namespace(), device));
                let [kernel, podlane] = devices;
                Ok(kernel? + podlane?)
            })?,
        })
    }

    fn since(self, lab: &Lab) -> Result<Self> {
        let now = Self::now(lab)?;
        let less = |now: [u64; 2], before: [u64; 2]| [now[0] - before[0], now[1] - before[1]];
        Ok(Self { forwarded: less(now.forwarded, self.forwarded), overlay: less(now.overlay, self.overlay) })
    }
}

pub(super) fn prove(contender: &Contender) -> Result<Vec<String>> {
    let lab = contender.lab();
    let mut said = Vec::new();
    for (pair, across) in [(&contender.same_node, false), (&contender.across_nodes, true)] {
        for ipv6 in [false, true] {
            let (Some(client), Some(server)) = (pair.client.address(ipv6), pair.server.address(ipv6)) else {
                continue;
            };
            let way = format!(
                "{}, IPv{}",
                if across { "across nodes" } else { "same node" },
                if ipv6 { 6 } else { 4 }
            );
            let before = Seen::now(lab)?;
            RoundTrips::begin(pair, ipv6, true)?.make(ROUND_TRIPS).with_context(|| way.clone())?;
            let seen = before.since(lab)?;
            check_forwarding(contender, across, &seen).with_context(|| way.clone())?;
            check_tracking(contender, across, client, server).with_context(|| way.clone())?;
            said.push(format!(
                "{way}: {ROUND_TRIPS} round trips, forwarded by the kernels {}+{}, received by VXLAN devices {}+{}",
                seen.forwarded[0], seen.forwarded[1], seen.overlay[0], seen.overlay[1]
            ));
        }
    }
    match contender.kind {
        kind if kind.is_podlane() => said.extend(programs(contender)?),
        Kind::Classic | Kind::Bridge => said.push(bridged(lab.node(1), &contender.same_node)?),
        _ => {}
    }
    Ok(said)
}

/// Each round trip is two packets.
fn check_forwarding(contender: &Contender, across: bool, seen: &Seen) -> Result<()> {
    let packets = 2 * u64::try_from(ROUND_TRIPS)?;
    let by_kernel = match contender.kind {
        Kind::Wire | Kind::Floor => false,
        kind if kind.is_podlane() => false,
        // On one node the bridge carries them, below the IP layer's count.
        Kind::Classic | Kind::Bridge => across,
        _ => true,
    };
    let nodes = if across { &[0, 1][..] } else { &[0] };
    for node in nodes {
        let forwarded = seen.forwarded[*node];
        if by_kernel {
            ensure!(
                forwarded >= packets,
                "node{}'s kernel forwarded {forwarded} packets, not {packets}",
                node + 1
            );
        } else {
            ensure!(forwarded < packets / 20, "node{}'s kernel forwarded {forwarded} packets", node + 1);
        }
        let tunnelled = seen.overlay[*node];
        // Podlane's programs wrap and unwrap packets themselves: `programs` counts them.
        if contender.kind == Kind::Vxlan && across {
            ensure!(tunnelled >= packets / 2, "node{}'s VXLAN device received {tunnelled} packets", node + 1);
        } else {
            ensure!(tunnelled == 0, "node{}'s VXLAN device received {tunnelled} packets", node + 1);
        }
    }
    Ok(())
}

/// With netfilter, conntrack knows the flow on the first node, unless Podlane's programs carried it past.
fn check_tracking(contender: &Contender, across: bool, client: IpAddr, server: IpAddr) -> Result<()> {
    let node = contender.lab().node(1).namespace();
    let tracked = tracked(node, client, server)?;
    let bridged = matches!(contender.kind, Kind::Classic | Kind::Bridge) && !across;
    let expected = contender.netfilter && !contender.kind.is_podlane();
    if bridged && contender.netfilter && !bridge_calls_netfilter() {
        return Ok(());
    }
    ensure!(tracked == expected, "conntrack {} the flow", if tracked { "knows" } else { "does not know" });
    Ok(())
}

fn bridge_calls_netfilter() -> bool {
    std::path::Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists()
}

/// Whether conntrack has an entry for UDP between the two.
fn tracked(node: &Namespace, client: IpAddr, server: IpAddr) -> Result<bool> {
    let table = node.run(|| fs_err::read_to_string("/proc/thread-self/net/nf_conntrack"))?;
    // The file writes IPv6 addresses in full.
    let text = |address: IpAddr| match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => address.segments().map(|segment| format!("{segment:04x}")).join(":"),
    };
    let words = [" udp ".to_owned(), format!("src={} ", text(client)), format!("dst={} ", text(server))];
    // Kernels without conntrack have no such file, and no entries.
    Ok(table.unwrap_or_default().lines().any(|line| words.iter().all(|word| line.contains(word.as_str()))))
}

/// Packets that a device has received; 0 where it does not exist.
fn received(namespace: &Namespace, device: &str) -> Result<u64> {
    let table = namespace.run(|| fs_err::read_to_string("/proc/thread-self/net/dev"))??;
    let line = table.lines().find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':'));
    Ok(line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or_default())
}

/// Numbers in the map `counters` (docs/maps.md): 64 verdicts for each hook.
const TO_POD: u64 = 16;
const TO_PEER: u64 = 17;
const TO_OVERLAY: u64 = 18;
const FROM_WIRE: u64 = 64;
const XDP_FROM_WIRE: u64 = 192;

/// What the programs have counted on each node, and how they are attached.
fn programs(contender: &Contender) -> Result<Vec<String>> {
    let lab = contender.lab();
    let leaves = if contender.kind.has_overlay() { TO_OVERLAY } else { TO_PEER };
    let arrives = match contender.kind {
        Kind::PodlaneXdp | Kind::PodlaneXdpGeneric => XDP_FROM_WIRE,
        _ => FROM_WIRE,
    };
    let packets = 2 * u64::try_from(ROUND_TRIPS)?;
    lab.nodes()
        .iter()
        .map(|node| {
            let agent = node.agent()?;
            let counters = pins::entries(agent, "counters")?;
            let count = |wanted: u64| -> u64 {
                let entry = counters.iter().find(|entry| entry["key"].as_u64() == Some(wanted));
                let values = entry.and_then(|entry| entry["values"].as_array());
                values.into_iter().flatten().filter_map(|value| value["value"]["packets"].as_u64()).sum()
            };
            let (local, out, into) = (count(TO_POD), count(leaves), count(arrives + TO_POD));
            ensure!(
                out >= packets / 2 && into >= packets / 2 && (local >= packets || node.pods().len() < 2),
                "{}'s programs counted {local} packets to local pods, {out} to the peer, {into} from it",
                node.name()
            );
            let flows = pins::entries(agent, "stack_flows4")?.len();
            let gate = pins::flow_gate(agent)?;
            // A service is in use where there are rules for any.
            ensure!(
                (flows > 0) == contender.netfilter && (gate != 0) == contender.netfilter,
                "{}: {flows} flows through the stack, and flow_gate is {gate}",
                node.name()
            );
            let (status, _) = agent.status()?;
            Ok(format!(
                "{}: programs attached by {}; packets from pods to local pods {local}, to the peer {out}, from the wire to pods {into}; flows through the stack {flows}",
                node.name(),
                status["attach"].as_str().unwrap_or_default(),
            ))
        })
        .collect()
}

/// The bridge has learnt both pods' MAC addresses, on ports of their own.
fn bridged(node: &Node, pair: &Pair) -> Result<String> {
    let table = node.exec(["bridge", "fdb", "show", "br", "cni0"])?;
    let port = |endpoint: &Endpoint| -> Result<String> {
        let links = endpoint.namespace.command(["ip", "-brief", "link", "show", "eth0"]).read()?;
        let mac = links.split_whitespace().nth(2).context("eth0 has no MAC address")?.to_owned();
        let line = table.lines().find(|line| line.starts_with(&mac));
        let line = line.with_context(|| format!("the bridge does not know {mac}:\n{table}"))?;
        Ok(line.split_whitespace().nth(2).unwrap_or_default().to_owned())
    };
    let (one, other) = (port(&pair.client)?, port(&pair.server)?);
    ensure!(one != other, "the bridge has both pods on one port, {one}");
    Ok(format!("{}: the bridge knows the pods on its ports {one} and {other}", node.name()))
}
