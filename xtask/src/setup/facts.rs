//! What the machine has. The plan is made from this alone, so that tests can describe any machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::needs::{
    APISERVER_TOOLS, BPF_TOOLCHAIN, BUILD_TOOLS, COMPONENTS, KERNEL_TOOLS, OLDEST_RUSTC, TOOLS,
};
use crate::command::{find, stdout_of};
use crate::privilege::Privilege;

/// `major.minor.patch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32, pub(crate) u32, pub(crate) u32);

impl Version {
    /// The first thing in the text that looks like a version: `rustc 1.96.0 (…)`, `6.1.0-18-amd64`, `5.10`.
    pub(crate) fn find_in(text: &str) -> Option<Self> {
        text.split_whitespace().find_map(|word| {
            let mut numbers = word.split(|letter: char| !letter.is_ascii_digit());
            let major = numbers.next()?.parse().ok()?;
            let minor = numbers.next()?.parse().ok()?;
            let patch = numbers.next().and_then(|number| number.parse().ok()).unwrap_or(0);
            Some(Self(major, minor, patch))
        })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A Rust toolchain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Toolchain {
    pub(crate) version: Version,
    /// Whether the sources of `core` are with it.
    pub(crate) has_src: bool,
    /// Whether clippy is with it.
    pub(crate) has_clippy: bool,
}

/// Whether a toolchain can build the programs.
pub(crate) fn usable(toolchain: Option<&Toolchain>) -> bool {
    toolchain.is_some_and(|toolchain| toolchain.has_src && toolchain.version >= OLDEST_RUSTC)
}

/// The machine.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// The kernel's release, as `uname -r` says it.
    pub(crate) kernel: Option<String>,
    /// Whether the kernel describes its types (`/sys/kernel/btf/vmlinux`).
    pub(crate) has_btf: bool,
    pub(crate) privilege: Privilege,
    /// apt-get is there.
    pub(crate) has_apt: bool,
    /// `apt-get update` ran in this set-up.
    pub(crate) lists_are_fresh: bool,
    /// The version of rustc-web that apt offers.
    pub(crate) offered_rustc: Option<Version>,
    pub(crate) has_rustup: bool,
    /// PODLANE_BPF_TOOLCHAIN, and what it stands for.
    pub(crate) chosen: Option<(String, Option<Toolchain>)>,
    /// The rustup toolchain called `bpf`.
    pub(crate) bpf: Option<Toolchain>,
    /// rustup's nightly.
    pub(crate) nightly: Option<Toolchain>,
    /// /usr/bin/rustc.
    pub(crate) debian: Option<Toolchain>,
    pub(crate) bpf_linker: Option<Version>,
    /// Commands of [`BUILD_TOOLS`], [`TOOLS`], [`KERNEL_TOOLS`] and [`APISERVER_TOOLS`] that are not there.
    pub(crate) missing_tools: Vec<&'static str>,
    /// Components of [`COMPONENTS`] that the current toolchain lacks.
    pub(crate) missing_components: Vec<&'static str>,
}

impl Facts {
    /// Looks at this machine. Takes a fraction of a second, changes nothing and asks no network.
    pub(crate) fn gather() -> Self {
        let has_rustup = find("rustup").is_some();
        let rustup_toolchain = |name: &str| has_rustup.then(|| in_rustup(name)).flatten();
        let chosen = std::env::var("PODLANE_BPF_TOOLCHAIN").ok();
        let has_apt = find("apt-get").is_some();
        let debian = at("/usr/bin/rustc");
        Self {
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .ok()
                .map(|text| text.trim().to_owned()),
            has_btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
            privilege: Privilege::current(),
            has_apt,
            lists_are_fresh: false,
            // Only asked where it matters: apt-cache is slow to start.
            offered_rustc: if has_apt && !usable(debian.as_ref()) { offered_rustc() } else { None },
            has_rustup,
            chosen: chosen.map(|name| {
                let toolchain = rustup_toolchain(&name);
                (name, toolchain)
            }),
            bpf: rustup_toolchain(BPF_TOOLCHAIN),
            nightly: rustup_toolchain("nightly"),
            debian,
            bpf_linker: find("bpf-linker")
                .and_then(|program| stdout_of(Command::new(program).arg("--version")))
                .and_then(|text| Version::find_in(&text)),
            missing_tools: BUILD_TOOLS
                .iter()
                .chain(&TOOLS)
                .chain(&KERNEL_TOOLS)
                .chain(&APISERVER_TOOLS)
                .map(|tool| tool.command)
                .filter(|command| !is_there(command))
                .collect(),
            missing_components: missing_components(has_rustup),
        }
    }

