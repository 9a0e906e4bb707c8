//! Sources: who claims to be somebody else gets nowhere, is counted, and harms nobody.

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use podlane_tests::lab::{Namespace, Node, Pod};
use podlane_tests::probe::path::{Family, Path};
use podlane_tests::probe::traffic::Traffic;
use podlane_tests::probe::udp;
use podlane_tests::probe::verdicts::Verdicts;
use podlane_tests::{Cells, Lab, Topology};

/// Datagrams of one attempt.
const DATAGRAMS: u64 = 5;

/// Makes `address` one of the namespace's own, without anything else.
fn claim(namespace: &Namespace, address: IpAddr) -> anyhow::Result<()> {
    let length = if address.is_ipv4() { 32 } else { 128 };
    namespace.ip(&[format!("address add {address}/{length} dev lo nodad")])
}

fn give_up(namespace: &Namespace, address: IpAddr) -> anyhow::Result<()> {
    let length = if address.is_ipv4() { 32 } else { 128 };
    namespace.ip(&[format!("address delete {address}/{length} dev lo")])
}

/// Sends datagrams to a socket that waits for them: none may arrive, and the programs have to count every one.
fn is_dropped(path: &Path<'_>, node: &Node, hook: &str, reason: &str) -> anyhow::Result<()> {
    let before = Verdicts::on(node)?;
    let sink = udp::sink(path)?;
    send(path, sink.local_addr()?.ip(), sink.local_addr()?.port())?;
    wait_for(node, &before, hook, reason)?;
    ensure!(!udp::arrived(&sink), "a datagram arrived");
    Ok(())
}

