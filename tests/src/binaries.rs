//! Where the programs under test are.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

/// Paths of Podlane's two binaries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// The daemon and the operator's CLI.
    pub podlane: PathBuf,
    /// The CNI plugin.
    pub podlane_cni: PathBuf,
}

impl Binaries {
    /// Names the environment variable that points at the folder with both binaries.
    pub const DIR_VARIABLE: &str = "PODLANE_BIN_DIR";

    /// The binaries in `dir`; an error names the one that is missing.
    pub fn in_dir(dir: &Path) -> anyhow::Result<Self> {
        // Nodes' commands run in other working directories.
        let dir = fs_err::canonicalize(dir)?;
        let binaries = Self { podlane: dir.join("podlane"), podlane_cni: dir.join("podlane-cni") };
        for path in [&binaries.podlane, &binaries.podlane_cni] {
            ensure!(
                path.is_file(),
                "{} is missing: build it with `cargo build -p podlane`, or name another folder in {}",
                path.display(),
                Self::DIR_VARIABLE,
            );
        }
        Ok(binaries)
    }

    /// The file name of the bench of the programs.
    pub const PROGRAMS_BENCH: &str = "podlane-bench-programs";

    /// The agent in another version, with another map layout and newer records, for upgrades and downgrades.
    pub fn other_podlane(&self) -> anyhow::Result<PathBuf> {
        self.beside(
            "podlane-other",
            "build it with `cargo build -p podlane --features other-version --bin podlane-other`, as `cargo xtask test` \
             does",
        )
    }

    /// The bench of the programs, which is a contender's part as well.
    pub fn programs_bench(&self) -> anyhow::Result<PathBuf> {
        self.beside(Self::PROGRAMS_BENCH, "`cargo xtask bench` builds it")
    }

    fn beside(&self, name: &str, way_out: &str) -> anyhow::Result<PathBuf> {
        let path = self.podlane.with_file_name(name);
        ensure!(path.is_file(), "{} is missing: {way_out}", path.display());
        Ok(path)
    }

    /// The binaries in `PODLANE_BIN_DIR`, else those beside the running test executable's folder (`target/debug`).
    pub fn find() -> anyhow::Result<Self> {
        if let Some(dir) = std::env::var_os(Self::DIR_VARIABLE) {
            return Self::in_dir(Path::new(&dir))
                .with_context(|| format!("looking in {}", Self::DIR_VARIABLE));
        }
        let executable = std::env::current_exe().context("finding the running executable")?;
        let mut dir = executable.parent().context("the running executable has no folder")?;
        if dir.ends_with("deps") {
            dir = dir.parent().unwrap_or(dir);
        }
        Self::in_dir(dir)
    }
}
