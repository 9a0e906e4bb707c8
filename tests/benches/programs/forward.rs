//! Forwarding alone: frames come in at a node's uplink, and are counted and dropped at the pod. No socket, no process:
//! what is left is the way between.
//!
//! They appear at the uplink as from its driver. Where native XDP sits there, its program has them as the driver would
//! give them to it, and what it redirects is dropped at the pod before there is an skb as well: the others' packets
//! never are without one.

use std::mem::size_of;

use anyhow::{Context as _, Result, bail, ensure};
use aya::EbpfLoader;
use aya::maps::{Array, MapData, PerCpuArray, ProgramArray, xdp::DevMap};
use aya::programs::tc::TcAttachType;
use aya::programs::{ProgramFd, SchedClassifier, TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya_ebpf_bindings::bindings::xdp_md;
use dataplane_common::bench::{Scenario, Series};
use etherparse::PacketBuilder;
use podlane_tests::lab::{Namespace, UPLINK};

use crate::stay_on_one_cpu;

/// Fewer than a CPU's backlog takes (`net.core.netdev_max_backlog`).
const BATCH: u32 = 64;

/// Frames per second. Arguments: the namespaces of the node the frames come from, of the node they arrive at, and of
/// the pod; source and destination IPv4 address; number of frames; who receives them: `stack`, `native` (the XDP program
/// at the uplink), or `floor` (a program in its place that sends every frame to the pod, without a look at it).
pub fn rate(arguments: &[String]) -> Result<f64> {
    let [from, node, pod, source, destination, frames, way] = arguments else {
        bail!("forward FROM-NODE NODE POD SOURCE DESTINATION FRAMES stack|native|floor");
    };
    let (from, node, pod) = (Namespace::named(from), Namespace::named(node), Namespace::named(pod));
    let frames: u32 = frames.parse()?;
    let macs = (mac(&node)?, mac(&from)?);
    let (source, destination): (std::net::Ipv4Addr, std::net::Ipv4Addr) =
        (source.parse()?, destination.parse()?);

    let mut packet = Vec::new();
    PacketBuilder::ethernet2(macs.1, macs.0)
        .ipv4(source.octets(), destination.octets(), 64)
        .udp(1024, 5201)
        .write(&mut packet, &[0; 18])?;
    let word = |at: usize| u32::from_ne_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
    let only = |address| Series { first: [0, 0, 0, u32::from(address)], count: 1, ..Series::default() };
    let scenario = Scenario {
        macs: [word(0), word(4), word(8)],
        hop: word(22),
        source: only(source),
        destination: only(destination),
        ..Scenario::default()
    };

    let mut floors = EbpfLoader::new().load(podlane::datapath::FLOORS)?;
    let mut map: Array<MapData, Scenario> =
        floors.take_map("scenario").context("no map scenario")?.try_into()?;
    map.set(0, scenario, 0)?;
    let arrived: PerCpuArray<MapData, u64> =
        floors.take_map("arrived").context("no map arrived")?.try_into()?;
    let native = way != "stack";
    let mut ports: DevMap<MapData> =
        floors.take_map("floor_port").context("no map floor_port")?.try_into()?;
    if native {
        let mut wire_target: ProgramArray<MapData> =
            floors.take_map("wire_target").context("no map wire_target")?.try_into()?;
        if way == "floor" {
            // Indices are looked up in the namespace of whoever writes them.
            let device = host_interface(&pod)?;
            node.run(|| ports.set(0, device, None, 0))??;
            let floor: &mut Xdp = floors.program_mut("floor_redirect").context("no floor")?.try_into()?;
            floor.load()?;
            wire_target.set(0, &floor.fd()?.try_clone()?, 0)?;
        } else {
            wire_target.set(0, &xdp_program_of(&node)?, 0)?;
        }
        let drop_frames: &mut Xdp =
            floors.program_mut("drop_frames").context("no drop_frames")?.try_into()?;
        drop_frames.load()?;
        let attached = pod.run(|| drop_frames.attach("eth0", XdpMode::Driver))?;
        attached.context("attaching XDP to the pod's eth0")?;
        // The program array goes with its last user: keep it.
        std::mem::forget(wire_target);
    } else {
        let drop_all: &mut SchedClassifier =
            floors.program_mut("drop_all").context("no drop_all")?.try_into()?;
        drop_all.load()?;
        let attached = pod.run(|| drop_all.attach("eth0", TcAttachType::Ingress))?;
        attached.context("attaching to the pod's eth0")?;
    }
    let injector = if native { "receive4" } else { "inject4" };
    let inject: &mut Xdp = floors.program_mut(injector).context("no such program")?.try_into()?;
    inject.load()?;

    node.run(|| -> Result<f64> {
        stay_on_one_cpu()?;
        let context = xdp_md {
            data: 0,
            data_end: u32::try_from(packet.len())?,
            data_meta: 0,
            ingress_ifindex: nix::net::if_::if_nametoindex(UPLINK)?,
            rx_queue_index: 0,
            egress_ifindex: 0,
        };
        // SAFETY: plain old data, whose bytes the kernel takes.
        let context =
            unsafe { std::slice::from_raw_parts((&raw const context).cast::<u8>(), size_of::<xdp_md>()) };
        let run = |frames: u32| {
            inject.test_run(TestRunOptions {
                data_in: Some(&packet),
                ctx_in: Some(context),
                repeat: frames,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::default()
            })
        };
        let count = || -> Result<u64> { Ok(arrived.get(&0, 0)?.iter().sum()) };
        run(BATCH * 64).context("injecting frames")?;
        let before = count()?;
        // The kernel's own time for a frame: setting up and tearing down, which it leaves out, takes some of its timer's
        // ticks (4 ms).
        let time = run(frames)?.duration;
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
