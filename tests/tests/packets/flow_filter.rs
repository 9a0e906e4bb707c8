//! The filter in front of the flows through the stack.

use dataplane_common::{Hook, Ip4, PassReason};
use etherparse::IpNumber;

use crate::{
    fixture::{Case, Fixture, POD_A, POD_B, REMOTE, Tables, udp_flow},
    from_pod::{local, pass, to},
    packet::{Ip, Packet},
    to_wire::{case, out},
};

fn with_flows(case: Case) -> Case {
    Case { flows: true, ..case }
}

#[test]
fn flows_are_looked_for_where_the_filter_in_use_says_so() {
    Fixture::with(Tables::Slots, |fixture| {
        let packet = to(POD_B);
        let passed = with_flows(pass("passed", packet.bytes(), PassReason::StackFlow));
        let forwarded = with_flows(local("forwarded", &packet));
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
        let packet = out(Ip::V4(POD_A, REMOTE)).bytes();
        let noted = case("noted", Hook::ToWire, packet, PassReason::Noted);
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
        let fragment = Packet { fragment: Some((185, false)), ..to(POD_B) };
        let passed = |packet: &Packet| with_flows(pass("passed", packet.bytes(), PassReason::Fragment));
        fixture.check(&passed(&fragment)).unwrap();
        fixture.unmark(0, POD_A, POD_B);
        fixture.check(&with_flows(local("forwarded", &fragment))).unwrap();
        // What may be an ICMP error is looked at, whoever sends it: it may be about other pods' flows.
        fixture.check(&passed(&Packet { protocol: IpNumber::ICMP, ..fragment })).unwrap();
    });
}
