//! `from_pod` into the overlay: the outer headers that it writes, byte by byte, and when it leaves them to the device.

use std::net::{Ipv4Addr, Ipv6Addr};

use dataplane_common::{Forwarded, Hook, PassReason, Verdict};
use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header};
use podlane::datapath::Features;

use crate::{
    fixture::{
        Case, Fixture, From, HOST_MAC_A, MAC_A, NODE, NODE6, OVERLAY_PEER_MAC, PEER, PEER6, POD_A, POD_A6,
        TUNNEL_MTU, TUNNELLED, Tables, UNUSED_TUNNEL, WRAPPED, WRAPPED_BY6, WRAPPED_BY6_6, WRAPPED6,
    },
    packet::{Ip, Packet},
};

fn to(destination: Ipv4Addr) -> Packet {
    Packet::udp(MAC_A, HOST_MAC_A, Ip::V4(POD_A, destination))
}

fn to6(destination: Ipv6Addr) -> Packet {
    Packet::udp(MAC_A, HOST_MAC_A, Ip::V6(POD_A6, destination))
}

/// As it goes to the peer's overlay device.
fn inner(packet: &Packet) -> Vec<u8> {
    Packet { ttl: packet.ttl - 1, destination_mac: OVERLAY_PEER_MAC, ..packet.clone() }.bytes()
}

/// The inner frame's own Ethernet header, which is no more than a place in the outer frame yet, the outer headers, and
/// the inner frame. The source port is zero.
fn wrapped(inner: &[u8], v6: bool, congestion: u8) -> Vec<u8> {
    let udp_len = u16::try_from(16 + inner.len()).unwrap();
    let mut frame = inner[..14].to_vec();
    if v6 {
        let header = Ipv6Header {
            traffic_class: congestion,
            flow_label: Ipv6FlowLabel::ZERO,
            payload_length: udp_len,
            next_header: IpNumber::UDP,
            hop_limit: 64,
            source: NODE6.octets(),
            destination: PEER6.octets(),
        };
        frame.extend(header.to_bytes());
    } else {
        let mut header = Ipv4Header::new(udp_len, 64, IpNumber::UDP, NODE.octets(), PEER.octets()).unwrap();
        header.dont_fragment = true;
        header.ecn = etherparse::IpEcn::try_new(congestion).unwrap();
        header.header_checksum = header.calc_header_checksum();
        frame.extend(header.to_bytes());
    }
    // Port 8472; no UDP checksum.
    frame.extend([0, 0, 0x21, 0x18]);
    frame.extend(udp_len.to_be_bytes());
    frame.extend([0, 0]);
    // Flags: there is a VNI, which is 1.
    frame.extend([8, 0, 0, 0, 0, 0, 1, 0]);
    frame.extend(inner);
    frame
}

fn case(name: &'static str, packet: Vec<u8>, expected: Vec<u8>) -> Case {
    let verdict = Verdict::Forwarded(Forwarded::ToTunnel);
    Case::new(name, Hook::FromPod, From::PodA, packet, verdict, expected)
}

/// With an outer header of IPv4.
fn by4(name: &'static str, packet: &Packet) -> Case {
    let expected = wrapped(&inner(packet), false, 0);
    Case { any_port_at: Some(34), ..case(name, packet.bytes(), expected) }
}

/// With an outer header of IPv6.
fn by6(name: &'static str, packet: &Packet) -> Case {
    let expected = wrapped(&inner(packet), true, 0);
    Case { any_port_at: Some(54), ..case(name, packet.bytes(), expected) }
}

/// Left to the overlay device to be wrapped.
fn by_device(name: &'static str, packet: &Packet) -> Case {
    case(name, packet.bytes(), inner(packet))
}

/// A packet of a sender that reacts to congestion.
fn with_congestion(mut case: Case, congestion: u8) -> Case {
    let v6 = case.packet[12] == 0x86;
    let inner_at = case.any_port_at.unwrap() + 16;
    let [before, after] = [14, inner_at + 14].map(|ip| ip..ip + 20);
    for (bytes, ip) in [(&mut case.packet, before), (&mut case.expected, after)] {
        let ip = &mut bytes[ip];
        if v6 {
            ip[1] |= congestion << 4;
        } else {
            ip[1] |= congestion;
            checksum(ip);
        }
    }
    if inner_at == 50 {
        case.expected[15] |= congestion;
        checksum(&mut case.expected[14..34]);
    } else {
        case.expected[15] |= congestion << 4;
    }
    case
}

