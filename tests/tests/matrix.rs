//! Every kind of traffic, in every family, over every way between pods: at the pods' own addresses, and past the
//! kernel's forwarding.

use anyhow::{Context as _, ensure};
use podlane_tests::lab::Pod;
use podlane_tests::probe::path::{Family, Path};
use podlane_tests::probe::traffic::Traffic;
use podlane_tests::probe::verdicts::Verdicts;
use podlane_tests::probe::{counters, pins};
use podlane_tests::{Cells, Lab, Topology};

/// How the fast path is to be attached, or that it is to be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Programs {
    XdpOff,
    XdpGeneric,
    XdpNative,
    /// Every program is detached: the kernel's slow path alone.
    Detached,
}

impl Programs {
    const fn name(self) -> &'static str {
        match self {
            Self::XdpOff => "xdp-off",
            Self::XdpGeneric => "xdp-generic",
            Self::XdpNative => "xdp-native",
            Self::Detached => "detached",
        }
    }

    const fn setting(self) -> &'static str {
        match self {
            Self::XdpOff | Self::Detached => "off",
            Self::XdpGeneric => "generic",
            Self::XdpNative => "native",
        }
    }

    const fn has_xdp(self) -> bool {
        matches!(self, Self::XdpGeneric | Self::XdpNative)
    }
}

/// {IPv4, IPv6} × {same node, other node} × every kind of traffic.
const CELLS: usize = 2 * 2 * Traffic::ALL.len();

fn run(topology: Topology, programs: Programs) -> anyhow::Result<()> {
    let lab = topology.lab()?.agent_setting("xdp", programs.setting()).build()?;
    let [client, neighbour] = lab.node(1).ready_pods(["client", "neighbour"])?;
    let [remote] = lab.node(2).ready_pods(["remote"])?;
    if programs == Programs::Detached {
        for node in lab.nodes() {
            node.agent()?.stop()?;
            ensure!(pins::detach_all(node.agent()?)? > 0, "there was no program to detach");
        }
    }
    let before = verdicts(&lab, programs)?;
    let mut cells = Cells::default();
    for family in Family::BOTH {
        for (place, server) in [("same-node", &neighbour), ("other-node", &remote)] {
            for traffic in Traffic::ALL {
                let words = [family.name(), place, topology.name(), programs.name(), traffic.name()];
                cells.check(words.join("/"), cell(&lab, programs, traffic, family, &client, server));
            }
        }
    }
    cells.finish(CELLS)?;
    if programs != Programs::Detached {
        let after = verdicts(&lab, programs)?;
        for (node, (after, before)) in lab.nodes().iter().zip(after.iter().zip(&before)) {
            check_verdicts(topology, programs, &after.since(before))
                .with_context(|| format!("counters of {}", node.name()))?;
        }
    }
    Ok(())
}

fn verdicts(lab: &Lab, programs: Programs) -> anyhow::Result<Vec<Verdicts>> {
    if programs == Programs::Detached {
        return Ok(Vec::new());
    }
    lab.nodes().iter().map(Verdicts::on).collect()
}

fn cell(
    lab: &Lab,
    programs: Programs,
    traffic: Traffic,
    family: Family,
    client: &Pod,
    server: &Pod,
) -> anyhow::Result<()> {
    let before = counters::forwarded_by(lab.nodes())?;
    let seen = traffic.send(&Path::between(client, server, family)?)?;
    let own = family.of(client)?;
    ensure!(seen == own, "the server sees {seen}, not the client's {own}");
    let after = counters::forwarded_by(lab.nodes())?;
    let forwarded: Vec<_> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
    match programs {
        Programs::Detached => {
            // On each node that has one of the ends, a request and a reply.
            let involved = |node: &&str| [client.node(), server.node()].contains(node);
            let names: Vec<_> = lab.nodes().iter().map(|node| node.name()).collect();
            for (node, forwarded) in names.iter().zip(forwarded).filter(|(node, _)| involved(node)) {
                ensure!(forwarded >= 2, "the kernel of {node} forwarded {forwarded} packets only");
            }
        }
        _ => ensure!(
            forwarded.iter().all(|forwarded| *forwarded == 0),
            "the nodes' kernels forwarded {forwarded:?} packets"
        ),
    }
    Ok(())
}

/// The programs that should have done it did it.
fn check_verdicts(topology: Topology, programs: Programs, grown: &Verdicts) -> anyhow::Result<()> {
    let out = if topology == Topology::Vxlan { "to-tunnel" } else { "to-peer" };
    ensure!(grown.packets("from_pod", out) > 0, "nothing went {out}: {grown:?}");
    let (used, unused) =
        if programs.has_xdp() { ("xdp_from_wire", "from_wire") } else { ("from_wire", "xdp_from_wire") };
    ensure!(grown.packets(used, "to-pod") > 0, "{used} gave no pod anything: {grown:?}");
    // Not even the overlay's device has work.
    for unused in [unused, "from_overlay"] {
        ensure!(grown.packets(unused, "to-pod") == 0, "{unused} gave packets to pods: {grown:?}");
    }
    Ok(())
}

/// One test for each lab, so that they run beside each other and can be chosen.
macro_rules! labs {
    ($($name:ident: $topology:ident, $programs:ident;)+) => {$(
        #[test]
        fn $name() -> anyhow::Result<()> {
            run(Topology::$topology, Programs::$programs)
        }
    )+};
}

labs! {
    direct_xdp_off: Direct, XdpOff;
    direct_xdp_generic: Direct, XdpGeneric;
    direct_xdp_native: Direct, XdpNative;
    direct_detached: Direct, Detached;
    routed_xdp_off: Routed, XdpOff;
    routed_xdp_generic: Routed, XdpGeneric;
    routed_xdp_native: Routed, XdpNative;
    routed_detached: Routed, Detached;
    vxlan_xdp_off: Vxlan, XdpOff;
    vxlan_xdp_generic: Vxlan, XdpGeneric;
    vxlan_xdp_native: Vxlan, XdpNative;
    vxlan_detached: Vxlan, Detached;
}
