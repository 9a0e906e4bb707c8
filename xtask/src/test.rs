//! `cargo xtask test`: format, lints, unit tests, then packets and pods on this machine's kernel.

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal as _;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::build::{self, Profile};
use crate::command::display;
use crate::progress::{heading, run_quietly, seconds};
use crate::setup::{self, Scope};
use crate::{privilege, workspace};

/// The package with the lab, the packet tests and the end-to-end tests.
const LAB_PACKAGE: &str = "podlane-tests";

/// What `cargo xtask test` takes.
#[derive(Args)]
pub(crate) struct TestArgs {
    /// Only format, lints and unit tests: no root, any kernel
    #[arg(long, conflicts_with = "e2e")]
    unit: bool,
    /// Only packet and end-to-end tests
    #[arg(long)]
    e2e: bool,
    /// For the test programs, as after `cargo test --`: a name's part, --nocapture, … Skips format and lints
    #[arg(last = true)]
    rest: Vec<OsString>,
}

/// Runs the subcommand.
pub(crate) fn run(args: &TestArgs) -> Result<()> {
    let start = Instant::now();
    setup::ensure(if args.unit { Scope::Build } else { Scope::Lab })?;
    let mut done = Vec::new();
    for section in sections(args) {
        let begun = Instant::now();
        heading(section.title());
        if let Err(error) = section.run(&args.rest) {
            eprintln!("\nFAILED in \"{}\" after {}", section.title(), seconds(start.elapsed()));
            return Err(error);
        }
        done.push(format!("{} {}", section.title(), seconds(begun.elapsed())));
    }
    println!("\nOK: everything passed in {} ({})", seconds(start.elapsed()), done.join(", "));
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    Format,
    Lints,
    BpfLints,
    Unit,
    Binaries,
    Lab,
}

fn sections(args: &TestArgs) -> Vec<Section> {
    let mut sections = Vec::new();
    if !args.e2e {
        if args.rest.is_empty() {
            sections.extend([Section::Format, Section::Lints, Section::BpfLints]);
        }
        sections.push(Section::Unit);
    }
    if !args.unit {
        sections.extend([Section::Binaries, Section::Lab]);
    }
    sections
}

impl Section {
    fn title(self) -> &'static str {
        match self {
            Self::Format => "Format",
            Self::Lints => "Lints",
            Self::BpfLints => "Lints of the programs for the eBPF target",
            Self::Unit => "Unit tests",
            Self::Binaries => "Binaries",
            Self::Lab => "Packet and end-to-end tests",
        }
    }

    fn run(self, rest: &[OsString]) -> Result<()> {
        match self {
            Self::Format => show(workspace::cargo().args(["fmt", "--all", "--check"]))
                .context("the code is not formatted: `cargo fmt --all` does it"),
            Self::Lints => {
                let mut command = workspace::cargo();
                command.args(["clippy", color(), "--workspace", "--all-targets", "--", "-Dwarnings"]);
                run_quietly("clippy", &mut command)
            }
            Self::BpfLints => bpf_lints(),
            Self::Unit => {
                let packages = ["--workspace", "--exclude", LAB_PACKAGE];
                compile_tests(&packages)?;
                show(workspace::cargo().args(["test", "--quiet"]).args(packages).arg("--").args(rest))
            }
            Self::Binaries => {
                let folder = build::binaries(Profile::Dev)?;
                build::other_version()?;
                println!("podlane, podlane-cni and podlane-other are in {}", folder.display());
                Ok(())
            }
            Self::Lab => lab(&[], &[], rest),
        }
    }
}

/// The programs contain code that is only compiled for the eBPF target.
fn bpf_lints() -> Result<()> {
    let Some(mut command) = setup::bpf_clippy() else {
        println!("skipped: the toolchain that builds the programs has no clippy");
        return Ok(());
    };
    let arch = format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH);
    command
        .current_dir(workspace::root())
        .args([color(), "--package=dataplane-ebpf", "--bins", "--release", "-Zbuild-std=core"])
        .args(["--target=bpfel-unknown-none", "--target-dir"])
        // Beside what the build leaves: another compiler's files in one folder would rebuild each other.
        .arg(workspace::target_dir()?.join("bpf-clippy"))
        .args(["--", "-Dwarnings"])
        .env("CARGO_ENCODED_RUSTFLAGS", arch)
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("RUSTC")
        .env_remove("CARGO");
    run_quietly("clippy", &mut command)
}

/// Compiles the tests of these packages out of sight.
fn compile_tests(packages: &[&str]) -> Result<()> {
    run_quietly("compiling the tests", workspace::cargo().args(["test", "--no-run", color()]).args(packages))
}

/// Cargo's output is captured and only shown if it fails: as it would look on the terminal then.
fn color() -> &'static str {
    if std::io::stderr().is_terminal() { "--color=always" } else { "--color=never" }
}

/// Runs the tests of the lab: all, or those of one program (`--test NAME`), with more in their environment.
pub(crate) fn lab(program: &[&str], environment: &[(&OsStr, &OsStr)], rest: &[OsString]) -> Result<()> {
    let selection: Vec<&str> = ["--package", LAB_PACKAGE].iter().chain(program).copied().collect();
    compile_tests(&selection)?;
    let mut command = workspace::cargo();
    command.arg("test").args(selection).envs(environment.iter().copied());
    // Cargo stays the user; only the test programs run as root.
    let runner = privilege::test_runner()?;
    if !runner.is_empty() {
        let variables = environment
            .iter()
            .map(|(name, value)| format!("{}={}", name.to_string_lossy(), value.to_string_lossy()).into());
        let words: Vec<_> = runner.iter().map(|word| word.to_string_lossy()).chain(variables).collect();
        command.arg("--config").arg(format!("target.'cfg(all())'.runner={}", serde_json::to_string(&words)?));
    }
    show(command.arg("--").args(rest))
}

/// Runs a command that shows its own output.
fn show(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting `{}`", display(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", display(command));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(unit: bool, e2e: bool, rest: &[&str]) -> TestArgs {
        TestArgs { unit, e2e, rest: rest.iter().map(Into::into).collect() }
    }

    #[test]
    fn everything_runs_by_default() {
        use Section::{Binaries, BpfLints, Format, Lab, Lints, Unit};
        assert_eq!(sections(&args(false, false, &[])), [Format, Lints, BpfLints, Unit, Binaries, Lab]);
    }

    #[test]
    fn parts_can_be_chosen() {
        use Section::{Binaries, BpfLints, Format, Lab, Lints, Unit};
        assert_eq!(sections(&args(true, false, &[])), [Format, Lints, BpfLints, Unit]);
        assert_eq!(sections(&args(false, true, &[])), [Binaries, Lab]);
    }

    #[test]
    fn a_filter_skips_format_and_lints() {
        use Section::{Binaries, Lab, Unit};
        assert_eq!(sections(&args(false, false, &["ipam"])), [Unit, Binaries, Lab]);
    }
}
