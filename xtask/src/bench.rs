//! `cargo xtask bench`: Podlane against other pod networks, and its programs by themselves. Apart, as they measure
//! something else and do not repeat as well: its CNI plugin against others, and an agent among thousands of nodes.

mod cni;
mod compare;
mod figures;
mod machine;
mod network;
mod order;
mod pace;
mod plan;
mod plots;
mod programs;
mod readme;
mod report;
mod rows;
mod scale;
mod targets;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use podlane_tests::Binaries;

use self::pace::Pace;
use self::plan::Plan;
use self::report::Report;
use crate::build::{self, Profile};
use crate::progress::{heading, seconds};
use crate::setup::{self, Scope};
use crate::{privilege, workspace};

/// What `cargo xtask bench` takes.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    only: Option<Only>,
    #[command(flatten)]
    how: How,
    /// How long it may take, building apart [default: 40, with --quick 5]
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(4..),
        conflicts_with_all = ["readme", "compare"]
    )]
    minutes: Option<u16>,
    /// Measure nothing: write the performance section of FILE from the bench.json in DIR
    #[arg(long, value_name = "FILE", conflicts_with = "quick")]
    readme: Option<PathBuf>,
    /// Measure nothing: show by how much the targets' ratios of two runs differ, and fail above 5 %
    #[arg(long, value_name = "RUN", num_args = 2, conflicts_with_all = ["quick", "out", "readme"])]
    compare: Vec<PathBuf>,
}

#[derive(Args)]
struct How {
    /// Fewer rounds: at most 5 minutes
    #[arg(long)]
    quick: bool,
    /// Where bench.json and the plots go [default: target/bench]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Only {
    /// Only what each program costs, in nanoseconds per packet
    Programs(How),
    /// Only how fast pods are attached and detached, beside the bridge and ptp plugins
    Cni(How),
    /// Only an agent in a cluster of thousands of nodes, from each source
    Scale(How),
}

/// What is measured.
#[derive(Clone, Copy)]
struct Parts {
    programs: bool,
    network: bool,
    cni: bool,
}

/// Builds what is missing, goes on as root, and measures.
pub(crate) fn run(args: BenchArgs) -> Result<()> {
    let BenchArgs { only, how, minutes, readme, compare } = args;
    if !compare.is_empty() {
        return compare::print(&compare);
    }
    let nothing = Parts { programs: false, network: false, cni: false };
    let (how, parts) = match only {
        Some(Only::Scale(how)) => return scale::run(how),
        Some(Only::Programs(how)) => (how, Parts { programs: true, ..nothing }),
        Some(Only::Cni(how)) => (how, Parts { cni: true, ..nothing }),
        None => (how, Parts { programs: true, network: true, ..nothing }),
    };
    let out = match how.out {
        Some(folder) => std::path::absolute(&folder)?,
        None => workspace::target_dir()?.join("bench"),
    };
    if let Some(file) = readme {
        return readme::write(&file, &Report::read(&out)?);
    }
    setup::ensure(Scope::Lab)?;
    let binaries = build::binaries(Profile::Release)?;
    let programs = if parts.programs { Some(build::programs_bench()?) } else { None };
    privilege::become_root("the benches build network namespaces and load eBPF programs")?;
    let mut plan = if how.quick { Plan::QUICK } else { Plan::FULL };
    if let Some(minutes) = minutes {
        plan.limit = Duration::from_secs(60 * u64::from(minutes));
    }
    measure(&plan, parts, &binaries, programs.as_deref(), &out)
}

fn measure(plan: &Plan, parts: Parts, binaries: &Path, programs: Option<&Path>, out: &Path) -> Result<()> {
    let begun = Instant::now();
    let mut report = Report::about_this_machine(plan, parts)?;
    let binaries = Binaries::in_dir(binaries)?;
    if let Some(programs) = programs {
        heading("Programs");
        let measured = programs::measure(programs, plan)?;
        report.programs = measured.sizes;
        report.rows = measured.rows;
        if parts.network {
            heading("Contenders");
            let measured = network::measure(&binaries, programs, plan, Pace::new(begun, plan.limit))?;
            report.contenders = measured.contenders;
            report.rows.extend(measured.rows);
        }
        report.targets = targets::all(&report.rows, parts.network);
    }
    if parts.cni {
        heading("CNI plugins");
        report.rows.extend(cni::measure(&binaries, plan)?);
        report.targets.extend(cni::targets(&report.rows));
    }
    fs_err::create_dir_all(out)?;
    report.write(out)?;
    println!("{}", report.text());
    if parts.network {
        plots::draw(&report, out).context("drawing the plots")?;
    }
    println!("\nWritten to {} ({}).", out.display(), seconds(begun.elapsed()));
    Ok(())
}
