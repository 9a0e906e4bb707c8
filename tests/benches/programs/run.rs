//! Running a program, and timing it.

use std::mem::size_of;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::programs::{Program, TestRun as _, TestRunOptions, TestRunResult};
use aya_ebpf_bindings::bindings::__sk_buff;
use nix::time::{ClockId, clock_gettime};
use podlane_tests::bench::Samples;
use podlane_tests::netfilter;

use crate::node::Node;
use crate::path::{Given, Kind, Load, Path};

/// What to give a program.
#[derive(Clone, Copy)]
pub struct Packets {
    /// How often the same packet.
    pub restored: u32,
    /// How many new ones.
    pub new: u32,
}

/// Nanoseconds per packet of a program on this path: its own, or the empty one.
pub fn run(node: &mut Node, path: &Path, program: &str, load: Load, packets: Packets) -> Result<f64> {
    node.enter()?;
    node.set_stack_flows(path.stack_flows)?;
    let counter = path.counted.filter(|_| program == path.program);
    let counted = |node: &Node| counter.map(|(hook, verdict)| node.counted(hook, verdict)).transpose();
    let before = counted(node)?;
    let (count, time) = match path.given {
        Given::Restored | Given::FromOverlay => {
            (packets.restored, restored(node, path, program, load, packets.restored)?)
        }
        Given::New | Given::NewWrapped => (packets.new, new(node, path, program, load, packets.new)?),
    };
    if let (Some(before), Some(after)) = (before, counted(node)?) {
        let hits = after - before;
        ensure!(
            hits == u64::from(count),
            "{}: {hits} of {count} packets went the way that is measured",
            what(path, program)
        );
    }
    Ok(time)
}

/// The same packet, by this thread's own time: what others do on the CPU meanwhile does not count.
fn restored(node: &mut Node, path: &Path, program: &str, load: Load, packets: u32) -> Result<f64> {
    let macs = node.macs(path);
    node.aim(path, program, path.scenario(load, macs)?)?;
    let restoring = match (path.kind, path.given, path.ipv6) {
        (Kind::Xdp, _, false) => "receive4",
        (Kind::Xdp, _, true) => "receive6",
        (_, Given::FromOverlay, _) => "restore_overlay",
        (_, _, false) => "restore4",
        (_, _, true) => "restore6",
    };
    let packet = path.packet(load, macs, 0)?;
    let start = thread_time()?;
    let result = test_run(node, path, restoring, &packet, packets);
    let time = thread_time()? - start;
    check(path, program, result.with_context(|| what(path, program))?.return_value)?;
    Ok(time.as_secs_f64() * 1e9 / f64::from(packets))
}

/// New packets, by the kernel's clock around each: the median. There are fewer than flows: the next ones are of others.
fn new(node: &mut Node, path: &Path, program: &str, load: Load, packets: u32) -> Result<f64> {
    let macs = node.macs(path);
    let mut times = Samples::default();
    for _ in 0..packets {
        let packet = path.packet(load, macs, node.next_flow() & (load.flows - 1))?;
        let (action, time) = if path.kind == Kind::Netfilter && program == path.program {
            let (action, time) = netfilter::test_run(node.post_routing()?.fd(), &packet)?;
            (action.cast_unsigned(), time)
        } else {
            let result = test_run(node, path, program, &packet, 1).with_context(|| what(path, program))?;
            (result.return_value, result.duration)
        };
        check(path, program, action)?;
        times.0.push(time.as_secs_f64() * 1e9);
    }
    Ok(times.median())
}

fn test_run(
    node: &mut Node,
    path: &Path,
    program: &str,
    packet: &[u8],
    repeat: u32,
) -> Result<TestRunResult> {
    // SAFETY: plain old data (and pointers that the kernel fills in), for which zero is valid.
    let mut context: __sk_buff = unsafe { std::mem::zeroed() };
    context.ifindex = node.device(path);
    context.mark = path.mark;
    // SAFETY: the context's bytes, as the kernel takes them.
    let context =
        unsafe { std::slice::from_raw_parts((&raw const context).cast::<u8>(), size_of::<__sk_buff>()) };
    let options = TestRunOptions { data_in: Some(packet), repeat, ..TestRunOptions::default() };
    Ok(match node.program(program)? {
        Program::Xdp(program) => program.test_run(options)?,
        Program::SchedClassifier(program) => {
            program.test_run(TestRunOptions { ctx_in: Some(context), ..options })?
        }
        _ => anyhow::bail!("{program} is of a kind that is not measured"),
    })
}

fn check(path: &Path, program: &str, returned: u32) -> Result<()> {
    let expected = match path.kind {
        _ if program == path.program => path.action,
        Kind::Netfilter => Kind::Tc.pass(),
        kind => kind.pass(),
    };
    let returned = returned.cast_signed();
    ensure!(returned == expected, "{}: returned {returned}, not {expected}", what(path, program));
    Ok(())
}

fn what(path: &Path, program: &str) -> String {
    format!("{program}, {} (IPv{})", path.name, if path.ipv6 { 6 } else { 4 })
}

fn thread_time() -> Result<Duration> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?))
}