    /// What is used, for people.
    pub(crate) fn summary(&self) -> String {
        let toolchain = match (&self.chosen, &self.bpf, &self.nightly) {
            (Some((name, Some(toolchain))), _, _) => format!("{name} (rustc {})", toolchain.version),
            (_, Some(bpf), _) if bpf.has_src => format!("{BPF_TOOLCHAIN} (rustc {})", bpf.version),
            (_, _, Some(nightly)) if nightly.has_src => format!("nightly (rustc {})", nightly.version),
            _ => "/usr/bin/rustc".to_owned(),
        };
        let linker = self.bpf_linker.map_or_else(|| "none".to_owned(), |version| version.to_string());
        let kernel = self.kernel.as_deref().unwrap_or("unknown");
        format!("eBPF toolchain {toolchain}, bpf-linker {linker}, kernel {kernel}.")
    }
}

/// The command that lints the programs for the BPF target, where the toolchain that builds them has clippy.
pub(crate) fn bpf_clippy() -> Option<Command> {
    let chosen = std::env::var("PODLANE_BPF_TOOLCHAIN").ok();
    let names =
        chosen.map_or_else(|| vec![BPF_TOOLCHAIN.to_owned(), "nightly".to_owned()], |name| vec![name]);
    let name = names.into_iter().find(|name| in_rustup(name).is_some_and(|found| found.has_src))?;
    if !in_rustup(&name)?.has_clippy {
        return None;
    }
    let mut command = Command::new("rustup");
    command.args(["run", &name, "cargo", "clippy"]);
    Some(command)
}

fn in_rustup(name: &str) -> Option<Toolchain> {
    let rustc = |argument: &[&str]| {
        // `rustup run` never installs: a toolchain that is not there is an error.
        stdout_of(Command::new("rustup").args(["run", name, "rustc"]).args(argument))
    };
    toolchain(&rustc(&["--version"])?, Path::new(&rustc(&["--print", "sysroot"])?))
}

fn at(rustc: &str) -> Option<Toolchain> {
    let rustc = |argument: &[&str]| stdout_of(Command::new(rustc).args(argument));
    toolchain(&rustc(&["--version"])?, Path::new(&rustc(&["--print", "sysroot"])?))
}

fn toolchain(version: &str, sysroot: &Path) -> Option<Toolchain> {
    Some(Toolchain {
        version: Version::find_in(version)?,
        has_src: sysroot.join("lib/rustlib/src/rust/library/core").is_dir(),
        has_clippy: sysroot.join("bin/cargo-clippy").exists(),
    })
}

/// A command, or any file with its whole path.
fn is_there(command: &str) -> bool {
    find(command).is_some() || (command.starts_with('/') && Path::new(command).is_file())
}

fn offered_rustc() -> Option<Version> {
    let policy = stdout_of(Command::new("apt-cache").args(["policy", "rustc-web"]).env("LC_ALL", "C"))?;
    let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?;
    Version::find_in(candidate)
}

fn missing_components(has_rustup: bool) -> Vec<&'static str> {
    // Not rustup's proxies: they are there for every component, installed or not.
    let bin: Option<PathBuf> = has_rustup
        .then(|| stdout_of(Command::new("rustc").args(["--print", "sysroot"])))
        .flatten()
        .map(|sysroot| Path::new(&sysroot).join("bin"));
    let is_there = |program: &str| match &bin {
        Some(bin) => bin.join(program).exists(),
        None => find(program).is_some(),
    };
    COMPONENTS.iter().filter(|(program, _)| !is_there(program)).map(|(_, component)| *component).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_print() {
        for (text, version) in [
            ("rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)", Version(1, 96, 0)),
            ("rustc 1.97.0-nightly (e50aa6fba 2026-05-19)", Version(1, 97, 0)),
            ("bpf-linker 0.10.3", Version(0, 10, 3)),
            ("6.1.0-18-amd64", Version(6, 1, 0)),
            ("5.10", Version(5, 10, 0)),
            (" 1.85.0+dfsg3-1~deb12u3", Version(1, 85, 0)),
        ] {
            assert_eq!(Version::find_in(text), Some(version), "{text}");
        }
        assert_eq!(Version::find_in(" (none)"), None);
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(Version(5, 4, 0) < Version(5, 10, 0));
        assert!(Version(0, 10, 3) < Version(0, 13, 0));
    }
}
