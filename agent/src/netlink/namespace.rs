//! Work inside another network namespace, on a thread of its own: the caller's thread never moves.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use fs_err::os::unix::fs::OpenOptionsExt as _;
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{FsType, fstatfs};

/// `NSFS_MAGIC`: the file system that namespace files live on.
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);
/// `NS_GET_NSTYPE` of `linux/nsfs.h`: which kind of namespace a file stands for.
const NS_GET_NSTYPE: libc::Ioctl = nix::request_code_none!(0xb7, 0x3) as libc::Ioctl;

/// Runs `work` on a short-lived thread inside `namespace`. Where the caller has a tokio runtime, `work` can
/// register sockets with it.
pub fn run_in<T: Send>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Handle::try_current().ok();
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, || {
            let _entered = runtime.as_ref().map(tokio::runtime::Handle::enter);
            setns(namespace, CloneFlags::CLONE_NEWNET).context("entering a network namespace")?;
            Ok(work())
        });
        thread
            .context("starting a thread for a network namespace")?
            .join()
            .map_err(|_| anyhow!("the thread in a network namespace panicked"))?
    })
}

/// Runs `work` on the calling thread inside `namespace`; then the thread is back `home`. Cheaper than [`run_in`], for
/// threads whose work does not end in between.
pub fn visit<T>(
    namespace: BorrowedFd<'_>,
    home: BorrowedFd<'_>,
    work: impl FnOnce() -> T,
) -> anyhow::Result<T> {
    setns(namespace, CloneFlags::CLONE_NEWNET).context("entering a network namespace")?;
    let _way_back = WayBack(home);
    Ok(work())
}

/// Brings a thread home, also when it panics.
struct WayBack<'a>(BorrowedFd<'a>);

impl Drop for WayBack<'_> {
    fn drop(&mut self) {
        if let Err(error) = setns(self.0, CloneFlags::CLONE_NEWNET) {
            // What it did next for another pod would be done to this one.
            tracing::error!(%error, "a thread cannot leave a pod's network namespace");
            std::process::abort();
        }
    }
}

/// Opens a network namespace's file, and makes sure that it is one.
pub fn open(path: &Path) -> anyhow::Result<File> {
    let shown = path.display();
    // Whatever the path leads to, a FIFO say, opening it must not wait.
    let file = fs_err::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?.into_file();
    let file_system = fstatfs(&file).with_context(|| format!("asking for the file system of {shown}"))?;
    if file_system.filesystem_type() != NSFS_MAGIC {
        bail!("{shown} is not a namespace: it is not on the nsfs file system");
    }
    // SAFETY: NS_GET_NSTYPE takes no argument and touches no memory of ours; the descriptor is open.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
    if kind != libc::CLONE_NEWNET {
        bail!("{shown} is a namespace, but not a network namespace");
    }
    Ok(file)
}

/// Whether `namespace` is the one the calling thread runs in.
pub fn is_current(namespace: &File) -> anyhow::Result<bool> {
    let own = fs_err::File::open("/proc/thread-self/ns/net")?;
    Ok(identity(own.file().as_fd())? == identity(namespace.as_fd())?)
}

/// Device and inode: what makes two descriptors the same namespace.
pub fn identity(namespace: BorrowedFd<'_>) -> anyhow::Result<(u64, u64)> {
    let stat = nix::sys::stat::fstat(namespace).context("looking at a network namespace")?;
    Ok((stat.st_dev, stat.st_ino))
}
