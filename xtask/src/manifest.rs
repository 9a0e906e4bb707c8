//! `cargo xtask manifest`: renders the plain Kubernetes manifest from the Helm chart.

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use podlane_tests::{helm::Helm, manifest};

/// What `cargo xtask manifest` takes.
#[derive(Args)]
pub(crate) struct ManifestArgs {
    /// Write nothing; fail where the manifest is not what the chart renders
    #[arg(long)]
    check: bool,
}

/// Runs the subcommand.
pub(crate) fn run(args: &ManifestArgs) -> Result<()> {
    let rendered = manifest::render(&Helm::find_or_fetch()?)?;
    if args.check {
        let file = fs_err::read_to_string(manifest::FILE)?;
        ensure!(file == rendered, "{} is not what the chart renders: cargo xtask manifest", manifest::FILE);
        return Ok(());
    }
    fs_err::write(manifest::FILE, rendered).context("writing the manifest")?;
    println!("wrote deploy/kubernetes/podlane.yaml");
    Ok(())
}
