//! What each program costs: nanoseconds per packet on each of its paths, by `BPF_PROG_TEST_RUN`.
//!
//! `cargo xtask bench programs` runs it and reads what it prints: a [`Programs`] as JSON. Progress goes to standard
//! error. With `--quick`, fewer loads and rounds. With `ask` and a [`Question`], or `forward` and a [`Forwarding`], both as
//! JSON, it prints the answer; with `floor`, see [`floor`], it is part of a contender.

mod contents;
mod floor;
mod forward;
mod measure;
mod node;
mod packet;
mod path;
mod run;

use std::thread;

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use podlane_tests::bench::{Forwarding, Programs, Question};
use serde::de::DeserializeOwned;

use crate::measure::{Effort, Measured};
use crate::node::Node;
use crate::path::Load;

/// From the least to the most that a node may have to do: flows, local pods, peer nodes, of which there are never fewer.
const LOADS: [Load; 4] = [
    Load { flows: 1, pods: 10, nodes: 10 },
    Load { flows: 32_768, pods: 10, nodes: 10 },
    Load { flows: 32_768, pods: 1000, nodes: 10 },
    Load { flows: 32_768, pods: 10, nodes: 5000 },
];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let task = arguments.next();
    // A killed bench leaves nothing running. What holds the floor's programs ends with its standard input.
    if task.as_deref() != Some("floor") {
        set_pdeathsig(Signal::SIGKILL).context("asking to end with the bench")?;
    }
    match task.as_deref() {
        Some("forward") => {
            let question: Forwarding = question(arguments)?;
            println!("{}", serde_json::to_string(&forward::answer(&question)?)?);
            return Ok(());
        }
        Some("ask") => {
            let question: Question = question(arguments)?;
            println!("{}", serde_json::to_string(&question.answer()?)?);
            return Ok(());
        }
        Some("floor") => return floor::hold(&arguments.collect::<Vec<_>>()),
        _ => {}
    }
    // Cargo adds `--bench` of its own.
    let quick = std::env::args().any(|argument| argument == "--quick");
    let effort = if quick { Effort::QUICK } else { Effort::FULL };
    // In a thread of its own, as it moves to other network namespaces, which end with it.
    let worker = thread::spawn(move || -> Result<Programs> {
        stay_on_one_cpu()?;
        let smallest = LOADS[0];
        let mut beside = Node::new()?;
        beside.resize(smallest)?;
        let mut sizes = Vec::new();
        let mut measured = LOADS.map(Measured::new);
        for turn in 1..=effort.loads {
            eprintln!("   loaded {turn} of {} times", effort.loads);
            // The same programs at the same places for all loads, as growth is what is asked for.
            let mut node = Node::new()?;
            if sizes.is_empty() {
                sizes = node.sizes()?;
            }
            for (load, measured) in LOADS.into_iter().zip(&mut measured) {
                node.resize(load)?;
                measured.add(&mut node, (&mut beside, smallest), effort)?;
            }
        }
        let [smallest, grown @ ..] = &measured;
        let rows = measured.iter().flat_map(Measured::rows);
        let growth = grown.iter().flat_map(|grown| grown.growth(smallest, effort));
        Ok(Programs { sizes, rows: rows.chain(growth).collect() })
    });
    let programs = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    println!("{}", serde_json::to_string(&programs)?);
    Ok(())
}

/// The question, from what is left of the arguments.
fn question<T: DeserializeOwned>(mut arguments: impl Iterator<Item = String>) -> Result<T> {
    let question = arguments.next().context("no question")?;
    serde_json::from_str(&question).context("reading the question")
}

pub(crate) fn stay_on_one_cpu() -> Result<()> {
    let mut cpu = CpuSet::new();
    let cpus = thread::available_parallelism()?.get();
    cpu.set(cpus - 1)?;
    sched_setaffinity(Pid::from_raw(0), &cpu).context("staying on one CPU")
}
