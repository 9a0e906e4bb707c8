//! Builds the agent and the CNI plugin.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use podlane_tests::Binaries;

use crate::{privilege, progress, workspace};

/// Cargo's profiles that we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quick to build; tests and demo run it. The programs in it are those of the release.
    Dev,
    /// What a node runs; benches run it.
    Release,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
        }
    }

    /// Cargo calls dev's folder after an older name.
    fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// Builds `podlane` and `podlane-cni` and returns the folder they are in. Costs next to nothing when they are fresh.
pub(crate) fn binaries(profile: Profile) -> Result<PathBuf> {
    let folder = workspace::target_dir()?.join(profile.folder());
    // Root, after sudo, must not leave its own files among the user's.
    if !privilege::is_prepared() {
        progress::run_quietly(
            &format!("building podlane and podlane-cni ({})", profile.name()),
            workspace::cargo().args(["build", "--package", "podlane", "--bins", "--profile", profile.name()]),
        )?;
    }
    Ok(folder)
}

/// Builds the other version of the agent, which the tests upgrade to and downgrade from, beside the binaries.
pub(crate) fn other_version() -> Result<()> {
    if privilege::is_prepared() {
        return Ok(());
    }
    progress::run_quietly(
        "building podlane-other (dev)",
        workspace::cargo().args(["build", "--package", "podlane", "--bin", "podlane-other"]).args([
            "--features",
            "other-version",
            "--profile",
            Profile::Dev.name(),
        ]),
    )
}

/// Builds the bench of the programs and returns its path.
pub(crate) fn programs_bench() -> Result<PathBuf> {
    let target = workspace::target_dir()?.join(Profile::Release.folder());
    // Under a name that does not change, so that the process under sudo finds it.
    let link = target.join(Binaries::PROGRAMS_BENCH);
    if privilege::is_prepared() {
        return Ok(link);
    }
    progress::run_quietly(
        "building the bench of the programs (release)",
        workspace::cargo().args(["bench", "--package", "podlane-tests", "--bench", "programs", "--no-run"]),
    )?;
    let output = workspace::cargo()
        .args(["bench", "--package", "podlane-tests", "--bench", "programs", "--no-run"])
        .arg("--message-format=json")
        .output()
        .context("asking cargo for the bench of the programs")?;
    let executable = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "programs")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo names no executable for the bench of the programs")?;
    if link.is_symlink() {
        fs_err::remove_file(&link)?;
    }
    fs_err::os::unix::fs::symlink(&executable, &link)?;
    Ok(link)
}
