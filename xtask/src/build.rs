//! Builds the agent and the CNI plugin.

use std::path::PathBuf;

use anyhow::Result;

use crate::{privilege, progress, workspace};

/// Cargo's profiles that we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quick to build; the tests run it.
    Dev,
    /// What a node runs; demo and benches run it.
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
