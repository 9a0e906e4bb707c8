use std::net::{Ipv4Addr, Ipv6Addr};

use dataplane_common::{DropReason, Forwarded, Hook, PassReason, Verdict};
use etherparse::IpNumber;

use crate::{
    fixture::{
        Case, From, HOST_MAC_A, HOST_MAC_B, MAC_A, MAC_B, MTU, OVERLAY_PEER_MAC, POD_A, POD_A6, POD_B,
        POD_B6, REMOTE, REMOTE_LONGER, REMOTE_UNKNOWN, REMOTE6, TUNNEL_MTU, TUNNELLED,
    },
    packet::{Ip, Packet, about, arp, back, error, quote},
};

pub fn to(destination: Ipv4Addr) -> Packet {
    Packet::udp(MAC_A, HOST_MAC_A, Ip::V4(POD_A, destination))
}

fn to6(destination: Ipv6Addr) -> Packet {
    Packet::udp(MAC_A, HOST_MAC_A, Ip::V6(POD_A6, destination))
}

/// As it arrives at pod B: its MAC addresses, nothing else changed.
fn at_pod_b(packet: &Packet) -> Vec<u8> {
    Packet { source_mac: HOST_MAC_B, destination_mac: MAC_B, ..packet.clone() }.bytes()
}

/// As it goes to the next hop: one hop less and the checksum for it; the kernel fills in the MAC addresses later.
fn one_hop_on(packet: &Packet) -> Vec<u8> {
    Packet { ttl: packet.ttl - 1, ..packet.clone() }.bytes()
}

fn case(name: &'static str, packet: Vec<u8>, verdict: Verdict, expected: Vec<u8>) -> Case {
    Case::new(name, Hook::FromPod, From::PodA, packet, verdict, expected)
}

fn unchanged(name: &'static str, packet: Vec<u8>, verdict: Verdict) -> Case {
    case(name, packet.clone(), verdict, packet)
}

pub fn local(name: &'static str, packet: &Packet) -> Case {
    case(name, packet.bytes(), Verdict::Forwarded(Forwarded::ToPod), at_pod_b(packet))
}

fn remote(name: &'static str, packet: &Packet) -> Case {
    case(name, packet.bytes(), Verdict::Forwarded(Forwarded::ToPeer), one_hop_on(packet))
}

pub fn pass(name: &'static str, packet: Vec<u8>, reason: PassReason) -> Case {
    unchanged(name, packet, Verdict::Pass(reason))
}

fn drop(name: &'static str, packet: &Packet, reason: DropReason) -> Case {
    unchanged(name, packet.bytes(), Verdict::Drop(reason))
}

/// The whole table.
pub fn cases() -> Vec<Case> {
    let mut cases = forwarding();
    cases.extend(passing());
    cases.extend(sizes());
    cases.extend(sources());
    cases.extend(tunnelling());
    cases.extend(symmetry());
    cases
}

fn tunnelling() -> Vec<Case> {
    let base = to(TUNNELLED);
    // The kernel puts the outer headers around it, later.
    let tunnelled = |name, packet: &Packet| {
        let expected =
            Packet { ttl: packet.ttl - 1, destination_mac: OVERLAY_PEER_MAC, ..packet.clone() }.bytes();
        case(name, packet.bytes(), Verdict::Forwarded(Forwarded::ToTunnel), expected)
    };
    let largest = usize::try_from(TUNNEL_MTU).unwrap() - 28;
    vec![
        tunnelled("through the overlay", &base),
        tunnelled("through the overlay, as large as its MTU", &Packet { payload: largest, ..base.clone() }),
        pass(
            "one byte over the overlay's MTU",
            Packet { payload: largest + 1, ..base.clone() }.bytes(),
            PassReason::TooBig,
        ),
        pass("TTL 1 into the overlay", Packet { ttl: 1, ..base }.bytes(), PassReason::HopLimit),
    ]
}

/// An ICMP error about a flow that nobody has noted, which is forwarded.
fn about_another(name: &'static str, packet: &Packet, forwarded: fn(&'static str, &Packet) -> Case) -> Case {
    let subject = back(&Packet { protocol: IpNumber::TCP, ..packet.clone() });
    let mut case = forwarded(name, &error(packet.clone()));
    quote(&mut case.packet, &subject);
    quote(&mut case.expected, &subject);
    case
}

