//! Forwarding alone: frames come in at a node's uplink, and are counted and dropped at the pod. No socket, no process:
//! what is left is the way between.
//!
//! They appear at the uplink as from its driver. Where native XDP sits there, its program has them as the driver would
//! give them to it, and what it redirects is dropped at the pod before there is an skb as well: the others' packets
//! never are without one.

use std::mem::size_of;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, MapData, PerCpuArray, ProgramArray, xdp::DevMap};
use aya::programs::tc::TcAttachType;
use aya::programs::{ProgramFd, SchedClassifier, TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use aya_ebpf_bindings::bindings::xdp_md;
use dataplane_common::bench::{Scenario, Series};
use etherparse::PacketBuilder;
use podlane_tests::bench::{Answer, Forwarding, Receiver, Route, in_turns};
use podlane_tests::lab::{Namespace, UPLINK};

use crate::stay_on_one_cpu;

/// Fewer than a CPU's backlog takes (`net.core.netdev_max_backlog`).
const BATCH: u32 = 64;

/// Frames per second: `forwarding-pps`, or `forwarding-floor-pps` where a program that does nothing else receives them;
/// and as a part of those beside it, `forwarding-relative` where it is not that program.
pub fn answer(question: &Forwarding) -> Result<Answer> {
    let [own, other] = [&question.route, &question.beside].map(Injection::new);
    let (own, other) = (own?, other?);
    for injection in [&own, &other] {
        injection.rate(BATCH * 64)?;
    }
    let measured = in_turns(question.turns, || own.rate(question.frames), || other.rate(question.frames))?;
    let figures = match question.route.receiver {
        Receiver::Floor => vec![("forwarding-floor-pps", measured.own)],
        _ => vec![("forwarding-pps", measured.own), ("forwarding-relative", measured.ratio)],
    };
    let figures = figures.into_iter().map(|(metric, value)| (metric.to_owned(), value)).collect();
    Ok(Answer { figures, slowness: 1.0 / measured.other })
}

/// Frames that are ready to come in, and the programs that inject and count them.
struct Injection<'a> {
    route: &'a Route,
    packet: Vec<u8>,
    programs: Ebpf,
    injector: &'static str,
    arrived: PerCpuArray<MapData, u64>,
    /// The array that the injector finds the receiver in goes with its last user.
    _receiver: Option<ProgramArray<MapData>>,
}

impl<'a> Injection<'a> {
    fn new(route: &'a Route) -> Result<Self> {
        let Route { from, node, pod, source, destination, receiver } = route;
        let macs = (mac(node)?, mac(from)?);
        let mut packet = Vec::new();
        PacketBuilder::ethernet2(macs.1, macs.0)
            .ipv4(source.octets(), destination.octets(), 64)
            .udp(1024, 5201)
            .write(&mut packet, &[0; 18])?;
        let mut programs = EbpfLoader::new().load(podlane::datapath::FLOORS)?;
        let mut map: Array<MapData, Scenario> =
            programs.take_map("scenario").context("no map scenario")?.try_into()?;
        map.set(0, scenario(&packet, route), 0)?;
        let arrived: PerCpuArray<MapData, u64> =
            programs.take_map("arrived").context("no map arrived")?.try_into()?;
        let (injector, counter, array) = if *receiver == Receiver::Stack {
            ("inject4", "drop_all", None)
        } else {
            ("receive4", "drop_frames", Some(receiver_array(&mut programs, route)?))
        };
        match programs.program_mut(counter).context("no program that counts")? {
            aya::programs::Program::Xdp(program) => {
                program.load()?;
                pod.run(|| program.attach("eth0", XdpMode::Driver))?.map(drop)
            }
            program => {
                let program: &mut SchedClassifier = program.try_into()?;
                program.load()?;
                pod.run(|| program.attach("eth0", TcAttachType::Ingress))?.map(drop)
            }
        }
        .with_context(|| format!("attaching {counter} to the eth0 of {}", pod.name()))?;
        let inject: &mut Xdp = programs.program_mut(injector).context("no such program")?.try_into()?;
        inject.load()?;
        Ok(Self { route, packet, programs, injector, arrived, _receiver: array })
    }

