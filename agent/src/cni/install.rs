//! The plugin and the network configuration where the container runtime looks for them.

use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::api::StatusSource;

/// Runtimes take the first of the folder by its name.
const CONFLIST: &str = "10-podlane.conflist";
const PLUGIN: &str = "podlane-cni";

/// How often to look whether the agent has become ready.
const INTERVAL: Duration = Duration::from_millis(20);
/// How long to wait before what failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// What to install where.
#[derive(Clone, Debug)]
pub struct Installation {
    /// The plugin; that beside the running program where there is none.
    pub plugin: Option<PathBuf>,
    /// Where the runtime looks for plugins.
    pub bin_dir: PathBuf,
    /// Where the runtime looks for network configurations.
    pub conf_dir: PathBuf,
    /// The agent's socket.
    pub socket: PathBuf,
}

impl Installation {
    /// Writes both: whole or not at all, and nothing where they are as they should be. Says of each what was done.
    ///
    /// # Errors
    /// Names the file that cannot be read or written.
    pub fn write(&self) -> anyhow::Result<Vec<String>> {
        let source = match &self.plugin {
            Some(path) => path.clone(),
            None => std::env::current_exe().context("finding this program's folder")?.with_file_name(PLUGIN),
        };
        let binary = fs_err::read(&source).context("name the plugin with --plugin")?;
        let text = format!("{:#}\n", configuration(&self.socket, &self.bin_dir));
        let [plugin, conflist] = self.files();
        let mut said = Vec::new();
        for (path, content, mode) in [(plugin, binary.as_slice(), 0o755), (conflist, text.as_bytes(), 0o644)]
        {
            let done = if replace(&path, content, mode)? { "wrote" } else { "is up to date:" };
            said.push(format!("{done} {}", path.display()));
        }
        Ok(said)
    }

    /// Takes both away. Says what was removed; what is not there is no error.
    ///
    /// # Errors
    /// Where a file cannot be removed.
    pub fn remove(&self) -> anyhow::Result<Vec<String>> {
        // The other way round: a configuration never names a plugin that is gone.
        let mut said = self.remove_configuration()?;
        let [plugin, _] = self.files();
        said.extend(remove(&plugin)?);
        Ok(said)
    }

    /// Takes the configuration away: from now on the runtime starts no pods here. The plugin stays, for the pods that
    /// are still to be detached.
    ///
    /// # Errors
    /// Where the file cannot be removed.
    pub fn remove_configuration(&self) -> anyhow::Result<Vec<String>> {
        let [_, conflist] = self.files();
        Ok(remove(&conflist)?.into_iter().collect())
    }

    /// Writes both once the agent can attach pods: a runtime that finds a configuration sends pods at once.
    pub async fn when_ready(self, status: &dyn StatusSource) {
        while !status.started() {
            tokio::time::sleep(INTERVAL).await;
        }
        let mut last = String::new();
        loop {
            let error = match self.write() {
                Ok(said) => {
                    said.iter().for_each(|line| tracing::info!("{line}"));
                    return;
                }
                Err(error) => format!("{error:#}"),
            };
            if error != last {
                tracing::error!(error, "the container runtime cannot be told of Podlane; trying again");
                last = error;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn files(&self) -> [PathBuf; 2] {
        [self.bin_dir.join(PLUGIN), self.conf_dir.join(CONFLIST)]
    }
}

fn remove(path: &Path) -> anyhow::Result<Option<String>> {
    match fs_err::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => {
            other?;
            Ok(Some(format!("removed {}", path.display())))
        }
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
