//! What runs in the booted kernels: the test programs, and the libraries that programs need.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::progress::run_quietly;
use crate::workspace;

/// A test target of podlane-tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Suite {
    pub(super) name: &'static str,
    /// Only tests with this in their name; all if empty.
    pub(super) filter: &'static str,
}

/// What is run in each kernel. The memory of maps is left out: kernels before 6.4 only estimate it.
pub(super) const SUITES: [Suite; 2] =
    [Suite { name: "packets", filter: "" }, Suite { name: "budget", filter: "programs_" }];

/// Builds the suites and returns their programs, in their order.
pub(super) fn build() -> Result<Vec<PathBuf>> {
    let command = || {
        let mut command = workspace::cargo();
        command.args(["test", "--package", "podlane-tests", "--no-run"]);
        for suite in SUITES {
            command.args(["--test", suite.name]);
        }
        command
    };
    run_quietly("compiling the packet tests", &mut command())?;
    let output = command().arg("--message-format=json").output().context("starting cargo test")?;
    let messages = String::from_utf8_lossy(&output.stdout);
    SUITES
        .iter()
        .map(|suite| {
            let program = messages.lines().find_map(|line| executable(line, suite.name));
            program.with_context(|| format!("cargo test --no-run names no program for {}", suite.name))
        })
        .collect()
}

/// The test program of that name, if this is cargo's message about it.
fn executable(message: &str, name: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let is_it = message["target"]["name"] == name && message["target"]["kind"][0] == "test";
    is_it.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
}

/// The shared libraries of these programs, the loader among them.
pub(super) fn libraries(programs: &[&Path]) -> Result<BTreeSet<PathBuf>> {
    let mut libraries = BTreeSet::new();
    for program in programs {
        // It fails for static programs, which need nothing.
        let output = Command::new("ldd").arg(program).env("LC_ALL", "C").output().context("starting ldd")?;
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            if line.contains("not found") {
                bail!("{} lacks a library: {}", program.display(), line.trim());
            }
            libraries.extend(library(line));
        }
    }
    Ok(libraries)
}

/// The path in one of ldd's lines: `libc.so.6 => /lib/…/libc.so.6 (0x…)`, or the loader's path alone.
fn library(line: &str) -> Option<PathBuf> {
    line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_in_what_ldd_prints() {
        let found: Vec<_> = [
            "\tlinux-vdso.so.1 (0x00007ffd)",
            "\tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f)",
            "\t/lib64/ld-linux-x86-64.so.2 (0x00007f)",
        ]
        .into_iter()
        .filter_map(library)
        .collect();
        let expected = ["/lib/x86_64-linux-gnu/libgcc_s.so.1", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(found, expected.map(PathBuf::from));
    }

    #[test]
    fn a_test_program_is_told_from_other_artifacts() {
        let message = |kind: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["{kind}"],"name":"packets"}},"executable":"/t/packets-1"}}"#
            )
        };
        assert_eq!(executable(&message("test"), "packets"), Some("/t/packets-1".into()));
        assert_eq!(executable(&message("test"), "budget"), None);
        assert_eq!(executable(&message("lib"), "packets"), None);
        assert_eq!(executable("Compiling", "packets"), None);
    }
}
