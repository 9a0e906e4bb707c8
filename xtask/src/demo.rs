//! `cargo xtask demo`: a cluster of network namespaces on this machine.

use anyhow::{Result, bail};
use clap::Args;

/// What `cargo xtask demo` takes.
#[derive(Args)]
pub(crate) struct DemoArgs {}

/// Runs the demo. Set-up is done, the binaries are built and the process is root.
pub(crate) fn run(_args: DemoArgs) -> Result<()> {
    bail!("the demo is not written yet")
}
