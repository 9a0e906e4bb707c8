//! `cargo xtask`: set-up, demo, tests and benches.
//!
//! One subcommand a file. Everything here builds with a plain stable Rust: it runs before an eBPF toolchain is there.

mod bench;
mod build;
mod command;
mod demo;
mod e2e_kubernetes;
mod image;
mod kernels;
mod manifest;
mod privilege;
mod progress;
mod setup;
mod test;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::setup::Scope;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, version)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or install what building, testing and the demo need
    Setup(setup::SetupArgs),
    /// Check format and lints, run the unit, packet and end-to-end tests
    Test(test::TestArgs),
    /// Build a cluster of network namespaces and show pods talking through eBPF
    Demo(demo::DemoArgs),
    /// Run the tests of the Kubernetes source against a real kube-apiserver, which is built and cached
    E2eKubernetes(e2e_kubernetes::E2eKubernetesArgs),
    /// Boot older and newer kernels in a virtual machine and run the packet tests in them
    Kernels(kernels::KernelsArgs),
    /// Build the container image
    Image(image::ImageArgs),
    /// Render the plain Kubernetes manifest from the Helm chart
    Manifest(manifest::ManifestArgs),
    /// Measure the dataplane against other pod networks, and its programs by themselves
    Bench(bench::BenchArgs),
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli.task {
        Task::Setup(args) => setup::run(&args),
        Task::Test(args) => test::run(&args),
        Task::E2eKubernetes(args) => e2e_kubernetes::run(&args),
        Task::Kernels(args) => kernels::run(&args),
        Task::Image(args) => image::run(&args),
        Task::Manifest(args) => manifest::run(&args),
        Task::Demo(args) => {
            lab("the demo builds network namespaces and loads eBPF programs")?;
            demo::run(args)
        }
        Task::Bench(args) => bench::run(args),
    }
}

/// What comes before everything that runs a lab: set-up and the binaries as the user, then root.
fn lab(why_root: &str) -> Result<()> {
    setup::ensure(Scope::Lab)?;
    build::binaries(build::Profile::Dev)?;
    privilege::become_root(why_root)
}
