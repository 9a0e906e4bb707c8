//! `from_overlay` behind a real VXLAN device (a tunnel's ends are metadata that no test run can make up), and the
//! overlay's frames at `from_wire` and `xdp_from_wire`, which take them apart themselves.

use std::net::{Ipv4Addr, Ipv6Addr};

use dataplane_common::{DropReason, Forwarded, Hook, PassReason, Verdict};
use etherparse::{IpNumber, PacketBuilder};

use crate::{
    fixture::{
        Case, Fixture, From, HOST_MAC_B, MAC_B, NODE, NODE6, OVERLAY_MAC, OVERLAY_PEER_MAC, PEER, PEER_MAC,
        PEER6, POD_A, POD_B, POD_B6, REMOTE, REMOTE6, UPLINK_MAC,
    },
    packet::{Ip, Packet, arp},
};

const VNI: u32 = 1;
const PORT: u16 = 8472;

fn inner() -> Packet {
    Packet::udp(OVERLAY_PEER_MAC, OVERLAY_MAC, Ip::V4(REMOTE, POD_B))
}

fn inner6() -> Packet {
    Packet::udp(OVERLAY_PEER_MAC, OVERLAY_MAC, Ip::V6(REMOTE6, POD_B6))
}

fn vxlan(vni: u32, inner: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    [&[8, 0, 0, 0, a, b, c, 0], inner].concat()
}

