use std::net::Ipv4Addr;

use dataplane_common::{DropReason, Forwarded, Hook, PassReason, Verdict};

use etherparse::IpNumber;

use crate::{
    fixture::{
        Case, From, HOST_MAC_B, MAC_B, PEER_MAC, POD_A, POD_A6, POD_B, POD_B6, REMOTE, REMOTE6, UPLINK_MAC,
    },
    packet::{Ip, Packet, about, arp, back, error, quote},
};

fn from_to(source: Ipv4Addr, destination: Ipv4Addr) -> Packet {
    Packet::udp(PEER_MAC, UPLINK_MAC, Ip::V4(source, destination))
}

fn case(name: &'static str, packet: Vec<u8>, verdict: Verdict, expected: Vec<u8>) -> Case {
    Case::new(name, Hook::FromWire, From::Wire, packet, verdict, expected)
}

fn with_flows(case: Case) -> Case {
    Case { flows: true, ..case }
}

fn to_pod(name: &'static str, packet: &Packet) -> Case {
    let ttl = packet.ttl - 1;
    let expected = Packet { source_mac: HOST_MAC_B, destination_mac: MAC_B, ttl, ..packet.clone() }.bytes();
    case(name, packet.bytes(), Verdict::Forwarded(Forwarded::ToPod), expected)
}

fn unchanged(name: &'static str, packet: Vec<u8>, verdict: Verdict) -> Case {
    case(name, packet.clone(), verdict, packet)
}

fn pass(name: &'static str, packet: Vec<u8>, reason: PassReason) -> Case {
    unchanged(name, packet, Verdict::Pass(reason))
}

/// ICMP errors that routers and nodes send to a local pod, about what it has sent.
fn errors() -> Vec<Case> {
    let router = Ipv4Addr::new(192, 168, 1, 1);
    let router6 = "fd00:1::1".parse().unwrap();
    let base = from_to(router, POD_B);
    let v6 = Packet::udp(PEER_MAC, UPLINK_MAC, Ip::V6(router6, POD_B6));
    let sent = |packet: &Packet| Packet { protocol: IpNumber::TCP, ..packet.clone() }.bytes();
    let by_b = from_to(POD_B, REMOTE);
    let by_b6 = Packet::udp(PEER_MAC, UPLINK_MAC, Ip::V6(POD_B6, REMOTE6));
    let forwarded = |name, packet: &Packet, subject: &[u8]| {
        let mut case = to_pod(name, &error(packet.clone()));
        quote(&mut case.packet, subject);
        quote(&mut case.expected, subject);
        case
    };
    let left = |name, subject: &[u8]| pass(name, about(base.clone(), subject), PassReason::NotFromPod);
    let mut echo = about(base.clone(), &sent(&by_b));
    echo[34] = 8;
    vec![
        forwarded("an error about what the pod sent to another pod", &base, &sent(&by_b)),
        forwarded("an error about what the pod sent to another pod, IPv6", &v6, &sent(&by_b6)),
        with_flows(forwarded("an error about a flow that is not noted", &base, &sent(&by_b))),
        with_flows(left(
            "an error about the other direction of a noted flow",
            &back(&from_to(REMOTE, POD_B)),
        )),
        left("an error about what the pod sent to no pod", &sent(&from_to(POD_B, Ipv4Addr::new(1, 1, 1, 1)))),
        left("an error about what another pod sent", &sent(&from_to(POD_A, REMOTE))),
        left("an error about a fragment", &Packet { fragment: Some((185, false)), ..by_b.clone() }.bytes()),
        left(
            "an error about a protocol that has no flows",
            &Packet { protocol: IpNumber::GRE, ..by_b.clone() }.bytes(),
        ),
        pass("an echo request of a router", echo, PassReason::NotFromPod),
    ]
}

/// The whole table.
pub fn cases() -> Vec<Case> {
    let mut cases = errors();
    cases.extend(packets());
    cases
}

fn packets() -> Vec<Case> {
    let node = Ipv4Addr::new(192, 168, 1, 11);
    let peer = Ipv4Addr::new(192, 168, 1, 12);
    let v6 = Packet::udp(PEER_MAC, UPLINK_MAC, Ip::V6(REMOTE6, POD_B6));
    let spoofed6 = Packet::udp(PEER_MAC, UPLINK_MAC, Ip::V6(POD_A6, POD_B6));
    let base = from_to(REMOTE, POD_B);
    vec![
        to_pod("from a remote pod", &base),
        to_pod("from a remote pod, TTL 2", &Packet { ttl: 2, ..base.clone() }),
        pass("TTL about to expire", Packet { ttl: 1, ..base.clone() }.bytes(), PassReason::HopLimit),
        pass("hop limit about to expire", Packet { ttl: 1, ..v6.clone() }.bytes(), PassReason::HopLimit),
        pass(
            "from a peer node, whose replies go through the stack",
            from_to(peer, POD_B).bytes(),
            PassReason::NotFromPod,
        ),
        pass("from outside", from_to(Ipv4Addr::new(1, 1, 1, 1), POD_B).bytes(), PassReason::NotFromPod),
        to_pod("later fragment", &Packet { fragment: Some((185, false)), ..base.clone() }),
        to_pod("merged by GRO, larger than the MTU", &Packet { payload: 3000, ..base.clone() }),
        to_pod("IPv6", &v6),
        pass("to the node", from_to(peer, node).bytes(), PassReason::NotPod),
        pass(
            "to an address in the pod CIDR without a pod",
            from_to(REMOTE, Ipv4Addr::new(10, 244, 1, 99)).bytes(),
            PassReason::NotPod,
        ),
        pass(
            "through this node to somewhere else",
            from_to(REMOTE, Ipv4Addr::new(1, 1, 1, 1)).bytes(),
            PassReason::NotPod,
        ),
        pass("ARP, broadcast", arp(PEER_MAC, peer, node), PassReason::NotForHost),
        pass(
            "a pod's packet in a broadcast frame",
            Packet { destination_mac: [0xff; 6], ..base.clone() }.bytes(),
            PassReason::NotForHost,
        ),
        pass(
            "a pod's packet flooded to another node's MAC address",
            Packet { destination_mac: PEER_MAC, ..base.clone() }.bytes(),
            PassReason::NotForHost,
        ),
        pass(
            "IPv4 options",
            Packet { options: vec![0x94, 0x04, 0, 0], ..base.clone() }.bytes(),
            PassReason::Options,
        ),
        with_flows(pass("a flow that the stack has touched", base.bytes(), PassReason::StackFlow)),
        with_flows(pass("a flow that the stack has touched, IPv6", v6.bytes(), PassReason::StackFlow)),
        with_flows(to_pod("another flow", &Packet { protocol: IpNumber::TCP, ..base.clone() })),
        with_flows(pass(
            "a later fragment, while there are such flows",
            Packet { fragment: Some((185, false)), ..base.clone() }.bytes(),
            PassReason::Fragment,
        )),
        unchanged(
            "a local pod's source IP, to the node",
            from_to(POD_A, node).bytes(),
            Verdict::Drop(DropReason::ForeignSource),
        ),
        unchanged(
            "a local pod's source IP",
            from_to(POD_A, POD_B).bytes(),
            Verdict::Drop(DropReason::ForeignSource),
        ),
        unchanged(
            "the pod's own IP as source",
            from_to(POD_B, POD_B).bytes(),
            Verdict::Drop(DropReason::ForeignSource),
        ),
        unchanged(
            "a local pod's source IP, IPv6",
            spoofed6.bytes(),
            Verdict::Drop(DropReason::ForeignSource),
        ),
    ]
}
