//! What the figures were measured on.

use std::process::Command;

use crate::command::stdout_of;
use crate::workspace;

/// Processor and memory, in a few words.
pub(super) fn machine() -> String {
    let cpuinfo = fs_err::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?.split_once(':')?.1;
        Some(line.trim().to_owned())
    };
    let model = value(&cpuinfo, "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = fs_err::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = value(&memory, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    let memory = memory.map(|kib| format!(", {} GiB", kib.div_ceil(1 << 20))).unwrap_or_default();
    format!("{model}, {cpus} CPUs{memory}")
}

pub(super) fn kernel() -> String {
    stdout_of(Command::new("uname").args(["-s", "-r", "-m"])).unwrap_or_default()
}

pub(super) fn date() -> String {
    stdout_of(Command::new("date").args(["-u", "+%Y-%m-%d"])).unwrap_or_default()
}

/// The commit that was measured, marked if the tree differs from it.
pub(super) fn commit() -> String {
    let root = workspace::root();
    // The tree may belong to the user who called sudo.
    let git = || {
        let mut git = Command::new("git");
        git.arg("-c").arg(format!("safe.directory={}", root.display())).arg("-C").arg(&root);
        git
    };
    stdout_of(git().args(["describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]))
        .unwrap_or_default()
}