fn outer(source: Ipv4Addr, destination: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(PEER_MAC, UPLINK_MAC)
        .ipv4(source.octets(), destination.octets(), 64)
        .udp(50000, port)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

fn outer6(source: Ipv6Addr, destination: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(PEER_MAC, UPLINK_MAC)
        .ipv6(source.octets(), destination.octets(), 64)
        .udp(50000, PORT)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

fn at_pod_b(inner: &Packet) -> Vec<u8> {
    Packet { source_mac: HOST_MAC_B, destination_mac: MAC_B, ..inner.clone() }.bytes()
}

/// Whether this kernel lets a tc program take an outer header off that is of another family than the packet inside.
fn unwraps_mixed() -> bool {
    podlane::datapath::Features::probe().unwrap().tunnel_unwrap_mixed
}

/// The table of `from_wire`: that of XDP, and what there is only once there are skbs.
pub fn wire_cases() -> Vec<Case> {
    let mixed = ["VXLAN, IPv6 in IPv4", "VXLAN, IPv4 in IPv6"];
    let left = |case: &mut Case| {
        case.verdict = Verdict::Pass(PassReason::Overlay);
        case.expected = case.packet.clone();
    };
    let mut cases = xdp_cases();
    for case in &mut cases {
        case.hook = Hook::FromWire;
        if mixed.contains(&case.name) && !unwraps_mixed() {
            println!(
                "skipped: {}: the kernel has no BPF_F_ADJ_ROOM_DECAP_L3_IPV4 (6.3 brought it)",
                case.name
            );
            left(case);
        }
    }
    let whole = outer(PEER, NODE, PORT, &vxlan(VNI, &inner().bytes()));
    let mut put_together = Case::new(
        "segments that GRO has put together",
        Hook::FromWire,
        From::Wire,
        whole,
        Verdict::Pass(PassReason::Overlay),
        Vec::new(),
    );
    put_together.gso_size = Some(30);
    left(&mut put_together);
    cases.push(put_together);
    cases
}

/// XDP's table for frames of the overlay.
pub fn xdp_cases() -> Vec<Case> {
    let case = |name, packet: Vec<u8>, verdict, expected| {
        Case::new(name, Hook::XdpFromWire, From::Wire, packet, verdict, expected)
    };
    let stripped =
        |name, packet: Vec<u8>, expected| case(name, packet, Verdict::Forwarded(Forwarded::ToPod), expected);
    let pass = |name, packet: Vec<u8>, reason| case(name, packet.clone(), Verdict::Pass(reason), packet);
    let whole = |inner: &Packet| outer(PEER, NODE, PORT, &vxlan(VNI, &inner.bytes()));
    let spoofed = Packet::udp(OVERLAY_PEER_MAC, OVERLAY_MAC, Ip::V4(POD_A, POD_B));
    let mut fragment = whole(&inner());
    fragment[20] = 0x20;
    let mut options = whole(&inner());
    options[14] = 0x46;
    let mut no_vni = whole(&inner());
    no_vni[42] = 0;
    let arp_inside = outer(PEER, NODE, PORT, &vxlan(VNI, &arp(OVERLAY_PEER_MAC, REMOTE, POD_B)));
    let to_node = Packet::udp(OVERLAY_PEER_MAC, OVERLAY_MAC, Ip::V4(REMOTE, NODE));
    let spoofed_frame = whole(&spoofed);
    let mut congested = whole(&inner());
    congested[15] = 0b11;
    let mut congested6 = outer6(PEER6, NODE6, &vxlan(VNI, &inner().bytes()));
    congested6[15] = 0b11 << 4;
    let mut capable = whole(&inner());
    capable[15] = 0b10;
    let mut reserved = whole(&inner());
    reserved[45] = 1;
    vec![
        stripped("VXLAN, IPv4 in IPv4", whole(&inner()), at_pod_b(&inner())),
        stripped("VXLAN, IPv6 in IPv4", whole(&inner6()), at_pod_b(&inner6())),
        stripped(
            "VXLAN, IPv4 in IPv6",
            outer6(PEER6, NODE6, &vxlan(VNI, &inner().bytes())),
            at_pod_b(&inner()),
        ),
        stripped(
            "VXLAN, IPv6 in IPv6",
            outer6(PEER6, NODE6, &vxlan(VNI, &inner6().bytes())),
            at_pod_b(&inner6()),
        ),
        pass(
            "VXLAN of another port",
            outer(PEER, NODE, 4789, &vxlan(VNI, &inner().bytes())),
            PassReason::NotPod,
        ),
        pass(
            "VXLAN of another network",
            outer(PEER, NODE, PORT, &vxlan(7, &inner().bytes())),
            PassReason::NotPod,
        ),
        pass("VXLAN without a VNI", no_vni, PassReason::NotPod),
        pass(
            "VXLAN from an unknown node",
            outer(Ipv4Addr::new(192, 168, 1, 99), NODE, PORT, &vxlan(VNI, &inner().bytes())),
            PassReason::NotPod,
        ),
        pass(
            "VXLAN to another node",
            outer(PEER, PEER, PORT, &vxlan(VNI, &inner().bytes())),
            PassReason::NotPod,
        ),
        pass("a router has told of congestion", congested, PassReason::Overlay),
        pass("a router has told of congestion, IPv6", congested6, PassReason::Overlay),
        stripped("capable of being told of congestion", capable, at_pod_b(&inner())),
        pass("VXLAN with a reserved bit", reserved, PassReason::NotPod),
        pass("VXLAN in a fragment", fragment, PassReason::NotPod),
        pass("VXLAN behind IPv4 options", options, PassReason::NotPod),
        pass("ARP inside", arp_inside, PassReason::NotIp),
        pass("to the node, inside", whole(&to_node), PassReason::NotPod),
        pass("nothing inside", outer(PEER, NODE, PORT, &vxlan(VNI, &[])), PassReason::Malformed),
        pass(
            "an inner frame cut off",
            outer(PEER, NODE, PORT, &vxlan(VNI, &inner().bytes()[..30])),
            PassReason::Malformed,
        ),
        case(
            "a local pod's source IP, inside",
            spoofed_frame.clone(),
            Verdict::Drop(DropReason::ForeignSource),
            spoofed_frame,
        ),
        Case {
            flows: true,
            ..pass("a flow that the stack has touched, inside", whole(&inner()), PassReason::StackFlow)
        },
        Case {
            flows: true,
            ..stripped(
                "another flow, inside",
                whole(&Packet { protocol: IpNumber::TCP, ..inner() }),
                at_pod_b(&Packet { protocol: IpNumber::TCP, ..inner() }),
            )
        },
    ]
}

/// What is sent to the VXLAN device, and the verdict that `from_overlay` counts.
fn received() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let spoofed = Packet::udp(OVERLAY_PEER_MAC, OVERLAY_MAC, Ip::V4(POD_A, POD_B));
    let flooded = Packet { destination_mac: PEER_MAC, ..inner() };
    let to_node = Packet::udp(OVERLAY_PEER_MAC, OVERLAY_MAC, Ip::V4(REMOTE, NODE));
    let send = |inner: &Packet| outer(PEER, NODE, PORT, &vxlan(VNI, &inner.bytes()));
    vec![
        ("from a peer", send(&inner()), "to-pod"),
        ("from a peer, IPv6 inside", send(&inner6()), "to-pod"),
        ("to the node", send(&to_node), "pass-not-pod"),
        ("to another MAC address", send(&flooded), "pass-not-for-host"),
        (
            "ARP inside",
            outer(PEER, NODE, PORT, &vxlan(VNI, &arp(OVERLAY_PEER_MAC, REMOTE, POD_B))),
            "pass-not-for-host",
        ),
        ("a local pod's source IP", send(&spoofed), "drop-foreign-source"),
        (
            "from an unknown node",
            outer(Ipv4Addr::new(192, 168, 1, 99), NODE, PORT, &vxlan(VNI, &inner().bytes())),
            "drop-unknown-node",
        ),
        ("of another network", outer(PEER, NODE, PORT, &vxlan(7, &inner().bytes())), "drop-unknown-network"),
    ]
}

/// The verdicts that [`from_overlay_does_what_its_table_says`] sees.
pub fn verdicts() -> Vec<&'static str> {
    received().into_iter().map(|(_, _, verdict)| verdict).collect()
}

#[test]
fn from_overlay_does_what_its_table_says() {
    Fixture::with(|fixture| {
        fixture.attach(Hook::FromOverlay, From::Overlay);
        let mut failures = Vec::new();
        for (name, frame, expected) in received() {
            let counted = fixture.send(Hook::FromOverlay, From::Overlay, &frame).unwrap();
            if counted != [expected] {
                failures.push(format!("{name}: counted as {counted:?}, not {expected}"));
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    });
}
