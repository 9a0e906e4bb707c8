//! Everything on one CPU: across CPUs, waking the other end costs more than the network, and varies.

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Confines the calling thread to the last CPU that its process may use.
pub(super) fn to_one_cpu() -> Result<()> {
    let this_thread = Pid::from_raw(0);
    let allowed = sched_getaffinity(this_thread)?;
    let last = (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(last.context("this thread may use no CPU")?)?;
    sched_setaffinity(this_thread, &one).context("confining a thread to one CPU")
}
