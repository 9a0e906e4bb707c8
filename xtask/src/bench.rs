//! `cargo xtask bench`: Podlane against the classic network.

use anyhow::{Result, bail};
use clap::Args;

/// What `cargo xtask bench` takes.
#[derive(Args)]
pub(crate) struct BenchArgs {}

/// Runs the benches. Set-up is done, the binaries are built and the process is root.
pub(crate) fn run(_args: BenchArgs) -> Result<()> {
    bail!("the benches are not written yet")
}
