//! What the programs and maps cost the kernel: a budget that a change must keep, or raise in sight of everybody.
//!
//! `cargo test -p podlane-tests --test budget -- --nocapture` prints the tables of `docs/maps.md`.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's helpers stop at the first thing that is not as expected"
)]

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData},
    programs::{ProgramInfo, SchedClassifier, Xdp},
};
use dataplane_common::{Hook, Ip4, Ip6, NodeEntry, PodEntry, RouteEntry, RouteKey};
use podlane::datapath::{Features, PostRouting};

/// Most instructions of each program, as loaded (the verifier's dead code removed), and most that the verifier walks:
/// Linux 6.1's walks up to half as many again as 6.12's, and 6.18's more of `from_pod` than either.
const PROGRAMS: [(Hook, u32, u32); 7] = [
    (Hook::FromPod, 2800, 16500),
    (Hook::FromWire, 5050, 35000),
    (Hook::FromOverlay, 2800, 11500),
    (Hook::XdpFromWire, 3900, 35000),
    (Hook::ToPod, 1750, 5500),
    (Hook::ToWire, 1750, 5500),
    (Hook::PostRouting, 1800, 7000),
];

/// Most kernel memory of all maps together, in bytes, with [`PODS`] local pods and [`NODES`] peer nodes in both families.
const MAPS: u64 = 16 << 20;
const PODS: u32 = 256;
const NODES: u32 = 5000;

#[test]
fn programs_keep_their_instruction_budget() {
    let mut ebpf = podlane::datapath::load_unpinned().unwrap();
    println!("| program | instructions | machine code, bytes | verified instructions |\n|---|---|---|---|");
    let mut over = Vec::new();
    let features = Features::probe().unwrap();
    let post_routing = features.netfilter.then(|| PostRouting::load(&ebpf).unwrap());
    for (hook, most, most_verified) in PROGRAMS {
        if hook == Hook::XdpFromWire && !features.xdp {
            println!("skipped: {}: it needs Linux 5.18, this is {}", hook.name(), features.kernel);
            continue;
        }
        if hook == Hook::PostRouting && !features.netfilter {
            println!("skipped: {}: it needs Linux 6.4, this is {}", hook.name(), features.kernel);
            continue;
        }
        let info = info(&mut ebpf, post_routing.as_ref(), hook);
        let instructions = info.size_translated().unwrap() / 8;
        // Told since Linux 5.16 (commit aba64c7da983), so wherever there can be XDP.
        let verified = info.verified_instruction_count();
        assert!(verified.is_some() || !features.xdp, "{}: no verified instructions", hook.name());
        let verified = verified.unwrap_or_default();
        println!("| `{}` | {instructions} | {} | {verified} |", hook.name(), info.size_jitted());
        if instructions > most || verified > most_verified {
            over.push(format!(
                "{}: {instructions} instructions (at most {most}), {verified} verified (at most {most_verified})",
                hook.name()
            ));
        }
    }
    assert!(over.is_empty(), "over budget: {}", over.join("; "));
}

#[test]
fn maps_keep_their_memory_budget() {
    let mut ebpf = podlane::datapath::load_unpinned().unwrap();
    fill(&mut ebpf);
    println!("| map | type | entries | kernel memory, KiB |\n|---|---|---|---|");
    let mut maps: Vec<(String, u64)> = Vec::new();
    for (name, map) in ebpf.maps() {
        let data = data(map);
        let memory = memory(data.fd().as_fd());
        let info = data.info().unwrap();
        println!(
            "| `{name}` | {:?} | {} | {} |",
            info.map_type().unwrap(),
            info.max_entries(),
            memory.div_ceil(1024)
        );
        maps.push((name.to_owned(), memory));
    }
    let total: u64 = maps.iter().map(|(_, memory)| memory).sum();
    println!("| all | | | {} |", total.div_ceil(1024));
    assert!(total <= MAPS, "the maps take {total} bytes, the budget is {MAPS}: {maps:?}");
}

fn info(ebpf: &mut Ebpf, post_routing: Option<&PostRouting>, hook: Hook) -> ProgramInfo {
    if let (Hook::PostRouting, Some(program)) = (hook, post_routing) {
        return program.info().unwrap();
    }
    let program = ebpf.program_mut(hook.name()).unwrap();
    if hook == Hook::XdpFromWire {
        let program: &mut Xdp = program.try_into().unwrap();
        program.info().unwrap()
    } else {
        let program: &mut SchedClassifier = program.try_into().unwrap();
        program.info().unwrap()
    }
}

/// Maps that grow are measured full.
fn fill(ebpf: &mut Ebpf) {
    let pod = PodEntry { ifindex: 1, mac: [2; 6], host_mac: [2; 6] };
    let route = RouteEntry { ifindex: 1, mtu: 1500, kind: 1, next_hop: [1; 16], mac: [0; 6], tunnel: 0 };
    let v4 = |number: u32| Ip4 { addr: number.to_be_bytes() };
    let v6 = |number: u32| {
        let mut addr = [0xfd; 16];
        addr[..4].copy_from_slice(&number.to_be_bytes());
        Ip6 { addr }
    };
    let mut pods4: HashMap<&mut MapData, Ip4, PodEntry> = map(ebpf, "pods4");
    (0..PODS).for_each(|pod_number| pods4.insert(v4(pod_number), pod, 0).unwrap());
    let mut pods6: HashMap<&mut MapData, Ip6, PodEntry> = map(ebpf, "pods6");
    (0..PODS).for_each(|pod_number| pods6.insert(v6(pod_number), pod, 0).unwrap());
    let mut routes4: HashMap<&mut MapData, RouteKey<Ip4>, RouteEntry> = map(ebpf, "routes4");
    (0..NODES).for_each(|node| routes4.insert(RouteKey::new(v4(node << 8), 24), route, 0).unwrap());
    let mut routes6: HashMap<&mut MapData, RouteKey<Ip6>, RouteEntry> = map(ebpf, "routes6");
    (0..NODES).for_each(|node| routes6.insert(RouteKey::new(v6(node), 64), route, 0).unwrap());
    let mut nodes4: HashMap<&mut MapData, Ip4, NodeEntry> = map(ebpf, "nodes4");
    (0..NODES).for_each(|node| nodes4.insert(v4(node), NodeEntry { tunnel: node }, 0).unwrap());
    let mut nodes6: HashMap<&mut MapData, Ip6, NodeEntry> = map(ebpf, "nodes6");
    (0..NODES).for_each(|node| nodes6.insert(v6(node), NodeEntry { tunnel: node }, 0).unwrap());
}

fn map<'a, M: TryFrom<&'a mut Map, Error: std::fmt::Debug>>(ebpf: &'a mut Ebpf, name: &str) -> M {
    ebpf.map_mut(name).unwrap().try_into().unwrap()
}

fn data(map: &Map) -> &MapData {
    match map {
        Map::Array(data)
        | Map::DevMapHash(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data) => data,
        other => panic!("a map of a type that this test does not know: {other:?}"),
    }
}

/// What the kernel says that a map takes (`map_mem_usage`, Linux 6.4).
fn memory(fd: BorrowedFd<'_>) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:")).unwrap();
    line.trim().parse().unwrap()
}
