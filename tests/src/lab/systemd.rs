//! systemd on a node: process 1 of a PID namespace, with a root of its own that has the machine's `/usr`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::Node;
use crate::{Binaries, Run};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/lab/systemd.sh");
const PATIENCE: Duration = Duration::from_secs(60);

/// A running systemd. It ends, with its services, when it is dropped.
#[derive(Debug)]
pub struct Systemd {
    launcher: Child,
    /// systemd's, in this process's namespace.
    pid: u32,
    root: PathBuf,
}

impl Systemd {
    /// Starts it on a node with the binaries in `/usr/local/bin` and these files (path and content), of which
    /// `/etc/systemd/system/podlane.service` is what it starts.
    pub fn boot(node: &Node, binaries: &Binaries, files: &[(&str, &str)]) -> anyhow::Result<Self> {
        let root = node.dir().join("root");
        let write = |path: &str, content: &str| -> anyhow::Result<()> {
            let file = root.join(path.trim_start_matches('/'));
            fs_err::create_dir_all(file.parent().context("a file without a folder")?)?;
            Ok(fs_err::write(file, content)?)
        };
        for program in [&binaries.podlane, &binaries.podlane_cni] {
            let copy = root.join("local/bin").join(program.file_name().context("a program without a name")?);
            fs_err::create_dir_all(root.join("local/bin"))?;
            fs_err::copy(program, &copy)?;
            fs_err::set_permissions(copy, std::fs::Permissions::from_mode(0o755))?;
        }
        let always = [
            ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
            ("etc/os-release", "NAME=Lab\n"),
            ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
            ("etc/group", "root:x:0:\n"),
            ("console", ""),
        ];
        for (path, content) in always.iter().chain(files) {
            write(path, content)?;
        }
        // The lab removes groups of this name, also when it was killed.
        let group = node.namespace().name();
        let launcher = Command::new("nsenter")
            .arg(format!("--net={}", node.namespace().path().display()))
            .args(["--", "unshare", "--mount", "--propagation=slave", "--", "sh", SCRIPT])
            .args([root.as_os_str(), group.as_ref()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs_err::File::create(root.join("errors"))?.into_parts().0)
            .spawn()
            .context("starting systemd")?;
        let mut systemd = Self { launcher, pid: 0, root };
        let deadline = Instant::now() + PATIENCE;
        while !systemd.answers()? {
            ensure!(Instant::now() < deadline, "systemd does not answer; it said:\n{}", systemd.said());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(systemd)
    }

    /// A command among its services: their files, processes and devices.
    pub fn command<I: IntoIterator<Item: AsRef<std::ffi::OsStr>>>(&self, words: I) -> Run {
        let target = format!("--target={}", self.pid);
        let run = Run::new("nsenter").arg(target);
        run.args(["--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--root", "--wd", "--"])
            .args(words)
    }

    /// What `systemctl show` tells of a unit.
    pub fn property(&self, unit: &str, name: &str) -> anyhow::Result<String> {
        let text = self.command(["systemctl", "show", "--value", "--property", name, unit]).read()?;
        Ok(text.trim().to_owned())
    }

    /// Waits until a unit has such a property.
    pub fn wait_for(&self, unit: &str, property: &str, value: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.property(unit, property)?;
            if now == value {
                return Ok(());
            }
            let said = || self.said();
            ensure!(Instant::now() < deadline, "{unit}: {property} is {now}, not {value}:\n{}", said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Its root, as it is seen from outside; what is mounted in there is not.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What it and its services have said.
    pub fn said(&self) -> String {
        let read = |name: &str| fs_err::read_to_string(self.root.join(name)).unwrap_or_default();
        let journal = self.command(["journalctl", "--no-pager", "--quiet"]).read().unwrap_or_default();
        [read("errors"), read("console"), journal].concat()
    }

    fn answers(&mut self) -> anyhow::Result<bool> {
        ensure!(self.launcher.try_wait()?.is_none(), "systemd has ended; it said:\n{}", self.said());
        // Its only child, once it is that far.
        let launcher = self.launcher.id();
        let children = fs_err::read_to_string(format!("/proc/{launcher}/task/{launcher}/children"))?;
        let Ok(pid) = children.trim().parse() else { return Ok(false) };
        self.pid = pid;
        // Before it is executed there is a shell in its place.
        let name = fs_err::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Ok(name.trim() == "systemd"
            && self.command(["systemctl", "show", "--property=Version"]).finish()?.code == Some(0))
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // systemd goes with it, and everything goes with systemd. Errors cannot be helped here; the lab looks again.
        let _ = self.launcher.kill();
        let _ = self.launcher.wait();
    }
}