/// While there are flows through the stack.
fn symmetry() -> Vec<Case> {
    let tcp = |packet: Packet| Packet { protocol: IpNumber::TCP, ..packet };
    let later = |packet: Packet| Packet { fragment: Some((185, false)), ..packet };
    let icmp = |packet: Packet, protocol, kind| {
        let mut bytes = Packet { protocol, ..packet.clone() }.bytes();
        let offset = if matches!(packet.source, Ip::V4(..)) { 34 } else { 54 };
        bytes[offset] = kind;
        bytes
    };
    let v4 = IpNumber::ICMP;
    let v6 = IpNumber::IPV6_ICMP;
    // Destination options in front of the UDP header of a flow that is noted.
    let mut extended =
        Packet { protocol: IpNumber::IPV6_DESTINATION_OPTIONS, payload: 18 + 8, ..to6(POD_B6) }.bytes();
    let udp = to6(POD_B6).bytes()[54..].to_vec();
    extended[54..62].copy_from_slice(&[17, 0, 1, 4, 0, 0, 0, 0]);
    extended[62..62 + udp.len()].copy_from_slice(&udp);
    let mut fragment6 = Packet { protocol: IpNumber::IPV6_FRAGMENTATION_HEADER, ..to6(REMOTE6) }.bytes();
    fragment6[54..62].copy_from_slice(&[17, 0, 0x05, 0xc8, 0, 0, 0, 1]);
    [
        pass("local, touched by the stack", to(POD_B).bytes(), PassReason::StackFlow),
        pass("remote, touched by the stack", to(REMOTE).bytes(), PassReason::StackFlow),
        pass("local, touched by the stack, IPv6", to6(POD_B6).bytes(), PassReason::StackFlow),
        pass("remote, touched by the stack, IPv6", to6(REMOTE6).bytes(), PassReason::StackFlow),
        pass("touched by the stack, behind an extension header", extended, PassReason::StackFlow),
        local("local, another flow", &tcp(to(POD_B))),
        remote("remote, another flow", &tcp(to(REMOTE))),
        remote("remote, another flow, IPv6", &tcp(to6(REMOTE6))),
        local("a protocol without ports", &Packet { protocol: IpNumber::GRE, ..to(POD_B) }),
        pass(
            "a first fragment",
            Packet { fragment: Some((0, true)), ..tcp(to(POD_B)) }.bytes(),
            PassReason::Fragment,
        ),
        pass("a later fragment", later(to(POD_B)).bytes(), PassReason::Fragment),
        pass("a later fragment, IPv6", fragment6, PassReason::Fragment),
        pass("destination unreachable, about nothing", icmp(to(POD_B), v4, 3), PassReason::IcmpError),
        pass("about a packet of a noted flow", about(to(POD_B), &to(POD_B).bytes()), PassReason::IcmpError),
        pass(
            "about a packet of its other direction",
            about(to(POD_B), &back(&to(POD_B))),
            PassReason::IcmpError,
        ),
        pass("about a noted flow, IPv6", about(to6(REMOTE6), &back(&to6(REMOTE6))), PassReason::IcmpError),
        about_another("about another flow", &to(POD_B), local),
        about_another("about another flow, to a remote pod", &to(REMOTE), remote),
        about_another("about another flow, IPv6", &to6(REMOTE6), remote),
        pass("time exceeded", icmp(to(REMOTE), v4, 11), PassReason::IcmpError),
        pass("packet too big", icmp(to6(REMOTE6), v6, 2), PassReason::IcmpError),
        pass("unknown destination stays unknown", to(Ipv4Addr::new(1, 1, 1, 1)).bytes(), PassReason::NotPod),
    ]
    .into_iter()
    .map(|case| Case { flows: true, ..case })
    .collect()
}

