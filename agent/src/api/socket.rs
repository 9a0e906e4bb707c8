//! The Unix socket: one agent each, and no leftovers in the way.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use nix::fcntl::{Flock, FlockArg};
use tokio::net::UnixListener;

/// A killed agent's socket can outlive it for a moment: a child that it had just forked holds it until it execs.
const OUTLIVES: Duration = Duration::from_secs(1);

/// Root and its group; attaching pods is root's business.
const MODE: u32 = 0o660;

/// A socket that listens. Dropping it removes its file, unless another agent's has taken the place.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    guard: Guard,
}

/// Removes the socket's file.
#[derive(Debug)]
pub(super) struct Guard {
    path: PathBuf,
    inode: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            // It only saves the next client a refused connection.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Socket {
    pub(super) fn into_parts(self) -> (UnixListener, Guard) {
        (self.listener, self.guard)
    }
}

/// Listens on `path`. A socket that nobody serves any more is replaced; one that somebody serves is an error.
pub fn bind(path: &Path) -> anyhow::Result<Socket> {
    let shown = path.display();
    let dir = path.parent().ok_or_else(|| anyhow!("{shown} is not a path for a socket"))?;
    fs_err::create_dir_all(dir)?;
    // Two agents that start at once must not both find the socket stale. The folder serves as the lock: no extra
    // file to leave behind.
    let dir = fs_err::File::open(dir)?.into_file();
    let _lock = Flock::lock(dir, FlockArg::LockExclusive)
        .map_err(|(_, errno)| io::Error::from(errno))
        .with_context(|| format!("locking the folder of {shown}"))?;
    remove_stale(path)?;
    let listener = UnixListener::bind(path).with_context(|| format!("listening on {shown}"))?;
    fs_err::set_permissions(path, <std::fs::Permissions as PermissionsExt>::from_mode(MODE))?;
    let inode = fs_err::symlink_metadata(path)?.ino();
    Ok(Socket { listener, guard: Guard { path: path.to_owned(), inode } })
}

fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    match fs_err::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            bail!("{shown} exists and is not a socket: remove it, or choose another runDir")
        }
        Ok(_) => {}
    }
    let deadline = Instant::now() + OUTLIVES;
    while UnixStream::connect(path).is_ok() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    match UnixStream::connect(path) {
        Ok(_) => bail!("another agent is serving {shown}: stop it, or give this one another runDir"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs_err::remove_file(path).context("removing a stale socket")
        }
        Err(error) => Err(error).with_context(|| format!("finding out whether anybody serves {shown}")),
    }
}
