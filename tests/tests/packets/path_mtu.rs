//! Routers that find the overlay's packets too big tell the node, and `from_wire` notes it for `from_pod`.

use std::net::{IpAddr, Ipv4Addr};

use dataplane_common::{Hook, PassReason, Verdict};
use etherparse::PacketBuilder;

use crate::{
    fixture::{
        Case, Fixture, From, HOST_MAC_A, MAC_A, NODE, NODE6, PEER, PEER_MAC, PEER6, POD_A, TUNNEL4, TUNNEL6,
        UPLINK_MAC, WRAPPED,
    },
    packet::{Ip, Packet},
};

const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 99));
const PORT: u16 = 8472;

/// A UDP packet as the router has it, without its Ethernet header.
fn outer(source: IpAddr, destination: IpAddr, port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(PEER_MAC, UPLINK_MAC);
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            builder.ipv4(source.octets(), destination.octets(), 60)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            builder.ipv6(source.octets(), destination.octets(), 60)
        }
        _ => unreachable!("two families"),
    }
    .udp(50000, port)
    .write(&mut frame, &[0xab; 32])
    .unwrap();
    frame[14..].to_vec()
}

/// The router's message: type, code, the word behind the checksum, and the packet.
fn message(to: IpAddr, kind: u8, code: u8, word: u32, quoted: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(PEER_MAC, UPLINK_MAC);
    let word = word.to_be_bytes();
    match to {
        IpAddr::V4(to) => builder.ipv4([192, 168, 1, 1], to.octets(), 64).icmpv4_raw(kind, code, word),
        IpAddr::V6(to) => {
            let router = [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
            let builder = builder.ipv6(router, to.octets(), 64);
            return {
                builder.icmpv6_raw(kind, code, word).write(&mut frame, quoted).unwrap();
                frame
            };
        }
    }
    .write(&mut frame, quoted)
    .unwrap();
    frame
}

fn too_big4(mtu: u32) -> Vec<u8> {
    message(NODE.into(), 3, 4, mtu, &outer(NODE.into(), PEER.into(), PORT))
}

fn too_big6(mtu: u32) -> Vec<u8> {
    message(NODE6.into(), 2, 0, mtu, &outer(NODE6.into(), PEER6.into(), PORT))
}

fn pass(name: &'static str, packet: Vec<u8>, reason: PassReason) -> Case {
    Case::new(name, Hook::FromWire, From::Wire, packet.clone(), Verdict::Pass(reason), packet)
}

/// What is noted, and what looks like it.
pub fn cases() -> Vec<Case> {
    let quoted = outer(NODE.into(), PEER.into(), PORT);
    let about = |quoted: &[u8]| message(NODE.into(), 3, 4, 1400, quoted);
    let mut tcp = quoted.clone();
    tcp[9] = 6;
    let mut options = quoted.clone();
    options[0] = 0x46;
    let mut fragment = too_big4(1400);
    fragment[20] = 0x20;
    let noted = |name, packet| pass(name, packet, PassReason::PathMtu);
    let other = |name, packet| pass(name, packet, PassReason::NotPod);
    vec![
        noted("too big", too_big4(1400)),
        noted("too big, IPv6", too_big6(1400)),
        noted("too big, and no more than 8 bytes quoted", about(&quoted[..28])),
        other("cut short", about(&quoted[..22])),
        other("the node is unreachable", message(NODE.into(), 3, 1, 0, &quoted)),
        other("time exceeded", message(NODE.into(), 11, 0, 0, &quoted)),
        other(
            "a parameter problem, IPv6",
            message(NODE6.into(), 4, 0, 0, &outer(NODE6.into(), PEER6.into(), PORT)),
        ),
        other("about another port", about(&outer(NODE.into(), PEER.into(), 53))),
        other("about another protocol", about(&tcp)),
        other("about a packet with options", about(&options)),
        other("about a packet of another node", about(&outer(PEER.into(), NODE.into(), PORT))),
        other("about a packet to a stranger", about(&outer(NODE.into(), STRANGER, PORT))),
        other("to another node", message(PEER.into(), 3, 4, 1400, &quoted)),
        other("in a fragment", fragment),
    ]
}

#[test]
fn what_routers_say_of_the_overlays_packets_is_noted_for_the_pods() {
    Fixture::with(|fixture| {
        for case in cases().iter().filter(|case| case.verdict != Verdict::Pass(PassReason::PathMtu)) {
            fixture.check(case).unwrap();
        }
        assert_eq!([TUNNEL4, TUNNEL6].map(|tunnel| fixture.tunnel(tunnel).path_mtu), [0, 0]);
        let fitting = Packet::udp(MAC_A, HOST_MAC_A, Ip::V4(POD_A, WRAPPED));
        let sized = |mtu: usize| Packet { payload: mtu - 28, ..fitting.clone() };
        let fits = |fixture: &mut Fixture, mtu: usize| {
            let packet = sized(mtu).bytes();
            let case = Case::new(
                "sent",
                Hook::FromPod,
                From::PodA,
                packet.clone(),
                Verdict::Pass(PassReason::TooBig),
                packet,
            );
            fixture.check(&case).is_err()
        };
        assert!(fits(fixture, 1450));
        // 50 bytes less for the inner packet; the smallest counts, and none that is too small to be true.
        for (told, noted) in [(1400, 1350), (1300, 1250), (1400, 1250), (100, 502), (0, 502)] {
            fixture.check(&pass("told", too_big4(told), PassReason::PathMtu)).unwrap();
            assert_eq!(fixture.tunnel(TUNNEL4).path_mtu, noted, "after {told}");
            assert!(fixture.tunnel(TUNNEL4).learned > 0);
            let noted = usize::try_from(noted).unwrap();
            assert!(fits(fixture, noted) && !fits(fixture, noted + 1), "after {told}");
        }
        fixture.check(&pass("told", too_big6(1400), PassReason::PathMtu)).unwrap();
        assert_eq!(fixture.tunnel(TUNNEL6).path_mtu, 1330);
    });
}