fn forwarding() -> Vec<Case> {
    vec![
        local("local pod", &to(POD_B)),
        local("local pod, TTL 1: bridged, not routed", &Packet { ttl: 1, ..to(POD_B) }),
        local("local pod, first fragment", &Packet { fragment: Some((0, true)), ..to(POD_B) }),
        local("local pod, later fragment", &Packet { fragment: Some((185, false)), ..to(POD_B) }),
        local("local pod, larger than any MTU", &Packet { payload: 3000, ..to(POD_B) }),
        local("local pod, IPv6", &to6(POD_B6)),
        remote("remote pod", &to(REMOTE)),
        remote("remote pod, TTL 2", &Packet { ttl: 2, ..to(REMOTE) }),
        remote("remote pod, TTL 255", &Packet { ttl: 255, ..to(REMOTE) }),
        remote("remote pod, first fragment", &Packet { fragment: Some((0, true)), ..to(REMOTE) }),
        remote("remote pod, later fragment", &Packet { fragment: Some((185, false)), ..to(REMOTE) }),
        remote("remote pod, TCP", &Packet { protocol: IpNumber::TCP, ..to(REMOTE) }),
        remote("remote pod, a protocol without ports", &Packet { protocol: IpNumber::GRE, ..to(REMOTE) }),
        remote("remote pod, IPv6", &to6(REMOTE6)),
        remote("remote pod, IPv6, hop limit 2", &Packet { ttl: 2, ..to6(REMOTE6) }),
    ]
}

fn passing() -> Vec<Case> {
    let options = Packet { options: vec![0x94, 0x04, 0, 0], ..to(POD_B) };
    let mut wrong_version = to(POD_B).bytes();
    wrong_version[14] = 0x65;
    let mut short_header = to(POD_B).bytes();
    short_header[14] = 0x44;
    let hop_by_hop = Packet { protocol: IpNumber::IPV6_HEADER_HOP_BY_HOP, ..to6(REMOTE6) };
    let mut vlan = to(POD_B).bytes();
    vlan.splice(12..12, [0x81, 0x00, 0x00, 0x05]);
    let group = Ipv4Addr::new(224, 0, 0, 251);
    let multicast = Packet { destination_mac: [0x01, 0, 0x5e, 0, 0, 0xfb], ..to(group) };
    let broadcast = Packet { destination_mac: [0xff; 6], ..to(Ipv4Addr::BROADCAST) };
    let directed_broadcast = to(Ipv4Addr::new(10, 244, 1, 255));
    vec![
        pass("unknown destination outside", to(Ipv4Addr::new(1, 1, 1, 1)).bytes(), PassReason::NotPod),
        pass(
            "unknown address in the own pod CIDR",
            to(Ipv4Addr::new(10, 244, 1, 99)).bytes(),
            PassReason::NotPod,
        ),
        pass("the node itself", to(Ipv4Addr::new(192, 168, 1, 11)).bytes(), PassReason::NotPod),
        pass("the gateway", to(Ipv4Addr::new(10, 244, 1, 1)).bytes(), PassReason::NotPod),
        pass("unknown destination, IPv6", to6("2001:db8::1".parse().unwrap()).bytes(), PassReason::NotPod),
        pass("broadcast", broadcast.bytes(), PassReason::NotForHost),
        pass("directed broadcast", directed_broadcast.bytes(), PassReason::NotPod),
        pass("multicast", multicast.bytes(), PassReason::NotForHost),
        pass(
            "a pod's address in a frame to another MAC address",
            Packet { destination_mac: MAC_B, ..to(POD_B) }.bytes(),
            PassReason::NotForHost,
        ),
        pass("ARP, broadcast", arp(MAC_A, POD_A, POD_B), PassReason::NotForHost),
        pass(
            "an unknown EtherType",
            [&HOST_MAC_A[..], &MAC_A, &[0x88, 0xb5], &[0; 46]].concat(),
            PassReason::NotIp,
        ),
        pass("a VLAN tag", vlan, PassReason::NotIp),
        pass("IPv4 options, local", options.bytes(), PassReason::Options),
        pass(
            "IPv4 options, remote",
            Packet { options: vec![0x94, 0x04, 0, 0], ..to(REMOTE) }.bytes(),
            PassReason::Options,
        ),
        pass("IPv6 hop-by-hop options", hop_by_hop.bytes(), PassReason::Options),
        pass("another version in the header", wrong_version, PassReason::Malformed),
        pass("a header length below five words", short_header, PassReason::Malformed),
        pass("TTL 1 to a remote pod", Packet { ttl: 1, ..to(REMOTE) }.bytes(), PassReason::HopLimit),
        pass("TTL 0 to a remote pod", Packet { ttl: 0, ..to(REMOTE) }.bytes(), PassReason::HopLimit),
        pass("hop limit 1 to a remote pod", Packet { ttl: 1, ..to6(REMOTE6) }.bytes(), PassReason::HopLimit),
        pass("a next hop of an unknown kind", to(REMOTE_UNKNOWN).bytes(), PassReason::UnknownNextHop),
        pass(
            "a pod CIDR of another length than most, in the hash",
            to(REMOTE_LONGER).bytes(),
            PassReason::UnknownNextHop,
        ),
    ]
}

