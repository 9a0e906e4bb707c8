//! The other end as a process of its own, as in another pod: switching to it costs more than to a thread.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};

use super::pin;

/// A running process; dropping it kills it.
pub(super) struct Process(Pid);

impl Process {
    /// Runs `work` in a new process on the CPU that [`pin`] chooses. The process ends with its parent, or with `work`.
    ///
    /// # Safety
    /// As this process has other threads, `work` may only call what a signal handler may: system calls, no allocation.
    pub(super) unsafe fn start(work: impl FnOnce()) -> Result<Self> {
        // Chosen here: it allocates.
        let cpu = pin::one_cpu()?;
        let parent = Pid::this();
        // SAFETY: the child calls system calls and `work` only, see above.
        match unsafe { fork() }.context("starting another process")? {
            ForkResult::Parent { child } => Ok(Self(child)),
            ForkResult::Child => {
                // SAFETY: plain system calls; the child ends here.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    let pinned = nix::sched::sched_setaffinity(Pid::from_raw(0), &cpu).is_ok();
                    if pinned && Pid::parent() == parent {
                        work();
                    }
                    libc::_exit(0)
                }
            }
        }
    }

    /// A process that sends back whatever it receives from a connected socket, message by message.
    pub(super) fn echo(socket: BorrowedFd<'_>) -> Result<Self> {
        let socket = socket.as_raw_fd();
        // SAFETY: system calls on a descriptor that the child inherits, and a buffer of its own.
        unsafe {
            Self::start(|| {
                let mut buffer = [0u8; 2048];
                loop {
                    let length = libc::read(socket, buffer.as_mut_ptr().cast(), buffer.len());
                    let Ok(length @ 1..) = usize::try_from(length) else { return };
                    if libc::write(socket, buffer.as_ptr().cast(), length) < 0 {
                        return;
                    }
                }
            })
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = kill(self.0, Signal::SIGKILL);
        let _ = waitpid(self.0, None);
    }
}
