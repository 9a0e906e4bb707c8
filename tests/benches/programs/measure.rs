//! Runs and times.

use anyhow::Result;
use podlane_tests::bench::{Paced, Row, Samples, most_slowness, undisturbed};

use crate::node::Node;
use crate::path::{Load, PATHS, Path};
use crate::run::{Packets, run};

/// How long to measure.
#[derive(Clone, Copy)]
pub struct Effort {
    /// How often the programs are loaded: each time they get another place in memory.
    pub loads: usize,
    targets: Samplings,
    others: Samplings,
}

/// What is measured of a path every time.
#[derive(Clone, Copy)]
struct Samplings {
    rounds: usize,
    /// In each; each flow has one at least.
    packets: Packets,
}

const fn samplings(rounds: usize, restored: u32, new: u32) -> Samplings {
    Samplings { rounds, packets: Packets { restored, new } }
}

impl Effort {
    pub const QUICK: Self =
        Self { loads: 10, targets: samplings(20, 65_536, 256), others: samplings(1, 32_768, 256) };
    pub const FULL: Self =
        Self { loads: 15, targets: samplings(10, 131_072, 1024), others: samplings(5, 65_536, 1024) };

    /// Of a path that a target names, or of another one.
    const fn of(self, path: &Path) -> Samplings {
        if path.has_target { self.targets } else { self.others }
    }
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
        for round in 0..=effort.targets.rounds.max(effort.others.rounds) {
            for (path, taken) in PATHS.iter().zip(&mut self.paths) {
                let Samplings { rounds, packets } = effort.of(path);
                if round > rounds || !node.has(path) {
                    continue;
                }
                let mut other = || run(beside.0, path, path.program, beside.1, packets);
                let empty = run(node, path, path.kind.empty(), self.load, packets)?;
                let first = if path.has_target { Some(other()?) } else { None };
                let time = run(node, path, path.program, self.load, packets)?;
                let second = if path.has_target { Some(other()?) } else { None };
                let empty = f64::midpoint(empty, run(node, path, path.kind.empty(), self.load, packets)?);
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
        let named =
            PATHS.iter().zip(&self.paths).zip(&smallest.paths).filter(|((path, _), _)| path.has_target);
        named
            .map(|((path, grown), smallest)| {
                let each_time = |taken: &Taken| -> Vec<f64> {
                    let times = taken.beside.0.chunks(effort.of(path).rounds);
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
        let measured = PATHS.iter().zip(&self.paths).filter(|(_, taken)| !taken.over_empty.is_empty());
        let rows = measured.map(|(path, taken)| {
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