    /// Injects so many; says how many of them arrive per second.
    fn rate(&self, frames: u32) -> Result<f64> {
        let Route { node, pod, .. } = self.route;
        let inject: &Xdp = self.programs.program(self.injector).context("no such program")?.try_into()?;
        node.run(|| -> Result<f64> {
            stay_on_one_cpu()?;
            let context = xdp_md {
                data: 0,
                data_end: u32::try_from(self.packet.len())?,
                data_meta: 0,
                ingress_ifindex: nix::net::if_::if_nametoindex(UPLINK)?,
                rx_queue_index: 0,
                egress_ifindex: 0,
            };
            // SAFETY: plain old data, whose bytes the kernel takes.
            let context =
                unsafe { std::slice::from_raw_parts((&raw const context).cast::<u8>(), size_of::<xdp_md>()) };
            let count = || -> Result<u64> { Ok(self.arrived.get(&0, 0)?.iter().sum()) };
            let before = count()?;
            let run = inject.test_run(TestRunOptions {
                data_in: Some(&self.packet),
                ctx_in: Some(context),
                repeat: frames,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::default()
            });
            // The kernel's own time for a frame: setting up and tearing down, which it leaves out, takes some of its
            // timer's ticks (4 ms).
            let time = run.context("injecting frames")?.duration;
            let passed = count()? - before;
            ensure!(
                passed * 100 >= u64::from(frames) * 99,
                "{passed} of {frames} frames arrived at the pod {}",
                pod.name()
            );
            ensure!(!time.is_zero(), "the kernel says that a frame took no time");
            Ok(f64::from(u32::try_from(passed)?) / f64::from(frames) / time.as_secs_f64())
        })?
    }
}

/// What the injector makes of every frame.
fn scenario(packet: &[u8], route: &Route) -> Scenario {
    let word = |at: usize| u32::from_ne_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
    let only = |address| Series { first: [0, 0, 0, u32::from(address)], count: 1, ..Series::default() };
    Scenario {
        macs: [word(0), word(4), word(8)],
        hop: word(22),
        source: only(route.source),
        destination: only(route.destination),
        ..Scenario::default()
    }
}

/// The array that the injector calls the XDP program from, with that program in it.
fn receiver_array(programs: &mut Ebpf, route: &Route) -> Result<ProgramArray<MapData>> {
    let mut ports: DevMap<MapData> =
        programs.take_map("floor_port").context("no map floor_port")?.try_into()?;
    let mut array: ProgramArray<MapData> =
        programs.take_map("wire_target").context("no map wire_target")?.try_into()?;
    if route.receiver == Receiver::Floor {
        // Indices are looked up in the namespace of whoever writes them.
        let device = host_interface(&route.pod)?;
        route.node.run(|| ports.set(0, device, None, 0))??;
        let floor: &mut Xdp = programs.program_mut("floor_redirect").context("no floor")?.try_into()?;
        floor.load()?;
        array.set(0, &floor.fd()?.try_clone()?, 0)?;
    } else {
        array.set(0, &xdp_program_of(&route.node)?, 0)?;
    }
    Ok(array)
}

/// The XDP program at a node's uplink.
fn xdp_program_of(node: &Namespace) -> Result<ProgramFd> {
    let links = node.command(["ip", "-json", "link", "show", UPLINK]).read()?;
    let links: serde_json::Value = serde_json::from_str(&links)?;
    let id = links.pointer("/0/xdp/prog/id").and_then(serde_json::Value::as_u64);
    let id = id.with_context(|| format!("no XDP program at the uplink: {links}"))?;
    let mut programs = aya::programs::loaded_programs();
    let info = programs.find_map(|info| info.ok().filter(|info| u64::from(info.id()) == id));
    Ok(info.with_context(|| format!("no program {id}"))?.fd()?)
}

/// The index of a pod's host-side interface.
fn host_interface(pod: &Namespace) -> Result<u32> {
    let links = pod.command(["ip", "-json", "link", "show", "eth0"]).read()?;
    let links: serde_json::Value = serde_json::from_str(&links)?;
    let index = links.pointer("/0/link_index").and_then(serde_json::Value::as_u64);
    Ok(index.with_context(|| format!("eth0 names no other end: {links}"))?.try_into()?)
}

/// The MAC address of a node's uplink.
pub(crate) fn mac(node: &Namespace) -> Result<[u8; 6]> {
    let line = node.command(["ip", "-brief", "link", "show", UPLINK]).read()?;
    let text = line.split_whitespace().nth(2).context("the uplink has no MAC address")?;
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<_>, _>>()?;
    bytes.try_into().ok().with_context(|| format!("not a MAC address: {text}"))
}
