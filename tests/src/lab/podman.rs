//! podman with its CNI backend on a node, apart from the machine's own: its own storage and configuration.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::containerd::{IMAGE, make_image};
use super::{Namespace, Node, chain::DEBIAN_PLUGINS};
use crate::Run;

/// What it is told: the CNI backend and runc.
const CONTAINERS_CONF: &str = r#"
[containers]
apparmor_profile = "unconfined"
# What a machine without CAP_SYS_RESOURCE allows.
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
tmp_dir = "DIR/tmp"
[network]
network_backend = "cni"
cni_plugin_dirs = ["DIR/cni/bin"]
network_config_dir = "DIR/cni/conf"
default_network = "podlane"
"#;
const STORAGE_CONF: &str = r#"
[storage]
driver = "vfs"
graphroot = "DIR/root"
runroot = "DIR/run"
"#;

/// podman on a node. Its containers end when it is dropped.
#[derive(Debug)]
pub struct Podman {
    namespace: Namespace,
    dir: PathBuf,
}

impl Podman {
    /// Prepares the node and loads [`IMAGE`].
    pub fn prepare(node: &Node) -> anyhow::Result<Self> {
        let podman = Self { namespace: node.namespace().clone(), dir: node.dir().join("podman") };
        for folder in ["cni/bin", "cni/conf", "image"] {
            fs_err::create_dir_all(podman.dir.join(folder))?;
        }
        for plugin in ["loopback", "portmap"] {
            let path = Path::new(DEBIAN_PLUGINS).join(plugin);
            fs_err::os::unix::fs::symlink(path, podman.cni_bin_dir().join(plugin))?;
        }
        let dir = podman.dir.display().to_string();
        fs_err::write(podman.dir.join("containers.conf"), CONTAINERS_CONF.replace("DIR", &dir))?;
        fs_err::write(podman.dir.join("storage.conf"), STORAGE_CONF.replace("DIR", &dir))?;
        let image = make_image(&podman.dir.join("image"))?;
        podman.run(["load", "--quiet", "--input"]).arg(image).read().context("loading the image")?;
        Ok(podman)
    }

    /// Where it looks for networks.
    pub fn cni_conf_dir(&self) -> PathBuf {
        self.dir.join("cni/conf")
    }

    /// Where it looks for plugins.
    pub fn cni_bin_dir(&self) -> PathBuf {
        self.dir.join("cni/bin")
    }

    /// `podman` with arguments.
    pub fn run<I: IntoIterator<Item: AsRef<std::ffi::OsStr>>>(&self, args: I) -> Run {
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
        let file = |name: &str| self.dir.join(name).display().to_string();
        self.namespace.command(["podman"]).args(args).environment([
            ("PATH", path),
            ("HOME", file("")),
            ("CONTAINERS_CONF", file("containers.conf")),
            ("CONTAINERS_STORAGE_CONF", file("storage.conf")),
        ])
    }

    /// Starts a container that sleeps, with these options.
    pub fn start(&self, name: &str, options: &[&str]) -> anyhow::Result<()> {
        self.run(["run", "--detach", "--name", name, "--network", "podlane"])
            .args(options)
            .args([IMAGE, "/bin/sleep", "600"])
            .read()
            .map(drop)
    }

    /// Runs a command in a container.
    pub fn exec(&self, name: &str, command: &[&str]) -> anyhow::Result<String> {
        self.run(["exec", name]).args(command).read()
    }

    /// Ends and removes a container.
    pub fn remove(&self, name: &str) -> anyhow::Result<()> {
        self.run(["rm", "--force", "--time", "0", name]).read().map(drop)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // A test that failed leaves some; nobody is interested in how this goes.
        let _ = self.run(["rm", "--force", "--all", "--time", "0"]).finish();
    }
}
