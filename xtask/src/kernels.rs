//! `cargo xtask kernels`: the packet tests on other kernels than this machine's, each in a virtual machine.

mod console;
mod initramfs;
mod machine;
mod package;
mod programs;
mod report;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use fs_err as fs;

use crate::progress::heading;
use crate::setup::{self, Scope, Version};
use crate::workspace;
use console::Console;
use package::Package;
use report::KernelRun;

/// What `cargo xtask kernels` takes.
#[derive(Args)]
pub(crate) struct KernelsArgs {
    /// Kernels by version, of each the newest that apt offers
    #[arg(value_name = "VERSION", default_values = ["6.1", "6.12"], value_parser = version)]
    versions: Vec<String>,
    /// Longest time that a kernel's machine may take
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
}

/// How programs get to interfaces, as in `dataplane::attach`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AttachMode {
    Tcx,
    Clsact,
}

impl AttachMode {
    /// The one that a kernel is to be used with.
    fn of(version: Version) -> Self {
        // tcx came with Linux 6.6.
        if version >= Version(6, 6, 0) { Self::Tcx } else { Self::Clsact }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// Runs the subcommand.
pub(crate) fn run(args: &KernelsArgs) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!(
            "the kernels are Debian's for x86_64, and this machine is {}: run it on one",
            std::env::consts::ARCH
        );
    }
    setup::ensure(Scope::Kernels)?;
    let cache = workspace::target_dir()?.join("kernels");
    fs::create_dir_all(&cache)?;
    let tests = programs::build()?;
    let mut runs = Vec::new();
    for version in &args.versions {
        heading(&format!("Linux {version}"));
        let package = Package::of_version(version, &cache)?;
        let run = run_in(&package, &tests, &cache, Duration::from_secs(args.timeout))?;
        println!("{}", run.details());
        runs.push(run);
    }
    println!("\n{}", report::table(&runs));
    let failed: Vec<&str> = runs.iter().filter(|run| !run.passed()).map(|run| run.release.as_str()).collect();
    if !failed.is_empty() {
        bail!("not everything passed on {}; the consoles are in {}", failed.join(" and "), cache.display());
    }
    Ok(())
}

/// Boots a kernel with the tests, and reads what became of them.
fn run_in(package: &Package, tests: &[PathBuf], cache: &Path, limit: Duration) -> Result<KernelRun> {
    let version = Version::find_in(&package.release)
        .with_context(|| format!("the kernel's release, {}, has no version", package.release))?;
    let attach = AttachMode::of(version);
    let work = tempfile::Builder::new().prefix("boot-").tempdir_in(cache)?;
    let archive = work.path().join("initramfs.cpio");
    initramfs::write(&archive, package, attach, tests, work.path())?;

    let start = Instant::now();
    // Not written in its final place: the next run's machine may be there before we have read it.
    let console = work.path().join("console.log");
    let label = format!("booting {} and testing", package.release);
    let booted = machine::boot(&label, &package.image(), &archive, &console, limit);
    let text = String::from_utf8_lossy(&fs::read(&console).unwrap_or_default()).into_owned();
    fs::write(cache.join(format!("{}.console.log", package.release)), &text)?;
    Ok(KernelRun::new(package, attach, Console::parse(&text), booted.err(), start.elapsed()))
}

/// `6.1`, or more numbers than two.
fn version(text: &str) -> Result<String, String> {
    let numbers: Vec<&str> = text.split('.').collect();
    if numbers.len() >= 2 && numbers.iter().all(|number| number.parse::<u32>().is_ok()) {
        Ok(text.to_owned())
    } else {
        Err("a version is two numbers or more: 6.1, 6.12, 6.12.117".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_before_6_6_attach_by_clsact() {
        let mode = |release| AttachMode::of(Version::find_in(release).unwrap());
        assert_eq!(mode("6.1.0-56-cloud-amd64"), AttachMode::Clsact);
        assert_eq!(mode("6.6.0"), AttachMode::Tcx);
        assert_eq!(mode("6.12.117+deb12-cloud-amd64"), AttachMode::Tcx);
    }

    #[test]
    fn what_is_no_version_is_refused() {
        assert_eq!(version("6.12.117").as_deref(), Ok("6.12.117"));
        for text in ["6", "6.", "latest", "6.1-cloud"] {
            assert!(version(text).is_err(), "{text}");
        }
    }
}
