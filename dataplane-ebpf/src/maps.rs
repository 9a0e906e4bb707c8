//! The maps, pinned by the agent under their own names. `docs/maps.md` describes them for operators.
#![expect(non_upper_case_globals, reason = "the kernel and bpftool show a map under the name of its static")]

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, DevMapHash, HashMap, LruHashMap, PerCpuArray},
    macros::btf_map,
};
use dataplane_common::{
    COUNTERS, Counter, FILTERS, FlowEntry, FlowFilter, FlowGate, FlowKey, Ip4, Ip6, NodeEntry, POD_SLOTS,
    PodEntry, PodSlot, ROUTE_SLOTS, RouteEntry, RouteKey, RouteSlot, Settings, TunnelEntry,
};

/// Entries are allocated as they come: an empty map costs its buckets only.
pub(crate) const GROWING: usize = BPF_F_NO_PREALLOC as usize;

/// Default size of the pod maps; the agent's `maxPods` changes it.
pub(crate) const PODS: usize = 256;

/// Default size of the route maps; the agent's `maxRoutes` changes it.
pub(crate) const ROUTES: usize = 8192;

/// Default size of the maps of flows through the stack; the agent's `maxStackFlows` changes it.
pub(crate) const FLOWS: usize = 32768;

/// Local pods by IPv4 address.
#[btf_map]
pub static pods4: HashMap<Ip4, PodEntry, PODS, GROWING> = HashMap::new();

/// Local pods by IPv6 address.
#[btf_map]
pub static pods6: HashMap<Ip6, PodEntry, PODS, GROWING> = HashMap::new();

/// Peer pod CIDRs, IPv4: a hash over the prefixes of every length in `settings`, tried from the longest on.
#[btf_map]
pub static routes4: HashMap<RouteKey<Ip4>, RouteEntry, ROUTES, GROWING> = HashMap::new();

/// Peer pod CIDRs, IPv6.
#[btf_map]
pub static routes6: HashMap<RouteKey<Ip6>, RouteEntry, ROUTES, GROWING> = HashMap::new();

/// Local pods once more, where their IPv4 address says: see [`PodSlot`].
#[btf_map]
pub static pod_slots4: Array<PodSlot<Ip4>, { POD_SLOTS as usize }> = Array::new();

/// Local pods once more, where their IPv6 address says.
#[btf_map]
pub static pod_slots6: Array<PodSlot<Ip6>, { POD_SLOTS as usize }> = Array::new();

/// Peer pod CIDRs once more, where their IPv4 prefix says: see [`RouteSlot`].
#[btf_map]
pub static route_slots4: Array<RouteSlot<Ip4>, { ROUTE_SLOTS as usize }> = Array::new();

/// Peer pod CIDRs once more, where their IPv6 prefix says.
#[btf_map]
pub static route_slots6: Array<RouteSlot<Ip6>, { ROUTE_SLOTS as usize }> = Array::new();

/// Pod-to-pod flows that go through the kernel's stack, IPv4. Preallocated, as the kernel wants it of LRU maps.
#[btf_map]
pub static stack_flows4: LruHashMap<FlowKey<Ip4>, FlowEntry, FLOWS> = LruHashMap::new();

/// Pod-to-pod flows that go through the kernel's stack, IPv6.
#[btf_map]
pub static stack_flows6: LruHashMap<FlowKey<Ip6>, FlowEntry, FLOWS> = LruHashMap::new();

/// Whether there may be such flows; one element.
#[btf_map]
pub static flow_gate: Array<FlowGate, 1> = Array::new();

/// Between which pods there may be such flows: two, in turns. The agent writes to it in its own memory, as an update by
/// system call would undo what the programs write meanwhile.
#[btf_map]
pub static flow_filter: Array<FlowFilter, { FILTERS as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Peer nodes by IPv4 address: who may send through the overlay.
#[btf_map]
pub static nodes4: HashMap<Ip4, NodeEntry, ROUTES, GROWING> = HashMap::new();

/// Peer nodes by IPv6 address.
#[btf_map]
pub static nodes6: HashMap<Ip6, NodeEntry, ROUTES, GROWING> = HashMap::new();

/// How outer packets reach peer nodes; `RouteEntry::tunnel` says which element.
#[btf_map]
pub static tunnels: Array<TunnelEntry, ROUTES> = Array::new();

/// Pods' host-side interfaces by index, for XDP to send to.
#[btf_map]
pub static wire_ports: DevMapHash<PODS> = DevMapHash::new();

/// What changes while the programs run; one element.
#[btf_map]
pub static settings: Array<Settings, 1> = Array::new();

/// Packets and bytes by hook and verdict.
#[btf_map]
pub static counters: PerCpuArray<Counter, { COUNTERS as usize }> = PerCpuArray::new();
