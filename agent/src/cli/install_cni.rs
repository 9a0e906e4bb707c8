//! `podlane install-cni`: from now on, the container runtime calls Podlane. Or no longer.

use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Value, json};

use super::Places;
use crate::api::SOCKET_NAME;
use crate::api::client::Client;

/// Runtimes take the first of the folder by its name.
const CONFLIST: &str = "10-podlane.conflist";
const PLUGIN: &str = "podlane-cni";
const INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct InstallCniArgs {
    /// Where the runtime looks for plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,

    /// Where the runtime looks for network configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
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

    #[command(flatten)]
    places: Places,
}

pub(super) fn run(args: &InstallCniArgs) -> anyhow::Result<ExitCode> {
    let (plugin, conflist) = (args.bin_dir.join(PLUGIN), args.conf_dir.join(CONFLIST));
    if args.remove {
        // The other way round: a configuration never names a plugin that is gone.
        for path in [&conflist, &plugin] {
            match fs_err::remove_file(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => {
                    other?;
                    println!("removed {}", path.display());
                }
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let source = match &args.plugin {
        Some(path) => path.clone(),
        None => std::env::current_exe().context("finding this program's folder")?.with_file_name(PLUGIN),
    };
    let binary = fs_err::read(&source).context("name the plugin with --plugin")?;
    let socket = std::path::absolute(args.places.run_dir.join(SOCKET_NAME))?;
    super::block_on(wait_ready(&socket, Duration::from_secs(args.wait)))?;
    let text = format!("{:#}\n", configuration(&socket, &args.bin_dir));
    for (path, content, mode) in [(&plugin, binary.as_slice(), 0o755), (&conflist, text.as_bytes(), 0o644)] {
        let done = if replace(path, content, mode)? { "wrote" } else { "is up to date:" };
        println!("{done} {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// A runtime that finds a configuration sends pods at once: not before somebody is there to attach them.
async fn wait_ready(socket: &Path, patience: Duration) -> anyhow::Result<()> {
    let (agent, deadline) = (Client::new(socket), Instant::now() + patience);
    loop {
        let why = match agent.health().await {
            Ok(health) if health.ready => return Ok(()),
            Ok(health) => health.problems.join("; "),
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            bail!("the agent is not ready after {patience:?}, nothing was installed: {why}");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn configuration(socket: &Path, bin_dir: &Path) -> Value {
    let mut plugins = vec![json!({
        "type": PLUGIN,
        "socket": socket,
        "capabilities": { "ips": true, "mac": true, "ipRanges": true, "dns": true },
    })];
    // hostPort is portmap's work, where it is installed.
    if bin_dir.join("portmap").is_file() {
        plugins.push(json!({ "type": "portmap", "capabilities": { "portMappings": true }, "snat": true }));
    }
    json!({
        // Not the newest: containerd 1.6 rejects results in 1.1.0.
        "cniVersion": "1.0.0",
        "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
        "name": "podlane",
        "plugins": plugins,
    })
}

/// Writes a file whole or not at all; false if it is there already as it should be. The temporary file is in the same
/// folder: runtimes do not notice a file that is moved in from another one.
fn replace(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<bool> {
    let current = fs_err::metadata(path).ok().map(|metadata| metadata.permissions().mode() & 0o7777);
    if current == Some(mode) && fs_err::read(path).is_ok_and(|found| found == content) {
        return Ok(false);
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs_err::create_dir_all(folder)?;
    // Runtimes read *.conf, *.conflist and *.json only.
    let temporary = folder.join(format!(".podlane.{}.tmp", std::process::id()));
    let written = (|| -> anyhow::Result<()> {
        let mut file = fs_err::File::create(&temporary)?;
        file.write_all(content)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        // A machine that loses power must not come back with an empty plugin.
        file.sync_all()?;
        fs_err::rename(&temporary, path)?;
        Ok(())
    })();
    if written.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&temporary);
    }
    written.with_context(|| format!("installing {}", path.display()))?;
    Ok(true)
}
