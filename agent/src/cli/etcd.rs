//! `podlane etcd`: what an operator does by hand in the etcd source.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};

use crate::{
    cluster::{EtcdSettings, etcd},
    config::{Config, Settings},
};

#[derive(Debug, Args)]
pub(super) struct EtcdArgs {
    #[command(subcommand)]
    command: EtcdCommand,
}

#[derive(Debug, Subcommand)]
enum EtcdCommand {
    /// Free the pod CIDRs of a node that is gone for good
    Release(ReleaseArgs),
}

/// The settings of etcd come from where the agent's come from.
#[derive(Debug, Args)]
struct ReleaseArgs {
    /// The node's name
    node: String,

    /// Also if the node is still published, as it is until its lease has run out
    #[arg(long)]
    force: bool,

    /// The agent's config file [default: /etc/podlane/config.yaml, if it is there]
    #[arg(long, env = "PODLANE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    etcd: EtcdSettings,
}

pub(super) fn run(args: EtcdArgs) -> anyhow::Result<ExitCode> {
    let EtcdCommand::Release(ReleaseArgs { node, force, config, etcd: given }) = args.command;
    let config = Config::resolve(Settings { etcd: given, ..Settings::default() }, config.as_deref())?;
    let freed = super::block_on(etcd::release(&config.etcd, &node, force))?;
    if freed.is_empty() {
        println!("Node {node} has no pod CIDR.");
    }
    for cidr in freed {
        println!("Freed {cidr}.");
    }
    Ok(ExitCode::SUCCESS)
}
