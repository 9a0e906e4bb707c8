//! What a process and the kernel hold on its behalf: to find leaks.

use anyhow::{Context as _, Result};

use crate::lab::Agent;

/// What an agent holds at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// Resident memory, in KiB.
    pub rss: u64,
    /// Open file descriptors.
    pub fds: usize,
    /// Threads.
    pub threads: usize,
    /// Bytes of the BPF maps that it has open, as the kernel accounts them.
    pub maps: u64,
    /// Slab memory that the kernel cannot give back, in KiB: of the whole machine.
    pub slab: u64,
}

/// Looks.
pub fn of(agent: &Agent) -> Result<Resources> {
    let pid = agent.pid().context("the agent does not run")?;
    let status = fs_err::read_to_string(format!("/proc/{pid}/status"))?;
    let number = |text: &str, key: &str| -> Result<u64> {
        let line =
            text.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("no {key}"))?;
        line.split_whitespace()
            .next()
            .and_then(|word| word.parse().ok())
            .with_context(|| format!("{key}{line}"))
    };
    let mut fds = 0;
    let mut maps = 0;
    for entry in fs_err::read_dir(format!("/proc/{pid}/fdinfo"))? {
        fds += 1;
        // It may have been closed meanwhile.
        let Ok(info) = std::fs::read_to_string(entry?.path()) else { continue };
        if info.contains("map_id:") {
            maps += number(&info, "memlock:")?;
        }
    }
    let meminfo = fs_err::read_to_string("/proc/meminfo")?;
    Ok(Resources {
        rss: number(&status, "VmRSS:")?,
        fds,
        threads: usize::try_from(number(&status, "Threads:")?)?,
        maps,
        slab: number(&meminfo, "SUnreclaim:")?,
    })
}
