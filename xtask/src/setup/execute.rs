//! Doing one step of the plan.

use std::process::Command;

use anyhow::{Context as _, Result};

use super::needs::{BPF_LINKER, BPF_TOOLCHAIN, DEBIAN_CLIPPY};
use super::plan::Step;
use crate::privilege::{Privilege, root_command};
use crate::progress::run_quietly;
use crate::workspace;

/// Does it, saying what and why.
pub(super) fn execute(step: &Step) -> Result<()> {
    eprintln!("-> {}: {}{}", step.what(), step.why(), through(step));
    match step {
        Step::UpdatePackageLists => run_quietly("apt-get update", apt_get()?.arg("update"))
            .context("apt cannot fetch its package lists: is the network up?"),
        Step::InstallDebianRust(packages) => install(packages),
        Step::InstallDebianClippy => install(&[DEBIAN_CLIPPY]),
        Step::InstallTools(tools) => install(&tools.iter().map(|tool| tool.package).collect::<Vec<_>>()),
        Step::LinkToolchain => run_quietly(
            "rustup toolchain link",
            Command::new("rustup").args(["toolchain", "link", BPF_TOOLCHAIN, "/usr"]),
        ),
        Step::InstallNightly => run_quietly(
            "rustup toolchain install nightly",
            Command::new("rustup").args([
                "toolchain",
                "install",
                "nightly",
                "--profile=minimal",
                "--component=rust-src",
            ]),
        )
        .context("rustup cannot install nightly with rust-src, which builds `core` for the eBPF target"),
        Step::InstallLinker => run_quietly(
            "cargo install bpf-linker",
            // Not in the workspace: its configuration is none of bpf-linker's business.
            workspace::cargo().current_dir("/").args([
                "install",
                "bpf-linker",
                &format!("--version={BPF_LINKER}"),
                "--locked",
                "--force",
            ]),
        ),
        Step::AddComponents(components) => run_quietly(
            "rustup component add",
            Command::new("rustup").args(["component", "add"]).args(components),
        ),
    }
}

fn through(step: &Step) -> &'static str {
    if step.needs_root() && Privilege::current() == Privilege::Sudo { " (as root, through sudo)" } else { "" }
}

fn install(packages: &[&str]) -> Result<()> {
    run_quietly(
        "apt-get install",
        // What a user has installed is not ours to remove: where packages conflict, stop.
        apt_get()?.args(["install", "--yes", "--no-install-recommends", "--no-remove"]).args(packages),
    )
    .with_context(|| format!("apt cannot install {}", packages.join(" ")))
}

fn apt_get() -> Result<Command> {
    let mut command = root_command("apt-get")?;
    command.env("DEBIAN_FRONTEND", "noninteractive");
    Ok(command)
}
