//! The operator's commands, one a file.

mod agent;
mod bench;
mod cleanup;
mod etcd;
mod install_cni;
mod service;
mod status;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::config::{DEFAULT_BPF_DIR, DEFAULT_RUN_DIR};

/// Podlane: an eBPF dataplane for fast pod forwarding.
#[derive(Debug, Parser)]
#[command(name = "podlane", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the node's agent
    Agent(Box<agent::AgentArgs>),
    /// Show the agent's state; exit status 0 is healthy, 1 is not, 2 is no agent
    Status(status::StatusArgs),
    /// Make the container runtime call Podlane: write plugin and network configuration once the agent is ready
    InstallCni(install_cni::InstallCniArgs),
    /// Measure the network between two pods, or two nodes
    Bench(bench::BenchArgs),
    /// Look after the cluster's state in etcd
    Etcd(etcd::EtcdArgs),
    /// Remove every trace of Podlane from this node, its pods' interfaces included
    Cleanup(cleanup::CleanupArgs),
}

/// Where this node's agent keeps its things.
#[derive(Clone, Debug, Args)]
struct Places {
    /// The agent's runDir
    #[arg(long, env = "PODLANE_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,

    /// The agent's bpfDir
    #[arg(long, env = "PODLANE_BPF_DIR", value_name = "DIR", default_value = DEFAULT_BPF_DIR)]
    bpf_dir: PathBuf,
}

impl Cli {
    /// Runs the command. Errors are the caller's to print.
    ///
    /// # Errors
    /// Whatever went wrong, with its context.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Agent(args) => agent::run(*args),
            Command::Status(args) => status::run(&args),
            Command::InstallCni(args) => install_cni::run(&args),
            Command::Bench(args) => bench::run(&args),
            Command::Etcd(args) => etcd::run(args),
            Command::Cleanup(args) => cleanup::run(&args),
        }
    }
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    use anyhow::Context as _;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the async runtime")?
        .block_on(work)
}
