//! The BPF file system that pins live on.

use std::path::Path;

use anyhow::Context as _;
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

/// Where the kernel's documentation and every other tool have it.
const STANDARD: &str = "/sys/fs/bpf";

/// Makes sure that `dir` exists and lies on a bpffs: mounts one at [`STANDARD`] where `dir` is below it, else at `dir`.
pub(super) fn ensure(dir: &Path) -> anyhow::Result<()> {
    if !is_bpffs(nearest_existing(dir))? {
        let place = if dir.starts_with(STANDARD) { Path::new(STANDARD) } else { dir };
        fs_err::create_dir_all(place).context("preparing the mount point of the BPF file system")?;
        mount(Some("bpf"), place, Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mounting a BPF file system on {}", place.display()))?;
        tracing::info!(path = %place.display(), "mounted a BPF file system");
    }
    fs_err::create_dir_all(dir).context("creating bpfDir")?;
    Ok(())
}

/// Whether `path` lies on a bpffs.
pub(super) fn is_bpffs(path: &Path) -> anyhow::Result<bool> {
    let stat = statfs(path).with_context(|| format!("looking at the file system of {}", path.display()))?;
    Ok(stat.filesystem_type() == BPF_FS_MAGIC)
}

fn nearest_existing(path: &Path) -> &Path {
    path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"))
}
