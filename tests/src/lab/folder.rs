//! A lab's folder: who owns it, which labs are stale, and their removal.

use std::fs::{File, TryLockError};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context as _, ensure};

use crate::Run;

/// Folders of all labs of this machine.
const ROOT: &str = "/run/podlane-lab";
/// The removal of a lab, for `sh`.
pub(super) const REMOVE: &str = include_str!("remove.sh");

/// `/run/podlane-lab/<id>`. Its `lock` file is locked as long as its owner lives.
#[derive(Debug)]
pub(super) struct Folder {
    id: String,
    path: PathBuf,
    lock: Mutex<Option<File>>,
}

impl Folder {
    /// A folder with an id that no other lab has; stale labs are swept on the way.
    pub(super) fn create() -> anyhow::Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "a lab makes network namespaces and loads eBPF: run it as root"
        );
        fs_err::create_dir_all(ROOT)?;
        // A folder whose lock is not taken yet would look stale to another lab that starts now.
        let creation = File::create(Path::new(ROOT).join(".creation"))?;
        creation.lock().context("waiting for another lab's creation")?;
        let stale = stale_labs()?;
        let (id, path) = loop {
            let id = random_hex(3)?;
            let path = Path::new(ROOT).join(&id);
            match std::fs::create_dir(&path) {
                Ok(()) => break (id, path),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("creating {}", path.display())),
            }
        };
        let lock = File::create(path.join("lock"))?;
        lock.lock().with_context(|| format!("locking {}", path.display()))?;
        drop(creation);
        for id in stale {
            run_removal(&id).with_context(|| format!("removing the stale lab {id}"))?;
        }
        Ok(Self { id, path, lock: Mutex::new(Some(lock)) })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Marks the lab as one that outlives its owner.
    pub(super) fn keep(&self) -> anyhow::Result<()> {
        fs_err::write(self.path.join("kept"), "remove with: cargo xtask demo --remove ID\n")?;
        Ok(())
    }

    /// Lets others remove it.
    pub(super) fn unlock(&self) {
        if let Ok(mut lock) = self.lock.lock() {
            lock.take();
        }
    }
}

/// Ids of all labs on this machine, kept and running ones.
pub fn ids() -> anyhow::Result<Vec<String>> {
    if !Path::new(ROOT).exists() {
        return Ok(Vec::new());
    }
    let mut ids = Vec::new();
    for entry in fs_err::read_dir(ROOT)? {
        let entry = entry?;
        if entry.path().is_dir() {
            ids.extend(entry.file_name().into_string());
        }
    }
    ids.sort();
    Ok(ids)
}

/// Removes a lab by its id: one that was kept, or one whose owner is gone.
pub fn remove(id: &str) -> anyhow::Result<()> {
    let path = Path::new(ROOT).join(id);
    ensure!(
        !id.is_empty() && !id.contains('/') && path.is_dir(),
        "there is no lab {id:?}; {}",
        match &ids()?[..] {
            [] => "there is none at all".to_owned(),
            ids => format!("there are {}", ids.join(", ")),
        },
    );
    ensure!(!is_locked(&path), "lab {id} is in use: the process that made it still runs");
    run_removal(id)
}

/// Somebody else may be removing the same lab: what counts is that it is gone.
fn run_removal(id: &str) -> anyhow::Result<()> {
    let path = Path::new(ROOT).join(id);
    let finished = Run::new("sh").args(["-c", REMOVE, "remove-lab", id]).finish()?;
    ensure!(!path.exists(), "{} is still there: {}", path.display(), finished.stderr.trim());
    Ok(())
}

/// Labs whose lock nobody holds, except those marked kept.
fn stale_labs() -> anyhow::Result<Vec<String>> {
    let mut stale = Vec::new();
    for id in ids()? {
        let path = Path::new(ROOT).join(&id);
        // A lab that vanishes right now is none of ours.
        if !is_locked(&path) && !path.join("kept").exists() && path.exists() {
            stale.push(id);
        }
    }
    Ok(stale)
}

/// Whether a lab has an owner, or somebody removes it right now. Without a lock it is not more than a folder.
fn is_locked(path: &Path) -> bool {
    // Shared: two that look at the same time don't take each other for its owner.
    let is_held = |lock: File| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock));
    File::open(path.join("lock")).is_ok_and(is_held)
}

/// `bytes` random bytes in lower-case hex.
pub(super) fn random_hex(bytes: usize) -> anyhow::Result<String> {
    let mut buffer = vec![0; bytes];
    fs_err::File::open("/dev/urandom")?.read_exact(&mut buffer)?;
    Ok(buffer.iter().map(|byte| format!("{byte:02x}")).collect())
}