/// Waits until the node's programs have counted all datagrams so: devices deliver a moment after `send` returns.
fn wait_for(node: &Node, before: &Verdicts, hook: &str, reason: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let grown = Verdicts::on(node)?.since(before);
        if grown.packets(hook, reason) >= DATAGRAMS {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{hook} has not counted {DATAGRAMS} times {reason}, but {grown:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn send(path: &Path<'_>, target: IpAddr, port: u16) -> anyhow::Result<()> {
    let from = path.from.context("whose address is it to be?")?;
    let sent = path.client.run(|| {
        let socket = UdpSocket::bind((from, 0))?;
        (0..DATAGRAMS).try_for_each(|_| socket.send_to(b"spoofed", (target, port)).map(|_| ()))
    })?;
    sent.with_context(|| format!("sending from {from} in {}", path.client.name()))
}

fn talk(client: &Pod, server: &Pod) -> anyhow::Result<()> {
    for family in Family::BOTH {
        for traffic in [Traffic::TcpSmall, Traffic::Udp, Traffic::Icmp] {
            let seen = traffic.send(&Path::between(client, server, family)?)?;
            ensure!(seen == family.of(client)?, "the server sees {seen}");
        }
    }
    Ok(())
}

struct Fixture {
    lab: Lab,
    bad: Pod,
    bystander: Pod,
    remote: Pod,
}

fn fixture(topology: Topology, xdp: &str) -> anyhow::Result<Fixture> {
    let lab = topology.lab()?.outside().agent_setting("xdp", xdp).build()?;
    let [bad, bystander] = lab.node(1).ready_pods(["bad", "bystander"])?;
    let [remote] = lab.node(2).ready_pods(["remote"])?;
    Ok(Fixture { lab, bad, bystander, remote })
}

#[test]
fn a_pods_foreign_source_addresses_are_dropped() -> anyhow::Result<()> {
    let Fixture { lab, bad, bystander, remote } = fixture(Topology::Direct, "off")?;
    let node = lab.node(1);
    let mut cells = Cells::default();
    let foreign = ["10.244.1.77", "10.244.2.2", "192.168.1.12", "203.0.113.5"];
    let foreign6 = ["fd00:244:1::77", "fd00:244:2::2", "fd00:1::12", "2001:db8::5"];
    let claims = foreign.iter().chain(&foreign6).map(|address| address.parse::<IpAddr>());
    let claims = claims.collect::<Result<Vec<_>, _>>()?;
    for claimed in claims.into_iter().chain(bystander.addresses()) {
        claim(bad.namespace(), claimed)?;
        let family = if claimed.is_ipv4() { Family::V4 } else { Family::V6 };
        for (place, namespace, target) in [
            ("bystander", bystander.namespace(), family.of(&bystander)?),
            ("remote", remote.namespace(), family.of(&remote)?),
            ("node", node.namespace(), family.pick(node.addresses())?),
        ] {
            // Not from an address to itself: that stays in the pod.
            if claimed != target {
                let path = Path { from: Some(claimed), ..Path::new(bad.namespace(), namespace, target) };
                cells.check(
                    format!("{claimed}/{place}"),
                    is_dropped(&path, node, "from_pod", "drop-source-ip"),
                );
            }
        }
        give_up(bad.namespace(), claimed)?;
    }
    // Two are the bystander's, two the other node's pod's.
    cells.finish(10 * 3 - 4)?;
    talk(&bystander, &remote)
}

#[test]
fn a_pods_foreign_mac_address_is_dropped() -> anyhow::Result<()> {
    let Fixture { lab, bad, bystander, remote } = fixture(Topology::Direct, "off")?;
    // The kernel forgets its neighbours with the address; the pod knows how to tell it again.
    let neighbours = bad.exec(["ip", "neighbour", "show", "nud", "permanent"])?;
    let neighbours = neighbours.lines().map(|line| {
        let line = line.replace("PERMANENT", "");
        format!("neighbour replace {line} nud permanent")
    });
    let mut lines = vec!["link set eth0 address 02:00:00:00:00:99".to_owned()];
    lines.extend(neighbours.filter(|line| line.contains("10.244.1.1 ") || line.contains("fd00:")));
    ensure!(lines.len() == 3, "a gateway of each family: {lines:?}");
    bad.namespace().ip(&lines)?;
    for family in Family::BOTH {
        for server in [&bystander, &remote] {
            let path = Path { from: Some(family.of(&bad)?), ..Path::between(&bad, server, family)? };
            is_dropped(&path, lab.node(1), "from_pod", "drop-source-mac")?;
        }
    }
    talk(&bystander, &remote)
}

/// Another host on the wire claims to be a pod of the node that it sends to.
fn from_the_wire(xdp: &str, hook: &str) -> anyhow::Result<()> {
    let Fixture { lab, bad, bystander, remote } = fixture(Topology::Direct, xdp)?;
    let (node, outside) = (lab.node(1), lab.outside()?);
    for family in Family::BOTH {
        let claimed = family.of(&bad)?;
        claim(outside, claimed)?;
        let via = family.pick(node.addresses())?;
        let target = family.of(&bystander)?;
        let length = if family == Family::V4 { 32 } else { 128 };
        outside.ip(&[format!("route add {target}/{length} via {via}")])?;
        for (namespace, target) in [(bystander.namespace(), target), (node.namespace(), via)] {
            let path = Path { from: Some(claimed), ..Path::new(outside, namespace, target) };
            is_dropped(&path, node, hook, "drop-foreign-source")?;
        }
    }
    talk(&bystander, &remote)?;
    talk(&bad, &remote)
}

#[test]
fn a_local_pods_address_from_the_wire_is_dropped() -> anyhow::Result<()> {
    from_the_wire("off", "from_wire")
}

#[test]
fn a_local_pods_address_from_the_wire_is_dropped_by_xdp() -> anyhow::Result<()> {
    from_the_wire("native", "xdp_from_wire")
}

/// A frame of a tunnel: VXLAN header, Ethernet header, and a datagram from a remote pod to a local one.
fn tunnelled(vni: u32, source: IpAddr, destination: IpAddr, port: u16) -> anyhow::Result<Vec<u8>> {
    let mut frame = vec![0x08, 0, 0, 0];
    frame.extend(&vni.to_be_bytes()[1..]);
    frame.push(0);
    // To the node's overlay device, 02:50 and its address.
    let builder =
        etherparse::PacketBuilder::ethernet2([2, 0x50, 192, 168, 2, 12], [2, 0x50, 192, 168, 1, 11]);
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) else {
        anyhow::bail!("only IPv4 here");
    };
    let builder = builder.ipv4(source.octets(), destination.octets(), 64).udp(9, port);
    builder.write(&mut frame, b"tunnelled")?;
    Ok(frame)
}

fn overlay(xdp: &str) -> anyhow::Result<()> {
    let Fixture { lab, bad: victim, bystander, remote } = fixture(Topology::Vxlan, xdp)?;
    let node = lab.node(1);
    let target = victim.address();
    let sink = udp::sink(&Path::new(victim.namespace(), victim.namespace(), target))?;
    let port = sink.local_addr()?.port();
    let overlay = (Family::V4.pick(node.addresses())?, 8472);
    let send = |from: &Namespace, vni, source| -> anyhow::Result<Verdicts> {
        let before = Verdicts::on(node)?;
        let frame = tunnelled(vni, source, target, port)?;
        let sent = from.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            (0..DATAGRAMS).try_for_each(|_| socket.send_to(&frame, overlay).map(|_| ()))
        })?;
        sent.context("sending a tunnelled frame")?;
        // Through routers, but on virtual devices: delivered before `send_to` returns, or a moment later.
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let grown = Verdicts::on(node)?.since(&before);
            let overlay = ["drop-unknown-node", "drop-unknown-network", "drop-foreign-source", "to-pod"];
            let seen: u64 = ["from_wire", "from_overlay", "xdp_from_wire"]
                .iter()
                .flat_map(|hook| overlay.map(|verdict| grown.packets(hook, verdict)))
                .sum();
            if seen >= DATAGRAMS || Instant::now() > deadline {
                return Ok(grown);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    // That the frames are right: from the node that has the pod, one arrives.
    let known = send(lab.node(2).namespace(), 1, remote.address())?;
    ensure!(udp::arrived(&sink), "a frame from a known node did not arrive: {known:?}");
    while udp::arrived(&sink) {}

    let foreign = send(lab.node(2).namespace(), 1, bystander.address())?;
    let dropped = foreign.packets("from_wire", "drop-foreign-source")
        + foreign.packets("xdp_from_wire", "drop-foreign-source");
    ensure!(dropped >= DATAGRAMS, "a local pod's address from the overlay: {foreign:?}");
    let network = send(lab.node(2).namespace(), 77, remote.address())?;
    // The kernel's device is of no network, so that the program sees others' frames.
    ensure!(
        network.packets("from_overlay", "drop-unknown-network") >= DATAGRAMS,
        "another network's frame: {network:?}"
    );
    let unknown = send(lab.outside()?, 1, remote.address())?;
    ensure!(
        unknown.packets("from_overlay", "drop-unknown-node") >= DATAGRAMS,
        "a frame from an unknown node: {unknown:?}"
    );
    ensure!(!udp::arrived(&sink), "a datagram arrived");
    talk(&victim, &remote)?;
    talk(&bystander, &remote)
}

#[test]
fn overlay_frames_of_strangers_are_dropped() -> anyhow::Result<()> {
    overlay("off")
}

#[test]
fn overlay_frames_of_strangers_are_dropped_with_xdp() -> anyhow::Result<()> {
    overlay("native")
}

#[test]
fn a_pod_that_changes_its_own_network_harms_nobody_else() -> anyhow::Result<()> {
    let Fixture { bad, bystander, remote, lab } = fixture(Topology::Direct, "native")?;
    let stolen: Vec<IpAddr> = bystander.addresses().collect();
    let changes: [(&str, Vec<String>); 5] = [
        ("mtu", vec!["link set eth0 mtu 9000".to_owned()]),
        ("mac", vec!["link set eth0 address 02:00:00:00:00:99".to_owned()]),
        (
            "routes",
            vec![
                "route replace default dev eth0".to_owned(),
                "route add 10.244.1.0/24 dev eth0".to_owned(),
                "route replace ::/0 dev eth0".to_owned(),
            ],
        ),
        (
            "address",
            stolen
                .iter()
                .map(|address| {
                    let length = if address.is_ipv4() { 32 } else { 128 };
                    format!("address add {address}/{length} dev eth0 nodad")
                })
                .collect(),
        ),
        ("down", vec!["link set eth0 down".to_owned()]),
    ];
    let mut cells = Cells::default();
    let count = changes.len();
    for (name, lines) in changes {
        bad.namespace().ip(&lines).with_context(|| format!("changing {name}"))?;
        // It may try to use what it has changed; nobody cares whether that works.
        for server in [&remote, &bystander] {
            let _ = bad.command(["ping", "-c", "1", "-W", "0.2", &server.address().to_string()]).finish();
        }
        cells.check(format!("{name}/bystander-remote"), talk(&bystander, &remote));
        cells.check(format!("{name}/remote-bystander"), talk(&remote, &bystander));
        cells.check(format!("{name}/node"), {
            let [client, server] = [lab.node(1).namespace(), bystander.namespace()];
            Traffic::TcpSmall.send(&Path::new(client, server, bystander.address())).map(|_| ())
        });
    }
    cells.finish(3 * count)
}

/// XDP redirects straight into a pod's interface, which takes it by NAPI only. A pod can switch that off.
#[test]
fn what_xdp_redirects_in_vain_is_counted() -> anyhow::Result<()> {
    let Fixture { lab, bad, bystander, remote } = fixture(Topology::Direct, "native")?;
    talk(&remote, &bad)?;
    bad.exec(["ethtool", "-K", "eth0", "gro", "off"])?;
    let path = Path { from: Some(remote.address()), ..Path::between(&remote, &bad, Family::V4)? };
    let before = Verdicts::on(lab.node(1))?;
    let sink = udp::sink(&path)?;
    send(&path, bad.address(), sink.local_addr()?.port())?;
    wait_for(lab.node(1), &before, "xdp_from_wire", "drop-redirect-failed")?;
    talk(&remote, &bystander)
}
