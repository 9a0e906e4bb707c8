//! DELs that came while no agent was there: the plugin leaves a file each, and the next agent carries them out before
//! it serves anything else.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use super::record::Key;
use crate::cni::identifiers::{container_id, interface_name};

/// The folder in the run directory.
pub const PENDING_DELETES_DIR: &str = "pending-deletes";

#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(rename = "containerID")]
    container_id: String,
    #[serde(rename = "ifName")]
    if_name: String,
}

/// The folder of the files. Whoever can write there can cut pods off: only root can.
#[derive(Clone, Debug)]
pub struct PendingDeletes {
    dir: PathBuf,
}

impl PendingDeletes {
    /// Those of the agent with this run directory.
    pub fn of(run_dir: &Path) -> Self {
        Self { dir: run_dir.join(PENDING_DELETES_DIR) }
    }

    /// Leaves a DEL to the next agent. The run directory must exist: without one there never was an agent, or the
    /// plugin is looking in the wrong place.
    pub fn remember(&self, key: &Key) -> anyhow::Result<()> {
        match std::fs::DirBuilder::new().mode(0o700).create(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.with_context(|| format!("making {}", self.dir.display()))?,
        }
        let entry = Entry { container_id: key.container_id.clone(), if_name: key.if_name.clone() };
        // Two plugins may do this at once for one attachment: each has its own temporary file.
        let temporary = self.dir.join(format!(".{}.tmp", std::process::id()));
        fs_err::write(&temporary, serde_json::to_vec(&entry)?).context("remembering a DEL")?;
        fs_err::rename(temporary, self.path(key)).context("remembering a DEL")
    }

    /// The DEL has been carried out. Fine when it was not remembered.
    pub fn forget(&self, key: &Key) -> anyhow::Result<()> {
        match fs_err::remove_file(self.path(key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// All of them, and what is wrong with the files that could not be read. Those are left alone.
    pub(super) fn load(&self) -> anyhow::Result<(Vec<Key>, Vec<String>)> {
        let (mut keys, mut problems) = (Vec::new(), Vec::new());
        let metadata = match fs_err::symlink_metadata(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((keys, problems)),
            other => other?,
        };
        // Not a link either: its own mode would be meaningless.
        if !metadata.is_dir()
            || metadata.uid() != nix::unistd::geteuid().as_raw()
            || metadata.mode() & 0o022 != 0
        {
            problems.push(format!(
                "{} is not a folder that only root can write to: its DELs are not carried out; remove it",
                self.dir.display()
            ));
            return Ok((keys, problems));
        }
        for entry in fs_err::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
                // A plugin is writing it, or was killed over it and told the runtime nothing.
                continue;
            }
            match self.read(&path) {
                Ok(key) => keys.push(key),
                Err(error) => {
                    problems.push(format!("{} cannot be used and is left alone: {error:#}", path.display()))
                }
            }
        }
        Ok((keys, problems))
    }

    fn read(&self, path: &Path) -> anyhow::Result<Key> {
        let Entry { container_id: id, if_name } = serde_json::from_slice(&fs_err::read(path)?)?;
        container_id(&id)?;
        interface_name(&if_name)?;
        let key = Key { container_id: id, if_name };
        ensure!(self.path(&key) == path, "its name does not fit its containerID and ifName");
        Ok(key)
    }

    fn path(&self, key: &Key) -> PathBuf {
        // Joined by a character that neither part may have, unlike in records: nobody has to type these names.
        self.dir.join(format!("{}:{}.json", key.container_id, key.if_name))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_remembered_is_read_until_it_is_forgotten() {
        let run_dir = tempfile::tempdir().unwrap();
        let pending = PendingDeletes::of(run_dir.path());
        assert_eq!(pending.load().unwrap(), (vec![], vec![]));
        let keys = [Key::new("a-b", "c"), Key::new("a", "b-c")];
        for key in &keys {
            pending.remember(key).unwrap();
            pending.remember(key).unwrap();
        }
        assert_eq!(std::fs::metadata(&pending.dir).unwrap().permissions().mode() & 0o777, 0o700);
        let mut found = pending.load().unwrap().0;
        found.sort();
        assert_eq!(found, [keys[1].clone(), keys[0].clone()]);
        for key in &keys {
            pending.forget(key).unwrap();
            pending.forget(key).unwrap();
        }
        assert_eq!(pending.load().unwrap(), (vec![], vec![]));
    }

    #[test]
    fn files_that_make_no_sense_and_folders_that_others_can_write_to_are_reported() {
        let run_dir = tempfile::tempdir().unwrap();
        let pending = PendingDeletes::of(run_dir.path());
        pending.remember(&Key::new("a", "eth0")).unwrap();
        std::fs::write(pending.dir.join("x.json"), "{").unwrap();
        std::fs::write(pending.dir.join("y.json"), r#"{"containerID":"../y","ifName":"eth0"}"#).unwrap();
        let (keys, problems) = pending.load().unwrap();
        assert_eq!((keys.len(), problems.len()), (1, 2), "{problems:?}");
        std::fs::set_permissions(&pending.dir, std::fs::Permissions::from_mode(0o777)).unwrap();
        let (keys, problems) = pending.load().unwrap();
        assert!(keys.is_empty() && problems[0].contains("only root"), "{problems:?}");
    }

    #[test]
    fn without_a_run_directory_nothing_is_remembered() {
        let pending = PendingDeletes::of(Path::new("/nowhere"));
        assert!(pending.remember(&Key::new("a", "eth0")).is_err());
    }
}
