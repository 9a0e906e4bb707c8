//! `<runDir>/node.json`: what this node has been given, so that a later agent or `podlane cleanup` can take it back.

use std::{collections::BTreeSet, io::Write as _, net::IpAddr, path::Path};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// The file's contents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeFile {
    /// Format of this file.
    pub version: u32,
    /// Addresses that the agent has put on `lo`.
    pub gateways: BTreeSet<IpAddr>,
    /// Interfaces that the agent has attached `from_wire` to.
    pub uplinks: BTreeSet<String>,
}

const NAME: &str = "node.json";

impl NodeFile {
    /// Reads the file; one that is not there is empty.
    ///
    /// # Errors
    /// Where it is there and cannot be understood.
    pub fn read(run_dir: &Path) -> anyhow::Result<Self> {
        let path = run_dir.join(NAME);
        match fs_err::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// Where the folder cannot be written to.
    pub fn write(&self, run_dir: &Path) -> anyhow::Result<()> {
        let temporary = run_dir.join(format!(".{NAME}.new"));
        let mut file = fs_err::File::create(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        fs_err::rename(&temporary, run_dir.join(NAME))?;
        Ok(())
    }

    /// Removes the file, if it is there.
    ///
    /// # Errors
    /// Where it cannot be removed.
    pub fn remove(run_dir: &Path) -> anyhow::Result<()> {
        match fs_err::remove_file(run_dir.join(NAME)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}
