//! `cargo xtask setup`: finds or installs what building and running Podlane needs.
//!
//! [`facts`] looks at the machine, [`plan`] turns the facts into steps and problems, [`execute`] does one step. After
//! each step the facts are gathered anew, so a step that did not help is noticed at once.

mod execute;
mod facts;
mod needs;
mod plan;

use anyhow::{Result, bail};
use clap::Args;

use crate::privilege;
use facts::Facts;
use plan::{Plan, Step};

pub(crate) use facts::{Version, bpf_clippy};

/// What `cargo xtask setup` takes.
#[derive(Args)]
pub(crate) struct SetupArgs {
    /// Change nothing; say what is missing, and exit with 1 if something is
    #[arg(long)]
    check: bool,
}

/// What the set-up is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Build and run unit tests: no root, any kernel.
    Build,
    /// Build and run the lab: root, its tools and a kernel that can run the programs.
    Lab,
    /// Build a kube-apiserver: no root, any kernel.
    KubeApiserver,
    /// Boot other kernels in a virtual machine: no root, any kernel.
    Kernels,
}

/// Runs the subcommand.
pub(crate) fn run(args: &SetupArgs) -> Result<()> {
    if args.check {
        return check();
    }
    let (facts, steps) = bring_about(Scope::Lab)?;
    let done = if steps == 0 { "nothing to do" } else { "done" };
    println!("Set-up: {done}. {}", facts.summary());
    Ok(())
}

/// Makes sure that everything is there; silent when it is.
pub(crate) fn ensure(scope: Scope) -> Result<()> {
    if privilege::is_prepared() {
        return Ok(());
    }
    bring_about(scope).map(|_| ())
}

fn check() -> Result<()> {
    let facts = Facts::gather();
    let plan = plan::plan(&facts, Scope::Lab);
    for problem in &plan.problems {
        println!("problem: {problem}");
    }
    for step in &plan.steps {
        println!("missing: {} ({})", step.what(), step.why());
    }
    if !plan.is_empty() {
        bail!("this machine is not ready: `cargo xtask setup` takes care of what is missing");
    }
    println!("Nothing is missing. {}", facts.summary());
    Ok(())
}

/// Does the plan's first step until no step is left.
fn bring_about(scope: Scope) -> Result<(Facts, usize)> {
    let mut facts = Facts::gather();
    let mut done: Vec<Step> = Vec::new();
    loop {
        let Plan { steps, problems } = plan::plan(&facts, scope);
        if !problems.is_empty() {
            let lines: String = problems.iter().map(|problem| format!("\n  - {problem}")).collect();
            bail!("set-up cannot go on:{lines}");
        }
        let Some(step) = steps.into_iter().next() else { break };
        if done.contains(&step) {
            bail!("{}: that was done, and is still needed; {}", step.what(), step.hint());
        }
        execute::execute(&step)?;
        done.push(step);
        let lists_are_fresh = done.contains(&Step::UpdatePackageLists);
        facts = Facts { lists_are_fresh, ..Facts::gather() };
    }
    Ok((facts, done.len()))
}
