//! The filter in front of the flows through the stack.

use dataplane_common::{Forwarded, Hook, Ip4, PassReason, Verdict};
use etherparse::IpNumber;

use crate::{
    fixture::{
        Case, Fixture, From, HOST_MAC_A, HOST_MAC_B, MAC_A, MAC_B, PEER_MAC, POD_A, POD_B, REMOTE, Tables,
        UPLINK_MAC, udp_flow,
    },
    packet::{Ip, Packet},
};

/// From pod A to pod B.
fn to_b(packet: &Packet) -> Packet {
    Packet { source_mac: HOST_MAC_B, destination_mac: MAC_B, ..packet.clone() }
}

fn case(packet: &Packet, verdict: Verdict, expected: &Packet) -> Case {
    let case = Case::new("", Hook::FromPod, From::PodA, packet.bytes(), verdict, expected.bytes());
    Case { flows: true, ..case }
}

#[test]
fn flows_are_looked_for_where_the_filter_in_use_says_so() {
    Fixture::with(Tables::Slots, |fixture| {
        let packet = Packet::udp(MAC_A, HOST_MAC_A, Ip::V4(POD_A, POD_B));
        let passed = case(&packet, Verdict::Pass(PassReason::StackFlow), &packet);
        let forwarded = case(&packet, Verdict::Forwarded(Forwarded::ToPod), &to_b(&packet));
        for second_filter in [false, true] {
            fixture.second_filter = second_filter;
            fixture.check(&passed).unwrap();
        }
        // The agent never does: it shows which one is read.
        fixture.unmark(0, POD_A, POD_B);
        fixture.check(&passed).unwrap();
        fixture.second_filter = false;
        fixture.check(&forwarded).unwrap();
        fixture.unmark(1, POD_A, POD_B);
        fixture.second_filter = true;
        fixture.check(&forwarded).unwrap();
    });
}

#[test]
fn a_flow_that_is_noted_is_marked_in_both_filters() {
    Fixture::with(Tables::Slots, |fixture| {
        assert_eq!(fixture.is_marked(REMOTE, POD_A), [false; 2]);
        // From the stack, to another node.
        let packet = Packet::udp(UPLINK_MAC, PEER_MAC, Ip::V4(POD_A, REMOTE)).bytes();
        let noted = Case::new(
            "",
            Hook::ToWire,
            From::Wire,
            packet.clone(),
            Verdict::Pass(PassReason::Noted),
            packet.clone(),
        );
        fixture.check(&noted).unwrap();
        assert!(fixture.has_flow4(&udp_flow(Ip4::from(POD_A), Ip4::from(REMOTE)).reversed()));
        assert_eq!(fixture.is_marked(REMOTE, POD_A), [true; 2]);
        assert_eq!(fixture.is_marked(POD_A, REMOTE), [true; 2], "as before");
        // A mark that has got lost comes back with the flow's next packet.
        fixture.unmark(0, REMOTE, POD_A);
        fixture.check(&noted).unwrap();
        assert_eq!(fixture.is_marked(REMOTE, POD_A), [true; 2]);
    });
}

#[test]
fn fragments_between_pods_without_such_flows_stay_on_the_fast_path() {
    Fixture::with(Tables::Slots, |fixture| {
        let fragment = |packet: Packet| Packet { fragment: Some((185, false)), ..packet };
        let packet = fragment(Packet::udp(MAC_A, HOST_MAC_A, Ip::V4(POD_A, POD_B)));
        fixture.check(&case(&packet, Verdict::Pass(PassReason::Fragment), &packet)).unwrap();
        fixture.unmark(0, POD_A, POD_B);
        fixture.check(&case(&packet, Verdict::Forwarded(Forwarded::ToPod), &to_b(&packet))).unwrap();
        // What may be an ICMP error is looked at, whoever sends it: it may be about other pods' flows.
        let other = Packet { protocol: IpNumber::ICMP, ..packet };
        fixture.check(&case(&other, Verdict::Pass(PassReason::Fragment), &other)).unwrap();
    });
}
