//! A network namespace with a name (`/run/netns/<name>`).

use std::path::PathBuf;

use anyhow::Context as _;
use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};

use crate::Run;

/// A named network namespace. Dropping the value leaves the namespace: the lab's guard deletes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// The namespace called `name`, which may not exist yet.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// Its name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Whether it exists.
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// Creates it, empty but for a loopback device that is down.
    pub fn create(&self) -> anyhow::Result<()> {
        ip_batch(&[format!("netns add {}", self.name)])
    }

    /// Deletes its name; the kernel destroys it with its last user.
    pub fn delete(&self) -> anyhow::Result<()> {
        ip_batch(&[format!("netns delete {}", self.name)])
    }

    /// A command to run inside.
    ///
    /// Not by `ip netns exec`, which remounts `/sys` and so hides bpffs and cgroups.
    pub fn command<I: IntoIterator<Item: AsRef<std::ffi::OsStr>>>(&self, words: I) -> Run {
        Run::new("nsenter").arg(format!("--net={}", self.path().display())).arg("--").args(words)
    }

    /// Runs `ip` inside once for all `lines`.
    pub fn ip(&self, lines: &[String]) -> anyhow::Result<()> {
        self.command(["ip", "-batch", "-"])
            .stdin(lines.join("\n"))
            .read()
            .with_context(|| format!("in {}: {}", self.name, lines.join("; ")))?;
        Ok(())
    }

    /// Runs `work` on a thread inside. Sockets it returns stay in the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        let file = fs_err::File::open(self.path())?;
        let entered = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&file, CloneFlags::CLONE_NEWNET)
                        .with_context(|| format!("entering {}", self.name))?;
                    Ok(work())
                })
                .join()
        });
        entered.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Writes a sysctl of the namespace, for example `net/ipv4/ip_forward`.
    pub fn sysctl(&self, key: &str, value: &str) -> anyhow::Result<()> {
        self.run(|| fs_err::write(format!("/proc/sys/{key}"), value))?
            .with_context(|| format!("setting {key} = {value} in {}", self.name))
    }
}

/// Runs `ip` once, in this process's own namespace, for all `lines`.
pub(super) fn ip_batch(lines: &[String]) -> anyhow::Result<()> {
    Run::new("ip").args(["-batch", "-"]).stdin(lines.join("\n")).read().with_context(|| lines.join("; "))?;
    Ok(())
}
