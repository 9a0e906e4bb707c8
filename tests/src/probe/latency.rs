//! Round trips of a small message over TCP.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::source::connect;
use crate::lab::Pod;

const WARM_UP: usize = 500;
const MESSAGE: [u8; 64] = [0x42; 64];

/// The median time of `rounds` round trips from `client` to `server`.
///
/// Both ends run on one CPU: across CPUs, waking the other end costs more than the network, and varies.
pub fn median_round_trip(client: &Pod, server: &Pod, rounds: usize) -> anyhow::Result<Duration> {
    let ((mut accepted, _), mut outgoing) =
        connect(client.namespace(), server.namespace(), server.address())?;
    std::thread::scope(|scope| {
        let echo = scope.spawn(move || -> anyhow::Result<()> {
            share_one_cpu()?;
            (0..WARM_UP + rounds).try_for_each(|_| {
                let mut buffer = [0; MESSAGE.len()];
                accepted.read_exact(&mut buffer)?;
                accepted.write_all(&buffer)
            })?;
            Ok(())
        });
        let asker = scope.spawn(move || -> anyhow::Result<Vec<Duration>> {
            share_one_cpu()?;
            (0..WARM_UP + rounds).map(|_| round_trip(&mut outgoing)).collect()
        });
        let mut times =
            asker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?.split_off(WARM_UP);
        echo.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).context("the echoing end")?;
        times.sort_unstable();
        times.get(times.len() / 2).copied().context("no round trips were asked for")
    })
}

fn round_trip(stream: &mut TcpStream) -> anyhow::Result<Duration> {
    let start = Instant::now();
    stream.write_all(&MESSAGE)?;
    stream.read_exact(&mut [0; MESSAGE.len()])?;
    Ok(start.elapsed())
}

/// Confines the calling thread to the last CPU that it may use.
fn share_one_cpu() -> anyhow::Result<()> {
    let this_thread = Pid::from_raw(0);
    let allowed = sched_getaffinity(this_thread)?;
    let last = (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(last.context("this thread may use no CPU")?)?;
    sched_setaffinity(this_thread, &one).context("confining a thread to one CPU")
}
