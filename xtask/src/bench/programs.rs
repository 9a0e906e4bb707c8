//! The bench of the programs is an executable of its own: it needs the programs, which xtask must not.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use podlane_tests::bench::Programs;

use super::plan::Plan;

pub(super) fn measure(bench: &Path, plan: &Plan) -> Result<Programs> {
    let mut command = Command::new(bench);
    if plan.quick {
        command.arg("--quick");
    }
    // Its standard error is its progress.
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("starting {}", bench.display()))?;
    ensure!(output.status.success(), "{} failed ({})", bench.display(), output.status);
    serde_json::from_slice(&output.stdout).context("reading what the bench of the programs printed")
}
