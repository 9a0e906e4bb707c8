//! Removing everything that is pinned.

use std::path::Path;

use anyhow::Context as _;
use dataplane_common::Hook;

use super::{attach, bpffs, pins};
use crate::failpoint::step;

/// Detaches every program and removes every map under `bpf_dir`, of whichever layout; the BPF file system itself stays
/// mounted. Returns what was removed, in words. `interfaces` are asked for clsact filters too, which leave no pins.
///
/// # Errors
/// Where a pin cannot be removed.
pub fn remove(bpf_dir: &Path, interfaces: &[String]) -> anyhow::Result<Vec<String>> {
    let mut removed = Vec::new();
    for interface in interfaces {
        for hook in Hook::ALL.iter().filter(|hook| !matches!(hook, Hook::XdpFromWire | Hook::PostRouting)) {
            attach::detach_clsact(*hook, interface)?;
        }
    }
    if !bpf_dir.exists() || !bpffs::is_bpffs(bpf_dir)? {
        return Ok(removed);
    }
    for dir in pins::layouts(bpf_dir)? {
        removed.extend(layout(&dir)?);
    }
    // Others may have something there.
    if fs_err::read_dir(bpf_dir)?.next().is_none() {
        // The mount point of a file system of its own stays.
        fs_err::remove_dir(bpf_dir).ok();
    }
    Ok(removed)
}

/// Removes a layout's folder: the links, and so the programs, before the maps. Returns what was removed.
pub(super) fn layout(dir: &Path) -> anyhow::Result<Vec<String>> {
    let mut removed = Vec::new();
    let links = dir.join(pins::LINKS);
    for folder in [links.as_path(), dir] {
        if !folder.exists() {
            continue;
        }
        for path in pins::entries(folder)? {
            if !path.is_dir() {
                pins::remove_pin(&path)?;
                step("pin removed");
                removed.push(path.display().to_string());
            }
        }
        fs_err::remove_dir(folder).context("removing a folder of pins")?;
        step("folder of pins removed");
    }
    Ok(removed)
}
