//! The maps in a kernel.

use super::*;
use dataplane_common::{ALL_PODS, ALL_ROUTES, FlowEntry, FlowKey, filter_place};

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

const HOUR: Duration = Duration::from_secs(3600);

/// A flow between two pods that was last seen at that time, as the programs note it: its key.
fn note(maps: &mut Maps, last: u8, seen: Duration) -> FlowKey<Ip4> {
    let [source, destination] = [last, last + 1].map(|last| Ip4 { addr: [10, 244, 1, last] });
    let key = FlowKey { source, destination, ports: [[0, 80], [200, last]], protocol: 6, reserved: [0; 3] };
    maps.v4.note(&key, FlowEntry::seen(u64::try_from(seen.as_nanos()).unwrap()));
    let place = filter_place(source, destination);
    [FlowGate::FIRST, FlowGate::SECOND].into_iter().for_each(|state| maps.flow_filter.mark(state, place));
    if maps.gate() == FlowGate::SHUT {
        maps.set_flow_gate(FlowGate::FIRST).unwrap();
    }
    key
}

impl Maps {
    fn gate(&self) -> u32 {
        self.flow_gate.get(&0, 0).unwrap().state
    }

    /// Whether the programs would look for that flow.
    fn is_looked_for(&self, key: &FlowKey<Ip4>) -> bool {
        self.flow_filter.is_marked(self.gate(), filter_place(key.source, key.destination))
    }
}

#[test]
fn a_sweep_leaves_a_filter_of_the_flows_that_remain() {
    let mut maps = maps();
    let ages = FlowAges { tcp: HOUR, other: HOUR };
    let (old, young) = (note(&mut maps, 2, HOUR), note(&mut maps, 7, HOUR * 2));
    assert_eq!(maps.sweep_flows(HOUR * 2, ages).unwrap(), 2);
    assert_eq!(maps.gate(), FlowGate::SECOND, "the other filter is in use");
    assert!(maps.is_looked_for(&old) && maps.is_looked_for(&young));
    let place = filter_place(young.source, young.destination);
    assert!(maps.flow_filter.is_marked(FlowGate::FIRST, place), "programs may have used it until now");
    assert_eq!(maps.sweep_flows(HOUR * 2 + HOUR / 2, ages).unwrap(), 1);
    assert_eq!(maps.gate(), FlowGate::FIRST);
    assert!(!maps.is_looked_for(&old) && maps.is_looked_for(&young));
    // One that comes between two sweeps is in both.
    let new = note(&mut maps, 30, HOUR * 3);
    assert_eq!(maps.sweep_flows(HOUR * 3, ages).unwrap(), 2);
    assert!(maps.is_looked_for(&new) && maps.is_looked_for(&young));
    assert_eq!(maps.sweep_flows(HOUR * 9, ages).unwrap(), 0);
    assert_eq!(maps.gate(), FlowGate::SHUT);
    // It is the first filter that the programs use next.
    let next = note(&mut maps, 40, HOUR * 9);
    assert!(maps.is_looked_for(&next) && !maps.is_looked_for(&new));
}

#[test]
fn after_a_handover_the_flows_of_both_agents_are_looked_for() {
    let mut maps = maps();
    maps.pass_all_flows().unwrap();
    assert_eq!(maps.gate(), FlowGate::ALL);
    let key = note(&mut maps, 2, HOUR);
    // Entered by programs that know of no filter.
    maps.flow_filter.clear(FlowGate::FIRST);
    maps.flow_filter.clear(FlowGate::SECOND);
    maps.pass_known_flows().unwrap();
    assert_eq!(maps.gate(), FlowGate::FIRST);
    assert!(maps.is_looked_for(&key));
    assert_eq!(maps.sweep_flows(HOUR, FlowAges { tcp: HOUR, other: HOUR }).unwrap(), 1);
    assert!(maps.is_looked_for(&key));
}
