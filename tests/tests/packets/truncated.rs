//! Frames that end too early. Those too short for an IP header are sent through a real interface: Linux 6.18 no longer
//! takes them for `BPF_PROG_TEST_RUN`.

use dataplane_common::{Forwarded, Hook, PassReason, Verdict};

use crate::{
    fixture::{
        Case, Fixture, From, HOST_MAC_A, HOST_MAC_B, MAC_A, MAC_B, PEER_MAC, POD_A, POD_B, REMOTE, Tables,
        UPLINK_MAC,
    },
    packet::{Ip, Packet},
};

/// Length of an Ethernet header.
const ETHERNET: usize = 14;

/// Length of an Ethernet and an IPv4 header.
const HEADERS: usize = 34;

fn whole() -> [(Hook, From, Packet); 2] {
    [
        (Hook::FromPod, From::PodA, Packet::udp(MAC_A, HOST_MAC_A, Ip::V4(POD_A, POD_B))),
        (Hook::FromWire, From::Wire, Packet::udp(PEER_MAC, UPLINK_MAC, Ip::V4(REMOTE, POD_B))),
    ]
}

/// Every length from whole headers on: all but the whole frame are left to the kernel, which drops them.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (hook, from, packet) in whole() {
        let bytes = packet.bytes();
        assert_eq!(bytes.len(), 60);
        for length in HEADERS..60 {
            let cut = bytes[..length].to_vec();
            let verdict = Verdict::Pass(PassReason::Malformed);
            let expected = cut.clone();
            cases.push(Case::new("cut off", hook, from, cut, verdict, expected));
        }
        // The receiving node is a hop, the sending pod's node none to its own pods.
        let ttl = if hook == Hook::FromWire { packet.ttl - 1 } else { packet.ttl };
        let expected = Packet { source_mac: HOST_MAC_B, destination_mac: MAC_B, ttl, ..packet }.bytes();
        let verdict = Verdict::Forwarded(Forwarded::ToPod);
        cases.push(Case::new("whole", hook, from, bytes, verdict, expected));
    }
    cases
}

#[test]
fn frames_too_short_for_an_ip_header_are_left_to_the_kernel() {
    Fixture::with(Tables::Slots, |fixture| {
        for (hook, from, packet) in whole() {
            fixture.attach(hook, from);
            let bytes = packet.bytes();
            for length in ETHERNET..HEADERS {
                let counted = fixture.send(hook, from, &bytes[..length]).unwrap();
                assert_eq!(counted, ["pass-malformed"], "{length} bytes, {}", hook.name());
            }
        }
    });
}

#[test]
fn frames_too_short_for_an_ethernet_header_cannot_be_sent_at_all() {
    Fixture::with(Tables::Slots, |fixture| {
        for (hook, from, packet) in whole() {
            for length in 0..ETHERNET {
                let sent = fixture.send(hook, from, &packet.bytes()[..length]);
                assert!(sent.is_err(), "{length} bytes were sent: assert what becomes of them");
            }
        }
    });
}
