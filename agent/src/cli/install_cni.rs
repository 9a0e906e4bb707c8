//! `podlane install-cni`: from now on, the container runtime calls Podlane. Or no longer.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;

use super::Places;
use crate::api::SOCKET_NAME;
use crate::api::client::Client;
use crate::cluster::{self, KubernetesSettings};
use crate::cni::Installation;
use crate::config::{Config, DEFAULT_CNI_BIN_DIR, DEFAULT_CNI_CONF_DIR, Settings};

const INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct InstallCniArgs {
    /// Where the runtime looks for plugins
    #[arg(long, env = "PODLANE_CNI_BIN_DIR", value_name = "DIR", default_value = DEFAULT_CNI_BIN_DIR)]
    bin_dir: PathBuf,

    /// Where the runtime looks for network configurations
    #[arg(long, env = "PODLANE_CNI_CONF_DIR", value_name = "DIR", default_value = DEFAULT_CNI_CONF_DIR)]
    conf_dir: PathBuf,

    /// The plugin to install [default: podlane-cni beside this program]
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,

    /// How many seconds to wait for the agent to become ready
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,

    /// Take both away again instead; needs no agent
    #[arg(long)]
    remove: bool,

    /// Only where this DaemonSet of the cluster is gone or going, and what is removed is the configuration: for the
    /// hook that ends an agent's container, which cannot tell an update from the end
    #[arg(long, value_name = "NAMESPACE/NAME", requires = "remove")]
    if_uninstalled: Option<String>,

    /// The agent's config file, for how to reach the Kubernetes API [default: /etc/podlane/config.yaml, if it is there]
    #[arg(long, env = "PODLANE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    kubernetes: KubernetesSettings,

    #[command(flatten)]
    places: Places,
}

pub(super) fn run(args: &InstallCniArgs) -> anyhow::Result<ExitCode> {
    let installation = Installation {
        plugin: args.plugin.clone(),
        bin_dir: args.bin_dir.clone(),
        conf_dir: args.conf_dir.clone(),
        socket: std::path::absolute(args.places.run_dir.join(SOCKET_NAME))?,
    };
    let said = if let Some(daemon_set) = &args.if_uninstalled {
        if !is_uninstalled(args, daemon_set)? {
            println!("{daemon_set} is still there: nothing is removed");
            return Ok(ExitCode::SUCCESS);
        }
        installation.remove_configuration()?
    } else if args.remove {
        installation.remove()?
    } else {
        wait_ready(&installation.socket, Duration::from_secs(args.wait))?;
        installation.write()?
    };
    said.iter().for_each(|line| println!("{line}"));
    Ok(ExitCode::SUCCESS)
}

/// Asks as the agent would: its config file counts.
fn is_uninstalled(args: &InstallCniArgs, daemon_set: &str) -> anyhow::Result<bool> {
    let Some((namespace, name)) = daemon_set.split_once('/') else {
        bail!(
            "--if-uninstalled: \"{daemon_set}\" is not a namespace, a slash and a name, such as kube-system/podlane"
        );
    };
    let given = Settings { kubernetes: args.kubernetes.clone(), ..Settings::default() };
    let settings = Config::resolve(given, args.config.as_deref())?.kubernetes;
    super::block_on(cluster::is_uninstalled(&settings, namespace, name))
}

/// A runtime that finds a configuration sends pods at once: not before somebody is there to attach them.
fn wait_ready(socket: &Path, patience: Duration) -> anyhow::Result<()> {
    let (agent, deadline) = (Client::new(socket), Instant::now() + patience);
    loop {
        let why = match agent.health() {
            Ok(health) if health.ready => return Ok(()),
            Ok(health) => health.problems.join("; "),
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            bail!("the agent is not ready after {patience:?}, nothing was installed: {why}");
        }
        std::thread::sleep(INTERVAL);
    }
}
