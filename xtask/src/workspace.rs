//! Where the workspace is, and its cargo.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

/// The workspace's folder.
pub(crate) fn root() -> PathBuf {
    let xtask = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().map(PathBuf::from).unwrap_or(xtask)
}

/// The cargo that runs this task, started in the workspace's folder.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Cargo's target folder.
pub(crate) fn target_dir() -> Result<PathBuf> {
    // Cargo's own answer: the environment, its configuration or the default may say where it is.
    let output = cargo()
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .output()
        .context("starting cargo metadata")?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).with_context(|| {
        format!("reading what cargo metadata says: {}", String::from_utf8_lossy(&output.stderr))
    })?;
    let folder = metadata["target_directory"].as_str().context("cargo metadata names no target_directory")?;
    Ok(PathBuf::from(folder))
}
