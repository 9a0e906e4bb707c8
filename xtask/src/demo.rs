//! `cargo xtask demo`: a cluster of network namespaces on this machine, whose pods talk through eBPF.

mod checks;
mod kept;
mod performance;
mod report;
mod steps;

use std::time::Instant;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use podlane_tests::{Binaries, Lab, lab};

use self::checks::Forwarded;
use self::kept::KeptLab;
use self::report::Report;
use self::steps::Steps;
use crate::build::{self, Profile};

const NODES: u8 = 3;
const PODS: [&str; 3] = ["a", "b", "c"];

/// What `cargo xtask demo` takes.
#[derive(Args)]
pub(crate) struct DemoArgs {
    /// Leave the cluster up and print how to look around in it
    #[arg(long, conflicts_with = "remove")]
    keep: bool,
    /// Remove a cluster that --keep left up, and do nothing else
    #[arg(long, value_name = "ID")]
    remove: Option<String>,
    /// How the result is printed
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// For programs
    Json,
}

/// Runs the demo. Set-up is done, the binaries are built and the process is root.
pub(crate) fn run(args: DemoArgs) -> Result<()> {
    if let Some(id) = &args.remove {
        lab::remove(id)?;
        eprintln!("Removed lab {id}.");
        return Ok(());
    }
    let report = demonstrate(args.keep)?;
    match args.output {
        Output::Table => println!("{}", report.text()),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    if !report.ok {
        let failed: Vec<_> = report.checks.iter().filter(|check| !check.ok).map(|check| check.what).collect();
        bail!("did not hold: {}", failed.join("; "));
    }
    Ok(())
}

fn demonstrate(keep: bool) -> Result<Report> {
    let begun = Instant::now();
    let steps = Steps::new();
    let binaries = Binaries::in_dir(&build::binaries(Profile::Dev)?)?;
    let mut podlane = steps.step("Starting three nodes with a Podlane agent each", || {
        Lab::builder().nodes(NODES).podlane(binaries.clone()).build()
    })?;
    let kept = if keep {
        podlane.keep()?;
        Some(KeptLab::describe(&podlane, &binaries)?)
    } else {
        None
    };
    steps.step("Attaching three pods on each node with the CNI plugin", || attach(&podlane))?;

    let forwarded = Forwarded::now(&podlane)?;
    let mut checks = vec![checks::ping(&podlane, &steps), checks::source(&podlane, &steps)];

    let classic = steps.step("Building the classic network beside it: bridges and static routes", || {
        let lab = Lab::builder().nodes(NODES).classic().build()?;
        attach(&lab)?;
        Ok(lab)
    })?;
    let classic_forwarded = Forwarded::now(&classic)?;
    let performance = performance::compare(&podlane, &classic, &steps)?;
    let (by_podlane, by_classic) = (forwarded.since(&podlane)?, classic_forwarded.since(&classic)?);
    checks.push(checks::nothing_forwarded(&podlane, &by_podlane, &by_classic));
    let removing = if keep { "Removing the classic network" } else { "Removing both networks" };
    steps.step(removing, || {
        drop(classic);
        drop(podlane);
        Ok(())
    })?;
    Ok(Report {
        ok: checks.iter().all(|check| check.ok),
        nodes: usize::from(NODES),
        pods: usize::from(NODES) * PODS.len(),
        checks,
        performance,
        seconds: begun.elapsed().as_secs_f64(),
        kept,
    })
}

fn attach(lab: &Lab) -> Result<()> {
    lab.nodes().iter().try_for_each(|node| node.add_pods(&PODS).map(|_| ()))
}
