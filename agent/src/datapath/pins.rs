//! Where links are pinned: one folder of our own map layout, and those of other layouts while their links are taken
//! over.

use std::{
    collections::BTreeSet,
    io, iter,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use dataplane_common::{Hook, LAYOUT};

/// The folder of links in a layout's folder.
pub(super) const LINKS: &str = "links";

/// The folders of pinned links.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    /// Of our own layout.
    pub(super) own: PathBuf,
    /// Of other layouts.
    pub(super) former: Vec<PathBuf>,
}

impl Pins {
    /// Where a link is or may be pinned, our own place first.
    pub(super) fn places(&self, name: &str) -> impl Iterator<Item = PathBuf> + use<> {
        let places: Vec<_> = iter::once(&self.own).chain(&self.former).map(|dir| dir.join(name)).collect();
        places.into_iter()
    }

    /// Our own place for a link.
    pub(super) fn place(&self, name: &str) -> PathBuf {
        self.own.join(name)
    }

    /// Removes a link's pins, and so detaches its program.
    pub(super) fn remove(&self, name: &str) -> anyhow::Result<()> {
        self.places(name).try_for_each(|place| remove_pin(&place))
    }

    /// The interfaces whose links for `hook` are pinned.
    pub(super) fn interfaces(&self, hook: Hook) -> anyhow::Result<BTreeSet<String>> {
        let prefix = format!("{}-", hook.name());
        let mut interfaces = BTreeSet::new();
        for dir in iter::once(&self.own).chain(&self.former) {
            for entry in entries(dir)? {
                let name = entry.file_name().and_then(|name| name.to_str());
                if let Some(interface) = name.and_then(|name| name.strip_prefix(&prefix)) {
                    interfaces.insert(interface.replace(':', "."));
                }
            }
        }
        Ok(interfaces)
    }
}

/// A link's name. bpffs refuses names with dots, which interfaces may have (`eth0.100`); colons they may not.
pub(super) fn name(hook: Hook, interface: &str) -> String {
    format!("{}-{}", hook.name(), interface.replace('.', ":"))
}

/// Removes a pin; fine when it is gone already.
pub(super) fn remove_pin(pin: &Path) -> anyhow::Result<()> {
    match fs_err::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context("removing a pin"),
        _ => Ok(()),
    }
}

/// The folders of every layout, our own and others'. `bpfDir` may be a folder that others use too: a layout's name is
/// `v` and a number.
pub(super) fn layouts(bpf_dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let is_layout = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix('v').unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) && path.is_dir()
    };
    let mut layouts: Vec<PathBuf> = entries(bpf_dir)?.into_iter().filter(is_layout).collect();
    layouts.sort();
    Ok(layouts)
}

/// The folders of other layouts than our own.
pub(super) fn other_layouts(bpf_dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut layouts = layouts(bpf_dir)?;
    layouts.retain(|dir| !dir.ends_with(LAYOUT));
    Ok(layouts)
}

/// What is in a folder; nothing where there is none.
pub(super) fn entries(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match fs_err::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.context("listing pins")?,
    };
    entries.map(|entry| Ok(entry?.path())).collect()
}
