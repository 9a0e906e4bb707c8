//! The maps in a kernel.

use super::*;
use dataplane_common::{ALL_PODS, ALL_ROUTES};

/// Real maps of the running kernel; the tests of this crate run as root.
fn maps() -> Maps {
    Maps::take(&mut super::super::load_unpinned().unwrap()).unwrap()
}

fn all_slots(maps: &Maps) -> (u32, u32) {
    let now = maps.settings.get(&0, 0).unwrap();
    (now.all_slots4, now.all_slots6)
}

fn pod(ifindex: u32) -> PodEndpoint {
    PodEndpoint { ifindex, mac: [2; 6], host_mac: [4; 6] }
}

fn route(ifindex: u32) -> PeerRoute {
    PeerRoute { ifindex, mtu: 1500, next_hop: PeerNextHop::Direct("192.168.1.12".parse().unwrap()) }
}

#[test]
fn pods_that_share_a_slot_are_told_to_the_programs_until_one_leaves() {
    let mut maps = maps();
    assert_eq!(all_slots(&maps), (ALL_PODS | ALL_ROUTES, ALL_PODS | ALL_ROUTES), "nothing is in its slots");
    let (first, second) = ("10.244.1.2".parse().unwrap(), "10.244.5.2".parse().unwrap());
    maps.set_pod(first, pod(7)).unwrap();
    assert_eq!(all_slots(&maps).0, ALL_PODS | ALL_ROUTES);
    maps.set_pod(second, pod(8)).unwrap();
    assert_eq!(all_slots(&maps), (ALL_ROUTES, ALL_PODS | ALL_ROUTES));
    assert_eq!(maps.pods().unwrap().len(), 2);
    assert_eq!(maps.v4.slot_of_pod(Ip4 { addr: [10, 244, 1, 2] }).pod.ifindex, 7, "who was first keeps it");
    maps.remove_pod(first).unwrap();
    assert_eq!(all_slots(&maps).0, ALL_PODS | ALL_ROUTES);
    assert_eq!(maps.v4.slot_of_pod(Ip4 { addr: [10, 244, 5, 2] }).pod.ifindex, 8, "the other one moves up");
}

#[test]
fn routes_are_in_the_slots_of_the_length_that_most_have() {
    let mut maps = maps();
    let routes = |cidrs: &[(&str, u32)]| {
        cidrs.iter().map(|(cidr, ifindex)| (cidr.parse().unwrap(), route(*ifindex))).collect()
    };
    maps.set_routes(
        &routes(&[("10.244.2.0/24", 3), ("10.244.3.0/24", 3), ("fd00:244:1::/64", 3)]),
        Duration::ZERO,
    )
    .unwrap();
    assert_eq!(all_slots(&maps), (ALL_PODS | ALL_ROUTES, ALL_PODS | ALL_ROUTES));
    // A /26 is left to the hash; what changes is in its slot as well.
    maps.set_routes(
        &routes(&[("10.244.2.0/24", 9), ("10.244.3.0/24", 3), ("10.244.4.64/26", 3)]),
        Duration::ZERO,
    )
    .unwrap();
    assert_eq!(all_slots(&maps), (ALL_PODS, ALL_PODS | ALL_ROUTES));
    let now = maps.settings.get(&0, 0).unwrap();
    assert_eq!((now.slot_prefix_len4, now.slot_bits4, now.prefix_lens4), (24, 24, [26, 24, 0, 0]));
    assert_eq!(maps.v4.slot_of_route(Ip4 { addr: [10, 244, 2, 0] }).route.ifindex, 9);
    maps.set_routes(&routes(&[("10.244.3.0/24", 3)]), Duration::ZERO).unwrap();
    assert_eq!(all_slots(&maps).0, ALL_PODS | ALL_ROUTES);
    assert_eq!(maps.v4.slot_of_route(Ip4 { addr: [10, 244, 2, 0] }).key.prefix_len, 0);
}