fn checksum(header: &mut [u8]) {
    let (parsed, _) = Ipv4Header::from_slice(header).unwrap();
    header[10..12].copy_from_slice(&parsed.calc_header_checksum().to_be_bytes());
}

/// The whole table.
pub fn cases() -> Vec<Case> {
    let largest = usize::try_from(TUNNEL_MTU).unwrap() - 28;
    let base = to(WRAPPED);
    let big = Packet { payload: largest, ..base.clone() };
    let too_big = Packet { payload: largest + 1, ..base.clone() }.bytes();
    let mut cases = vec![
        by4("wrapped, IPv4 in IPv4", &base),
        by4("wrapped, IPv6 in IPv4", &to6(WRAPPED6)),
        by6("wrapped, IPv4 in IPv6", &to(WRAPPED_BY6)),
        by6("wrapped, IPv6 in IPv6", &to6(WRAPPED_BY6_6)),
        by4("wrapped, TCP", &Packet { protocol: IpNumber::TCP, ..base.clone() }),
        by4("wrapped, a later fragment", &Packet { fragment: Some((185, false)), ..base.clone() }),
        by4("wrapped, nothing behind the IP header", &Packet { protocol: IpNumber::IGMP, ..base.clone() }),
        by4("wrapped, as large as the overlay takes", &big),
        Case::new(
            "one byte more than the overlay takes",
            Hook::FromPod,
            From::PodA,
            too_big.clone(),
            Verdict::Pass(PassReason::TooBig),
            too_big,
        ),
        with_congestion(by4("capable of reacting to congestion, IPv4 in IPv4", &base), 0b10),
        with_congestion(by4("told of congestion before, IPv6 in IPv4", &to6(WRAPPED6)), 0b11),
        with_congestion(by6("capable of reacting to congestion, IPv4 in IPv6", &to(WRAPPED_BY6)), 0b01),
        with_congestion(by6("told of congestion before, IPv6 in IPv6", &to6(WRAPPED_BY6_6)), 0b11),
        by_device("a route without a tunnel of ours", &to(TUNNELLED)),
        by_device("a route whose tunnel is not there", &to(UNUSED_TUNNEL)),
        // A GSO packet of no kind that may be wrapped: the test run does not say TCP.
        Case { gso_size: Some(1000), ..by_device("what the kernel lets nobody wrap", &big) },
    ];
    if !wraps() {
        // What is inside goes to the overlay device.
        for case in &mut cases {
            if let Some(port) = case.any_port_at.take() {
                case.expected.drain(..port + 16);
            }
        }
    }
    cases
}

/// Whether this kernel lets a tc program put the overlay's headers around a packet; says so where it does not.
fn wraps() -> bool {
    let features = Features::probe().unwrap();
    if !features.tunnel_wrap {
        println!("skipped: outer headers: the kernel has no BPF_F_ADJ_ROOM_ENCAP_L2_ETH (5.13 brought it)");
    }
    features.tunnel_wrap
}

#[test]
fn a_flow_keeps_its_outer_source_port_and_flows_differ() {
    if !wraps() {
        return;
    }
    Fixture::with(Tables::Slots, |fixture| {
        let mut port = |source_port: u16| {
            let mut packet = to(WRAPPED).bytes();
            packet[34..36].copy_from_slice(&source_port.to_be_bytes());
            let (_, output) = fixture.run(&case("a flow", packet, Vec::new())).unwrap();
            u16::from_be_bytes([output[34], output[35]])
        };
        let ports: std::collections::BTreeSet<u16> = (1000..1100).map(&mut port).collect();
        assert!(ports.len() > 50, "100 flows have {} outer ports", ports.len());
        assert!(ports.iter().all(|port| (32768..61000).contains(port)), "{ports:?}");
        assert_eq!(port(1000), port(1000));
    });
}
