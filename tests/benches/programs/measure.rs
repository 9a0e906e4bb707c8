//! Runs and times.

use std::mem::size_of;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::programs::{TestRun as _, TestRunOptions};
use aya_ebpf_bindings::bindings::__sk_buff;
use nix::time::{ClockId, clock_gettime};
use podlane_tests::bench::{Paced, Row, Samples, most_slowness, undisturbed};

use crate::node::Node;
use crate::path::{Load, PATHS, Path};

/// The program whose cost is the loop's and the restoring program's own.
const EMPTY: &str = "floor_return";
/// `TC_ACT_UNSPEC`.
const UNSPEC: i32 = -1;

/// How long to measure.
#[derive(Clone, Copy)]
pub struct Effort {
    /// How often the programs are loaded: each time they get another place in memory.
    pub loads: usize,
    /// Samples of each path, every time.
    rounds: usize,
    /// The same of those that a target names.
    rounds_for_targets: usize,
    packets: u32,
}

impl Effort {
    const fn rounds(self, path: &Path) -> usize {
        if path.is_named_by_a_target() { self.rounds_for_targets } else { self.rounds }
    }

    pub const QUICK: Self = Self { loads: 10, rounds: 1, rounds_for_targets: 10, packets: 65_536 };
    pub const FULL: Self = Self { loads: 15, rounds: 5, rounds_for_targets: 10, packets: 131_072 };
}

/// What was measured of one path.
#[derive(Default, Clone)]
struct Taken {
    /// Beside what the empty program takes.
    over_empty: Vec<Paced>,
    with_restoring: Vec<Paced>,
    /// Over an empty program, as a part of what it takes on the node beside.
    beside: Samples,
}

/// Every path under one load.
pub struct Measured {
    load: Load,
    paths: Vec<Taken>,
}

impl Measured {
    /// Nothing yet.
    pub fn new(load: Load) -> Self {
        Self { load, paths: vec![Taken::default(); PATHS.len()] }
    }

    /// Measures on a node with that load, the paths in turns: what else the machine does hits all of them. Those that have
    /// targets also in turns with a node that has another load, always the same.
    pub fn add(&mut self, node: &mut Node, beside: (&mut Node, Load), effort: Effort) -> Result<()> {
        for round in 0..=effort.rounds.max(effort.rounds_for_targets) {
            for (path, taken) in PATHS.iter().zip(&mut self.paths) {
                if round > effort.rounds(path) {
                    continue;
                }
                let mut other = || run(beside.0, path, path.program, beside.1, effort.packets);
                let empty = run(node, path, EMPTY, self.load, effort.packets)?;
                let first = if path.is_named_by_a_target() { Some(other()?) } else { None };
                let time = run(node, path, path.program, self.load, effort.packets)?;
                let second = if path.is_named_by_a_target() { Some(other()?) } else { None };
                let empty = f64::midpoint(empty, run(node, path, EMPTY, self.load, effort.packets)?);
                // The first round warms caches and branch predictors up.
                if round > 0 {
                    taken.with_restoring.push(Paced { value: time, slowness: empty });
                    taken.over_empty.push(Paced { value: time - empty, slowness: empty });
                    let other = first.zip(second).map(|(first, second)| f64::midpoint(first, second));
                    taken.beside.0.extend(other.map(|other| (time - empty) / (other - empty)));
                }
            }
        }
        Ok(())
    }

    /// By how much that is more than with the smallest load, for the paths that have targets: the ratio each time the
    /// programs were loaded, of what both were beside the other node, as the machine's own speed changes within milliseconds.
    pub fn growth(&self, smallest: &Self, effort: Effort) -> Vec<Row> {
        let named = PATHS
            .iter()
            .zip(&self.paths)
            .zip(&smallest.paths)
            .filter(|((path, _), _)| path.is_named_by_a_target());
        named
            .map(|((path, grown), smallest)| {
                let each_time = |taken: &Taken| -> Vec<f64> {
                    let times = taken.beside.0.chunks(effort.rounds(path));
                    times.map(|samples| Samples(samples.to_vec()).median()).collect()
                };
                let ratios = each_time(grown)
                    .iter()
                    .zip(each_time(smallest))
                    .map(|(grown, small)| grown / small)
                    .collect();
                Row { unit: "ratio".to_owned(), ..row(self.load, path, "growth", &Samples(ratios)) }
            })
            .collect()
    }

    /// Its rows: of the samples when the machine ran at its best.
    pub fn rows(&self) -> Vec<Row> {
        let rows = PATHS.iter().zip(&self.paths).map(|(path, taken)| {
            let row = |metric, samples: &[Paced]| {
                let most = most_slowness(samples.iter().map(|sample| sample.slowness));
                row(self.load, path, metric, &undisturbed(samples, most))
            };
            [row("over-empty-program", &taken.over_empty), row("with-restoring", &taken.with_restoring)]
        });
        rows.flatten().collect()
    }
}

fn row(load: Load, path: &Path, metric: &str, samples: &Samples) -> Row {
    samples.row(Row {
        bench: "programs".to_owned(),
        program: Some(path.program.to_owned()),
        path: Some(path.name.to_owned()),
        flows: Some(load.flows),
        pods: Some(load.pods),
        nodes: Some(load.nodes),
        family: if path.ipv6 { "ipv6" } else { "ipv4" }.to_owned(),
        metric: metric.to_owned(),
        unit: "ns".to_owned(),
        ..Row::default()
    })
}

/// Nanoseconds per packet, of this thread's own time: what others do on the CPU meanwhile does not count.
fn run(node: &mut Node, path: &Path, program: &str, load: Load, packets: u32) -> Result<f64> {
    node.enter()?;
    let macs = node.macs(path);
    node.aim(program, path.scenario(load, macs)?)?;
    let counter = path.counted.filter(|_| program == path.program);
    let counted = |node: &Node| counter.map(|(hook, verdict)| node.counted(hook, verdict)).transpose();
    let before = counted(node)?;

    // SAFETY: plain old data (and pointers that the kernel fills in), for which zero is valid.
    let mut context: __sk_buff = unsafe { std::mem::zeroed() };
    context.ifindex = node.device(path);
    // SAFETY: the context's bytes, as the kernel takes them.
    let context =
        unsafe { std::slice::from_raw_parts((&raw const context).cast::<u8>(), size_of::<__sk_buff>()) };
    let packet = path.packet(load, macs)?;
    let restore = node.program(if path.ipv6 { "restore6" } else { "restore4" })?;
    let start = thread_time()?;
    let result = restore.test_run(TestRunOptions {
        data_in: Some(&packet),
        ctx_in: Some(context),
        repeat: packets,
        ..TestRunOptions::default()
    });
    let time = thread_time()? - start;

    let what = format!("{program}, {} (IPv{})", path.name, if path.ipv6 { 6 } else { 4 });
    let action = result.with_context(|| what.clone())?.return_value.cast_signed();
    let expected = if program == EMPTY { UNSPEC } else { path.action };
    ensure!(action == expected, "{what}: returned {action}, not {expected}");
    if let (Some(before), Some(after)) = (before, counted(node)?) {
        let hits = after - before;
        ensure!(
            hits == u64::from(packets),
            "{what}: {hits} of {packets} packets went the way that is measured"
        );
    }
    Ok(time.as_secs_f64() * 1e9 / f64::from(packets))
}

fn thread_time() -> Result<Duration> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?))
}