/// Packets around the MTU; `payload` for a whole IPv4 UDP packet is the MTU less 28.
fn sizes() -> Vec<Case> {
    let mtu = usize::try_from(MTU).unwrap();
    let whole = Packet { payload: mtu - 28, ..to(REMOTE) };
    let over = Packet { payload: mtu - 27, ..to(REMOTE) };
    let over6 = Packet { payload: mtu - 47, ..to6(REMOTE6) };
    let tcp = Packet { protocol: IpNumber::TCP, payload: 3000, ..to(REMOTE) };
    let udp = Packet { payload: 3000, ..to(REMOTE) };
    let gre = Packet { protocol: IpNumber::GRE, payload: 3000, ..to(REMOTE) };
    let gso = |case: Case, size: u32| Case { gso_size: Some(size), ..case };
    let too_big = |name, packet: &Packet| pass(name, packet.bytes(), PassReason::TooBig);
    vec![
        remote("as large as the MTU", &whole),
        too_big("one byte over the MTU", &over),
        too_big("one byte over the MTU, IPv6", &over6),
        gso(remote("GSO, TCP segments as large as the MTU", &tcp), MTU - 40),
        gso(too_big("GSO, TCP segments one byte over", &tcp), MTU - 39),
        gso(remote("GSO, UDP segments as large as the MTU", &udp), MTU - 28),
        gso(too_big("GSO, UDP segments one byte over", &udp), MTU - 27),
        gso(too_big("GSO of a protocol that the program does not know", &gre), 1000),
        gso(
            remote(
                "GSO, IPv6 TCP segments as large as the MTU",
                &Packet { protocol: IpNumber::TCP, payload: 3000, ..to6(REMOTE6) },
            ),
            MTU - 60,
        ),
    ]
}

fn sources() -> Vec<Case> {
    let link_local: Ipv6Addr = "fe80::1".parse().unwrap();
    let from = |source: Ipv4Addr| Packet::udp(MAC_A, HOST_MAC_A, Ip::V4(source, REMOTE));
    let from6 = |source: Ipv6Addr| Packet::udp(MAC_A, HOST_MAC_A, Ip::V6(source, POD_B6));
    vec![
        drop("another local pod's source IP", &from(POD_B), DropReason::SourceIp),
        drop("a remote pod's source IP", &from(REMOTE), DropReason::SourceIp),
        drop("the gateway's source IP", &from(Ipv4Addr::new(10, 244, 1, 1)), DropReason::SourceIp),
        drop("no source IP", &from(Ipv4Addr::UNSPECIFIED), DropReason::SourceIp),
        drop(
            "a wrong source IP to an unknown destination",
            &Packet::udp(MAC_A, HOST_MAC_A, Ip::V4(REMOTE, Ipv4Addr::new(1, 1, 1, 1))),
            DropReason::SourceIp,
        ),
        drop(
            "a wrong source IP with options",
            &Packet { options: vec![1, 1, 1, 0], ..from(POD_B) },
            DropReason::SourceIp,
        ),
        drop("another local pod's source IP, IPv6", &from6(POD_B6), DropReason::SourceIp),
        drop("a foreign source IP, IPv6", &from6(REMOTE6), DropReason::SourceIp),
        drop("a wrong source MAC address", &Packet { source_mac: MAC_B, ..to(POD_B) }, DropReason::SourceMac),
        drop(
            "a source MAC address wrong in its last bit",
            &Packet { source_mac: [2, 0, 0, 0, 0x0a, 0], ..to(REMOTE) },
            DropReason::SourceMac,
        ),
        drop(
            "a wrong source MAC address, IPv6",
            &Packet { source_mac: MAC_B, ..to6(POD_B6) },
            DropReason::SourceMac,
        ),
        pass("a link-local source", from6(link_local).bytes(), PassReason::LinkLocal),
        pass(
            "the highest link-local prefix",
            from6("febf::1".parse().unwrap()).bytes(),
            PassReason::LinkLocal,
        ),
        drop("next to the link-local prefix", &from6("fec0::1".parse().unwrap()), DropReason::SourceIp),
        pass("no source IP yet, IPv6", from6(Ipv6Addr::UNSPECIFIED).bytes(), PassReason::LinkLocal),
    ]
}
