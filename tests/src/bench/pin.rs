//! Everything on one CPU: across CPUs, waking the other end costs more than the network, and varies.

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Confines the calling thread to [`one_cpu`].
pub(super) fn to_one_cpu() -> Result<()> {
    sched_setaffinity(Pid::from_raw(0), &one_cpu()?).context("confining a thread to one CPU")
}

/// The last CPU that the calling thread may use, as a set.
pub(super) fn one_cpu() -> Result<CpuSet> {
    let mut one = CpuSet::new();
    one.set(last_cpu()?)?;
    Ok(one)
}

/// The number of that CPU.
pub(super) fn last_cpu() -> Result<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let last = (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    last.context("this thread may use no CPU")
}
