//! `to_pod`, `to_wire` and `post_routing`: they change nothing and pass everything, and note the pod-to-pod flows of the
//! stack.

use dataplane_common::{Hook, Ip4, Ip6, MARK_FORWARDED, MARK_POD_TO_POD, PassReason, Verdict};

use crate::{
    fixture::{
        Case, Fixture, From, HOST_MAC_A, HOST_MAC_B, MAC_A, MAC_B, NODE, PEER, PEER_MAC, POD_A, POD_B,
        POD_B6, REMOTE, REMOTE6, Tables, UPLINK_MAC, udp_flow,
    },
    has_netfilter,
    packet::{Ip, Packet, arp},
};

pub fn case(name: &'static str, hook: Hook, packet: Vec<u8>, reason: PassReason) -> Case {
    let from = if hook == Hook::ToPod { From::PodA } else { From::Wire };
    Case::new(name, hook, from, packet.clone(), Verdict::Pass(reason), packet)
}

fn to_b(source: Ip) -> Packet {
    Packet::udp(HOST_MAC_B, MAC_B, source)
}

pub fn out(source: Ip) -> Packet {
    Packet::udp(UPLINK_MAC, PEER_MAC, source)
}

/// The same packets, but those that netfilter's hooks for IP never see.
pub fn netfilter_cases() -> Vec<Case> {
    let ip = cases().into_iter().filter(|case| case.verdict != Verdict::Pass(PassReason::NotIp));
    ip.map(|case| Case { hook: Hook::PostRouting, ..case }).collect()
}

/// The whole table.
pub fn cases() -> Vec<Case> {
    let later = |packet: Packet| Packet { fragment: Some((185, false)), ..packet }.bytes();
    vec![
        case(
            "a remote pod's packet, to a pod",
            Hook::ToPod,
            to_b(Ip::V4(REMOTE, POD_B)).bytes(),
            PassReason::Noted,
        ),
        case(
            "a local pod's packet, to a pod",
            Hook::ToPod,
            to_b(Ip::V4(POD_A, POD_B)).bytes(),
            PassReason::Noted,
        ),
        case("IPv6, to a pod", Hook::ToPod, to_b(Ip::V6(REMOTE6, POD_B6)).bytes(), PassReason::Noted),
        case(
            "the node's packet, to a pod",
            Hook::ToPod,
            to_b(Ip::V4(NODE, POD_B)).bytes(),
            PassReason::NotPod,
        ),
        case(
            "a later fragment, to a pod",
            Hook::ToPod,
            later(to_b(Ip::V4(REMOTE, POD_B))),
            PassReason::Fragment,
        ),
        case(
            "a first fragment with ports, to a pod",
            Hook::ToPod,
            Packet { fragment: Some((0, true)), ..to_b(Ip::V4(REMOTE, POD_B)) }.bytes(),
            PassReason::Noted,
        ),
        case("ARP, to a pod", Hook::ToPod, arp(HOST_MAC_B, NODE, POD_B), PassReason::NotIp),
        case(
            "a local pod's packet, out",
            Hook::ToWire,
            out(Ip::V4(POD_A, REMOTE)).bytes(),
            PassReason::Noted,
        ),
        case("the node's packet, out", Hook::ToWire, out(Ip::V4(NODE, PEER)).bytes(), PassReason::NotPod),
        case(
            "the node's packet to a remote pod, out",
            Hook::ToWire,
            out(Ip::V4(NODE, REMOTE)).bytes(),
            PassReason::NotPod,
        ),
        case(
            "cut off, out",
            Hook::ToWire,
            out(Ip::V4(POD_A, REMOTE)).bytes()[..40].to_vec(),
            PassReason::Malformed,
        ),
    ]
}

fn the_other_direction_is_noted(hook: Hook) {
    Fixture::with(Tables::Slots, move |fixture| {
        let flow = udp_flow(Ip4::from(REMOTE), Ip4::from(POD_A)).reversed();
        assert!(!fixture.has_flow4(&flow));
        let packet = out(Ip::V4(REMOTE, POD_A)).bytes();
        fixture.check(&case("noted", hook, packet, PassReason::Noted)).unwrap();
        assert!(fixture.has_flow4(&flow));

        let flow = udp_flow(Ip6::from(REMOTE6), Ip6::from(POD_B6)).reversed();
        assert!(!fixture.has_flow6(&flow));
        let packet = out(Ip::V6(REMOTE6, POD_B6)).bytes();
        fixture.check(&case("noted", hook, packet, PassReason::Noted)).unwrap();
        assert!(fixture.has_flow6(&flow));
    });
}

#[test]
fn the_other_direction_of_the_stacks_flows_is_noted_and_the_gate_opened() {
    the_other_direction_is_noted(Hook::ToPod);
}

#[test]
fn netfilters_program_notes_the_other_direction_as_well() {
    if has_netfilter() {
        the_other_direction_is_noted(Hook::PostRouting);
    }
}

#[test]
fn a_flow_through_the_stack_lives_by_the_packets_of_either_direction() {
    Fixture::with(Tables::Slots, |fixture| {
        let flow = udp_flow(Ip4::from(POD_A), Ip4::from(POD_B));
        let packet = Packet::udp(MAC_A, HOST_MAC_A, Ip::V4(POD_A, POD_B)).bytes();
        let verdict = Verdict::Pass(PassReason::StackFlow);
        let passed = Case {
            flows: true,
            ..Case::new("passed", Hook::FromPod, From::PodA, packet.clone(), verdict, packet)
        };
        assert_eq!(fixture.last_seen4(&flow), Some(1));
        fixture.check(&passed).unwrap();
        let then = fixture.last_seen4(&flow).unwrap();
        assert!(then > 1, "{then}");
        // Not with every packet.
        fixture.check(&passed).unwrap();
        assert_eq!(fixture.last_seen4(&flow), Some(then));
    });
}

#[test]
fn what_the_programs_have_forwarded_or_seen_go_in_is_not_noted() {
    Fixture::with(Tables::Slots, |fixture| {
        let flow = udp_flow(Ip4::from(POD_A), Ip4::from(REMOTE)).reversed();
        let packet = out(Ip::V4(POD_A, REMOTE)).bytes();
        for mark in [MARK_FORWARDED, MARK_POD_TO_POD, MARK_POD_TO_POD | 0x4000] {
            let marked = Case { mark, ..case("marked", Hook::ToWire, packet.clone(), PassReason::Noted) };
            let (action, output) = fixture.run(&marked).unwrap();
            assert_eq!((action, output), (-1, packet.clone()));
            assert!(!fixture.has_flow4(&flow), "mark {mark:#x}");
        }
        // The same packet without our mark, but another's: so it was the mark.
        let other = Case { mark: 0x4000, ..case("unmarked", Hook::ToWire, packet, PassReason::Noted) };
        fixture.check(&other).unwrap();
        assert!(fixture.has_flow4(&flow));
    });
}
