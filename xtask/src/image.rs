//! `cargo xtask image`: the container image, from static binaries and the files of this machine's nft.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{command::display, progress, setup, setup::Scope, workspace};

/// What `cargo xtask image` takes.
#[derive(Args)]
pub(crate) struct ImageArgs {
    /// The image's name
    #[arg(long, default_value_t = format!("ghcr.io/podlane/podlane:{}", env!("CARGO_PKG_VERSION")))]
    tag: String,
    /// podman, docker, or another that takes their `build` and `run`; none only gathers the files
    #[arg(long, default_value = "podman")]
    engine: String,
}

/// Runs the subcommand.
pub(crate) fn run(args: &ImageArgs) -> Result<()> {
    setup::ensure(Scope::Build)?;
    let binaries = static_binaries()?;
    let folder = workspace::target_dir()?.join("image");
    let sources = workspace::root().join("deploy/image");
    fs_err::create_dir_all(&folder)?;
    fs_err::copy(sources.join("Containerfile"), folder.join("Containerfile"))?;
    let mut gather = Command::new(sources.join("rootfs.sh"));
    gather.arg(&binaries).arg(folder.join("rootfs"));
    progress::run_quietly("gathering the image's files", &mut gather)?;
    if args.engine == "none" {
        println!("the image's files are in {}", folder.display());
        return Ok(());
    }
    build(&args.engine, &args.tag, &folder)?;
    // What was built runs.
    for words in [["podlane", "--version"], ["nft", "--version"]] {
        let mut run = Command::new(&args.engine);
        run.args(["run", "--rm", "--network=host", &args.tag]).args(words);
        let output = run.output().with_context(|| format!("starting `{}`", display(&run)))?;
        if !output.status.success() {
            bail!("`{}` failed: {}", display(&run), String::from_utf8_lossy(&output.stderr).trim());
        }
        print!("{}", String::from_utf8_lossy(&output.stdout));
    }
    println!("built {}", args.tag);
    Ok(())
}

/// The plugin runs on the node itself, whatever C library that has: both binaries are static.
fn static_binaries() -> Result<std::path::PathBuf> {
    let rustc = Command::new("rustc").arg("-vV").output().context("asking rustc for the host's target")?;
    let text = String::from_utf8_lossy(&rustc.stdout).into_owned();
    let target = text.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    let variable = format!("CARGO_TARGET_{}_RUSTFLAGS", target.to_uppercase().replace('-', "_"));
    progress::run_quietly(
        "building podlane and podlane-cni (release, static)",
        workspace::cargo()
            .args(["build", "--release", "--package", "podlane", "--bins", "--target", target])
            .env(variable, "-C target-feature=+crt-static"),
    )?;
    Ok(workspace::target_dir()?.join(target).join("release"))
}

fn build(engine: &str, tag: &str, folder: &Path) -> Result<()> {
    let mut build = Command::new(engine);
    build.args(["build", "--tag", tag]).arg(folder);
    progress::run_quietly(&format!("building the image with {engine}"), &mut build)
}
