//! Removing everything that is pinned.

use std::path::Path;

use anyhow::Context as _;
use dataplane_common::Hook;

use super::{attach, bpffs, layout_dir};

/// Detaches every program and removes every map under `bpf_dir`; the BPF file system itself stays mounted. Returns
/// what was removed, in words. `interfaces` are asked for clsact filters too, which leave no pins.
///
/// # Errors
/// Where a pin cannot be removed.
pub fn remove(bpf_dir: &Path, interfaces: &[String]) -> anyhow::Result<Vec<String>> {
    let mut removed = Vec::new();
    for interface in interfaces {
        for hook in Hook::ALL.iter().filter(|hook| **hook != Hook::XdpFromWire) {
            attach::detach_clsact(*hook, interface)?;
        }
    }
    let dir = layout_dir(bpf_dir);
    if !dir.exists() || !bpffs::is_bpffs(&dir)? {
        return Ok(removed);
    }
    let links = dir.join("links");
    for folder in [&links, &dir] {
        if !folder.exists() {
            continue;
        }
        for entry in fs_err::read_dir(folder).context("listing pins")? {
            let path = entry?.path();
            if !path.is_dir() {
                fs_err::remove_file(&path).context("removing a pin")?;
                removed.push(path.display().to_string());
            }
        }
        fs_err::remove_dir(folder).context("removing a folder of pins")?;
    }
    // Other layouts' pins may be beside it.
    if fs_err::read_dir(bpf_dir)?.next().is_none() {
        // The mount point of a file system of its own stays.
        fs_err::remove_dir(bpf_dir).ok();
    }
    Ok(removed)
}
