//! A node: real devices and kernel routes, and the loaded programs with filled maps.

use std::fmt::Write as _;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, bail};
use aya::maps::xdp::{DevMap, DevMapHash};
use aya::maps::{Array, MapData, PerCpuArray, ProgramArray};
use aya::programs::{Program, ProgramInfo};
use aya::{Ebpf, EbpfLoader};
use dataplane_common::bench::Scenario;
use dataplane_common::{Counter, FlowGate, Hook, PodEntry, Verdict, counter_index};
use nix::sched::{CloneFlags, setns, unshare};
use podlane::datapath::{Features, PostRouting};
use podlane_tests::Run;
use podlane_tests::bench::ProgramSize;

use crate::contents::{Pods, Routes, take};
use crate::packet::{Macs, NODE, PEER, remote_pod};
use crate::path::{End, Kind, Load, Path};

const POD_MAC: [u8; 6] = [0x02, 0, 0, 0, 0x0a, 0x01];
const HOST_MAC: [u8; 6] = [0x02, 0, 0, 0, 0x0a, 0x02];
const UPLINK_MAC: [u8; 6] = [0x02, 0, 0, 0, 0x0c, 0x02];
const PEER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0x0c, 0x01];
const PEER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x12);
const FLOORS: [&str; 12] = [
    "floor_return",
    "floor_lookup",
    "floor_fib",
    "floor_wrap",
    "floor_unwrap",
    "floor_pass",
    "floor_redirect",
    "restore4",
    "restore6",
    "restore_overlay",
    "receive4",
    "receive6",
];

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
    xdp: bool,
    floors: Ebpf,
    counters: PerCpuArray<MapData, Counter>,
    scenario: Array<MapData, Scenario>,
    targets: [ProgramArray<MapData>; 2],
    gate: Array<MapData, FlowGate>,
    pods: Pods,
    routes: Routes,
    pod: u32,
    uplink: u32,
    flow: u32,
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
        let features = Features::probe()?;
        let post_routing = features.netfilter.then(|| PostRouting::load(&ours)).transpose()?;
        let mut floors =
            EbpfLoader::new().map_max_entries("floor_pods", MOST_PODS).load(podlane::datapath::FLOORS)?;
        for name in FLOORS {
            match program(&mut floors, name)? {
                Program::Xdp(program) => program.load(),
                Program::SchedClassifier(program) => program.load(),
                _ => bail!("{name} is of a kind that is not measured"),
            }
            .with_context(|| format!("loading {name}"))?;
        }
        let entry = PodEntry { ifindex: pod, mac: POD_MAC, host_mac: HOST_MAC };
        let pods = Pods::new(&mut ours, &mut floors, entry)?;
        let routes = Routes::new(&mut ours, (uplink, UPLINK_MAC), (PEER, PEER6))?;
        let mut ports: DevMapHash<MapData> = take(&mut ours, "wire_ports")?;
        ports.insert(pod, pod, None, 0)?;
        let mut port: DevMap<MapData> = take(&mut floors, "floor_port")?;
        port.set(0, pod, None, 0)?;
        let counters = take(&mut ours, "counters")?;
        let scenario = take(&mut floors, "scenario")?;
        let targets = [take(&mut floors, "target")?, take(&mut floors, "wire_target")?];
        let gate = take(&mut ours, "flow_gate")?;
        Ok(Self {
            namespace,
            ours,
            post_routing,
            xdp: features.xdp,
            floors,
            counters,
            scenario,
            targets,
            gate,
            pods,
            routes,
            pod,
            uplink,
            flow: 0,
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
            writeln!(batch, "route add {}/24 via {PEER}", Ipv4Addr::from(u32::from(pod) & !0xff))?;
        }
        Run::new("ip").args(["-batch", "-"]).stdin(batch).read()?;
        Ok(())
    }

    /// The sizes of all programs that this kernel has.
    pub fn sizes(&mut self) -> Result<Vec<ProgramSize>> {
        let mut sizes = Vec::new();
        for hook in Hook::ALL {
            match (hook, &self.post_routing) {
                (Hook::PostRouting, Some(program)) => sizes.push(size(hook.name(), &program.info()?)),
                (Hook::PostRouting, None) => {}
                (Hook::XdpFromWire, _) if !self.xdp => {}
                _ => sizes.push(size(hook.name(), &self.program(hook.name())?.info()?)),
            }
        }
        for name in FLOORS {
            sizes.push(size(name, &self.program(name)?.info()?));
        }
        Ok(sizes)
    }

    /// Whether this kernel has that kind of programs.
    pub const fn has(&self, path: &Path) -> bool {
        match path.kind {
            Kind::Tc => true,
            Kind::Xdp => self.xdp,
            Kind::Netfilter => self.post_routing.is_some(),
        }
    }

    /// Makes `program` the one that runs after the restoring one, and sets what the packets are.
    pub fn aim(&mut self, path: &Path, program: &str, scenario: Scenario) -> Result<()> {
        let fd = self.program(program)?.fd()?.try_clone()?;
        self.targets[usize::from(path.kind == Kind::Xdp)].set(0, &fd, 0)?;
        self.scenario.set(0, scenario, 0)?;
        Ok(())
    }

    /// Says whether there are flows through the kernel's stack.
    pub fn set_stack_flows(&mut self, are_there: bool) -> Result<()> {
        let state = if are_there { FlowGate::FIRST } else { FlowGate::SHUT };
        Ok(self.gate.set(0, FlowGate { state }, 0)?)
    }

    pub fn program(&mut self, name: &str) -> Result<&mut Program> {
        let ebpf = if FLOORS.contains(&name) { &mut self.floors } else { &mut self.ours };
        program(ebpf, name)
    }

    /// A flow after the other.
    pub const fn next_flow(&mut self) -> u32 {
        self.flow = self.flow.wrapping_add(1);
        self.flow
    }

    pub fn post_routing(&self) -> Result<&PostRouting> {
        self.post_routing.as_ref().context("no program of netfilter")
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
    writeln!(batch, "address add {NODE}/24 dev uplink")?;
    writeln!(batch, "neighbour replace {PEER} lladdr {} dev uplink nud permanent", mac(PEER_MAC))?;
    Run::new("ip").args(["-batch", "-"]).stdin(batch).read()?;
    fs_err::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    Ok((nix::net::if_::if_nametoindex("pod")?, nix::net::if_::if_nametoindex("uplink")?))
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program> {
    ebpf.program_mut(name).with_context(|| format!("there is no program {name}"))
}
