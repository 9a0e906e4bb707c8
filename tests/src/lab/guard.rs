//! The process that cleans up after a lab's owner, whatever ended it.

use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::Context as _;

use super::folder::REMOVE;

/// A shell in a session of its own, so that neither Ctrl-C nor a closed terminal reaches it. It waits for the end of
/// its standard input.
#[derive(Debug)]
pub(super) struct Guard {
    child: Child,
    alive: Option<ChildStdin>,
}

impl Guard {
    pub(super) fn start(id: &str) -> anyhow::Result<Self> {
        // What it says belongs to nobody's standard output.
        let mut child = Command::new("setsid")
            .args(["sh", "-c", REMOVE, "remove-lab", id, "guard"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting the lab's guard (`setsid sh`)")?;
        let alive = child.stdin.take();
        Ok(Self { child, alive })
    }

    /// Makes it clean up now (it leaves kept labs alone), and waits for its end.
    pub(super) fn release(&mut self) {
        drop(self.alive.take());
        // It cannot be helped here; the next lab sweeps what is left.
        let _ = self.child.wait();
    }
}
