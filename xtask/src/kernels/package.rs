//! Kernels from Debian's packages: which one, fetched and unpacked once.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use fs_err as fs;

use crate::command::stdout_of;
use crate::progress::run_quietly;

/// Debian's name of a kernel's package is its release between these. The cloud flavour is a third of the size.
const PREFIX: &str = "linux-image-";
const SUFFIX: &str = "-cloud-amd64";

/// A kernel package, unpacked.
#[derive(Debug)]
pub(super) struct Package {
    /// As `uname -r` says it there.
    pub(super) release: String,
    /// What the package would have put below `/`.
    pub(super) folder: PathBuf,
}

impl Package {
    /// The newest kernel of a version (`6.1`), from the cache or from apt.
    pub(super) fn of_version(version: &str, cache: &Path) -> Result<Self> {
        let offered = offered();
        let names: Vec<&str> = offered.iter().map(String::as_str).collect();
        let cached = cached(cache)?;
        let Some(name) = newest(names.iter().copied().chain(cached.iter().map(String::as_str)), version)
        else {
            bail!(
                "there is no kernel {version} among apt's packages ({PREFIX}{version}.*{SUFFIX}); they offer {}: \
                 `apt-get update` renews the list, further archives go to /etc/apt/sources.list.d",
                versions(&names)
            );
        };
        let folder = cache.join(name);
        if !folder.exists() {
            fetch(name, cache, &folder)?;
        }
        let release = name.strip_prefix(PREFIX).unwrap_or(name).to_owned();
        Ok(Self { release, folder })
    }

    /// The kernel itself.
    pub(super) fn image(&self) -> PathBuf {
        self.folder.join("boot").join(format!("vmlinuz-{}", self.release))
    }
}

/// The kernel packages that apt knows. None without apt: what is in the cache still does.
fn offered() -> Vec<String> {
    let mut search = Command::new("apt-cache");
    search.args(["search", "--names-only", &format!("^{PREFIX}[0-9].*{SUFFIX}$")]).env("LC_ALL", "C");
    let text = stdout_of(&mut search).unwrap_or_default();
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

fn cached(cache: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(cache)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// Downloads and unpacks a package; the folder is there when it is complete, or not at all.
fn fetch(name: &str, cache: &Path, folder: &Path) -> Result<()> {
    let work = tempfile::Builder::new().prefix("fetch-").tempdir_in(cache)?;
    run_quietly(
        &format!("apt-get download {name}"),
        Command::new("apt-get").args(["download", name]).current_dir(work.path()).env("LC_ALL", "C"),
    )
    .with_context(|| format!("apt cannot download {name}: are its lists fresh (`apt-get update`)?"))?;
    let mut files = fs::read_dir(work.path())?;
    let archive = files.next().with_context(|| format!("apt-get download {name} left no file"))??.path();
    let unpacked = work.path().join("unpacked");
    run_quietly(
        &format!("dpkg-deb -x {name}"),
        Command::new("dpkg-deb").arg("-x").args([&archive, &unpacked]),
    )?;
    match fs::rename(&unpacked, folder) {
        // Another run may have been first.
        Err(_) if folder.exists() => Ok(()),
        result => Ok(result?),
    }
}

/// The newest package of a version, which may be two numbers or more: 6.1 does not mean 6.12.
fn newest<'a>(names: impl Iterator<Item = &'a str>, version: &str) -> Option<&'a str> {
    let wanted = numbers(version);
    names
        .filter_map(|name| Some((numbers(release(name)?), name)))
        .filter(|(numbers, _)| numbers.starts_with(&wanted))
        .max()
        .map(|(_, name)| name)
}

/// What a package's name says of its kernel; nothing for meta-packages (`linux-image-6.12-cloud-amd64`) and others.
fn release(name: &str) -> Option<&str> {
    let release = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    (numbers(release).len() > 2).then_some(release)
}

/// The numbers in it: names sort as text, so that 9 comes after 56.
fn numbers(text: &str) -> Vec<u64> {
    text.split(|letter: char| !letter.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}

/// The versions among these packages, for people.
fn versions(names: &[&str]) -> String {
    let mut versions: Vec<_> =
        names.iter().filter_map(|name| Some(numbers(release(name)?).into_iter().take(2).collect())).collect();
    versions.sort_unstable();
    versions.dedup();
    if versions.is_empty() {
        return "none at all".to_owned();
    }
    let text = |version: &Vec<u64>| version.iter().map(u64::to_string).collect::<Vec<_>>().join(".");
    versions.iter().map(text).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 8] = [
        "linux-image-6.1.0-9-cloud-amd64",
        "linux-image-6.1.0-56-cloud-amd64",
        "linux-image-6.1.0-57-amd64",
        "linux-image-6.1.0-58-cloud-amd64-dbg",
        "linux-image-6.12-cloud-amd64",
        "linux-image-6.12.90+deb12-cloud-amd64",
        "linux-image-6.12.117+deb12-cloud-amd64",
        "linux-image-cloud-amd64",
    ];

    #[test]
    fn the_newest_package_is_the_one_with_the_highest_numbers() {
        let newest = |version| newest(NAMES.into_iter(), version);
        assert_eq!(newest("6.1"), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(newest("6.12"), Some("linux-image-6.12.117+deb12-cloud-amd64"));
        assert_eq!(newest("6.12.90"), Some("linux-image-6.12.90+deb12-cloud-amd64"));
        assert_eq!(newest("6.6"), None);
    }

    #[test]
    fn what_apt_offers_is_told_by_version() {
        assert_eq!(versions(&NAMES), "6.1, 6.12");
        assert_eq!(versions(&[]), "none at all");
    }
}
