//! A node: real devices and kernel routes, and the loaded programs with filled maps.

use std::fmt::Write as _;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use aya::maps::{Array, MapData, PerCpuArray, ProgramArray};
use aya::programs::{ProgramInfo, SchedClassifier};
use aya::{Ebpf, EbpfLoader};
use dataplane_common::bench::Scenario;
use dataplane_common::{Counter, Hook, PodEntry, Verdict, counter_index};
use nix::sched::{CloneFlags, setns, unshare};
use podlane::datapath::{Features, PostRouting};
use podlane_tests::Run;
use podlane_tests::bench::ProgramSize;

use crate::contents::{Pods, Routes, take};
use crate::path::{End, Load, Macs, Path, remote_pod};

const POD_MAC: [u8; 6] = [0x02, 0, 0, 0, 0x0a, 0x01];
const HOST_MAC: [u8; 6] = [0x02, 0, 0, 0, 0x0a, 0x02];
const UPLINK_MAC: [u8; 6] = [0x02, 0, 0, 0, 0x0c, 0x02];
const PEER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0x0c, 0x01];
const NEXT_HOP: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 12);
const NEXT_HOP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x12);
const FLOORS: [&str; 5] = ["floor_return", "floor_lookup", "floor_fib", "restore4", "restore6"];

/// The hash maps' size.
const MOST_PODS: u32 = 1000;

fn size(program: &str, info: &ProgramInfo) -> ProgramSize {
    ProgramSize {
        program: program.to_owned(),
        instructions: info.size_translated().unwrap_or_default() / 8,
        verified_instructions: info.verified_instruction_count().unwrap_or_default(),
        jited_bytes: info.size_jitted(),
    }
}

pub struct Node {
    /// Its network namespace, which ends with it and whatever thread is in it.
    namespace: File,
    ours: Ebpf,
    post_routing: Option<PostRouting>,
    floors: Ebpf,
    counters: PerCpuArray<MapData, Counter>,
    scenario: Array<MapData, Scenario>,
    target: ProgramArray<MapData>,
    pods: Pods,
    routes: Routes,
    pod: u32,
    uplink: u32,
}

impl Node {
    /// A node alone, without pods, in a network namespace of its own, in which the calling thread then is. The programs are
    /// at another place in memory than the last one's.
    pub fn new() -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET)
            .context("the benches need root, for a network namespace and BPF")?;
        let namespace = File::open("/proc/thread-self/ns/net")?;
        let (pod, uplink) = devices()?;
        let mut ours = podlane::datapath::load_unpinned_sized(MOST_PODS, 8192)?;
        let post_routing = Features::probe()?.netfilter.then(|| PostRouting::load(&ours)).transpose()?;
        let mut floors =
            EbpfLoader::new().map_max_entries("floor_pods", MOST_PODS).load(podlane::datapath::FLOORS)?;
        for name in FLOORS {
            program(&mut floors, name)?.load().with_context(|| format!("loading {name}"))?;
        }
        let entry = PodEntry { ifindex: pod, mac: POD_MAC, host_mac: HOST_MAC };
        let pods = Pods::new(&mut ours, &mut floors, entry)?;
        let routes = Routes::new(&mut ours, uplink, (NEXT_HOP, NEXT_HOP6))?;
        let counters = take(&mut ours, "counters")?;
        let scenario = take(&mut floors, "scenario")?;
        let target = take(&mut floors, "target")?;
        Ok(Self {
            namespace,
            ours,
            post_routing,
            floors,
            counters,
            scenario,
            target,
            pods,
            routes,
            pod,
            uplink,
        })
    }

    /// Moves the calling thread to it.
    pub fn enter(&self) -> Result<()> {
        setns(&self.namespace, CloneFlags::CLONE_NEWNET).context("entering a node")
    }

    /// Makes its pods and peer nodes so many. Peers only get more.
    pub fn resize(&mut self, load: Load) -> Result<()> {
        self.enter()?;
        self.pods.resize(load.pods)?;
        let mut batch = String::new();
        for node in self.routes.grow(load.nodes)? {
            let IpAddr::V4(pod) = remote_pod(node, false) else { continue };
            writeln!(batch, "route add {}/24 via {NEXT_HOP}", Ipv4Addr::from(u32::from(pod) & !0xff))?;
        }
        Run::new("ip").args(["-batch", "-"]).stdin(batch).read()?;
        Ok(())
    }

    /// The sizes of all programs.
    pub fn sizes(&mut self) -> Result<Vec<ProgramSize>> {
        let hooks = [Hook::FromPod, Hook::FromWire, Hook::FromOverlay, Hook::ToPod, Hook::ToWire];
        let mut sizes = Vec::new();
        for name in hooks.map(Hook::name) {
            sizes.push(size(name, &self.program(name)?.info()?));
        }
        if let Some(program) = &self.post_routing {
            sizes.push(size(Hook::PostRouting.name(), &program.info()?));
        }
        for name in FLOORS {
            sizes.push(size(name, &self.program(name)?.info()?));
        }
        Ok(sizes)
    }

    /// Makes `program` the one that runs after the restoring one, and sets what the packets are.
    pub fn aim(&mut self, program: &str, scenario: Scenario) -> Result<()> {
        let fd = self.program(program)?.fd()?.try_clone()?;
        self.target.set(0, &fd, 0)?;
        self.scenario.set(0, scenario, 0)?;
        Ok(())
    }

    pub fn program(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        let ebpf = if FLOORS.contains(&name) { &mut self.floors } else { &mut self.ours };
        program(ebpf, name)
    }

    /// The device the packets come in at.
    pub fn device(&self, path: &Path) -> u32 {
        if path.from == End::Client { self.pod } else { self.uplink }
    }

    /// The MAC addresses of a frame that comes in there.
    pub fn macs(&self, path: &Path) -> Macs {
        if path.from == End::Client { (HOST_MAC, POD_MAC) } else { (UPLINK_MAC, PEER_MAC) }
    }

    /// Packets counted so far.
    pub fn counted(&self, hook: Hook, verdict: Verdict) -> Result<u64> {
        let values = self.counters.get(&counter_index(hook, verdict), 0)?;
        Ok(values.iter().map(|value| value.packets).sum())
    }
}

/// A pod's device and an uplink.
fn devices() -> Result<(u32, u32)> {
    let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    let mut batch = String::new();
    for (name, address) in [("pod", HOST_MAC), ("uplink", UPLINK_MAC)] {
        writeln!(batch, "link add {name} address {} type veth peer name {name}-peer", mac(address))?;
        for device in [name, &format!("{name}-peer")] {
            writeln!(batch, "link set {device} addrgenmode none")?;
            writeln!(batch, "link set {device} up")?;
        }
    }
    writeln!(batch, "address add 192.168.1.11/24 dev uplink")?;
    writeln!(batch, "neighbour replace {NEXT_HOP} lladdr {} dev uplink nud permanent", mac(PEER_MAC))?;
    Run::new("ip").args(["-batch", "-"]).stdin(batch).read()?;
    fs_err::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    Ok((nix::net::if_::if_nametoindex("pod")?, nix::net::if_::if_nametoindex("uplink")?))
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = ebpf.program_mut(name).with_context(|| format!("there is no program {name}"))?;
    Ok(program.try_into()?)
}
