//! Kernel errors as `std::io::Error`, so that their number survives any context put around them.

use std::io;

use nix::errno::Errno;

/// Whether the kernel refused with this error number, however much context was added since.
pub fn is_errno(error: &anyhow::Error, errno: Errno) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.raw_os_error() == Some(errno as i32))
}

/// The kernel's answer as an `io::Error` with its number.
pub(super) fn to_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        rtnetlink::Error::RequestFailed => {
            io::Error::new(io::ErrorKind::BrokenPipe, "the netlink connection is closed")
        }
        other => io::Error::other(other.to_string()),
    }
}

/// Turns these refusals into success: the state asked for is there already.
pub(super) fn tolerate(result: Result<(), rtnetlink::Error>, fine: &[Errno]) -> io::Result<()> {
    match result.map_err(to_io) {
        Err(error) if fine.iter().any(|errno| error.raw_os_error() == Some(*errno as i32)) => Ok(()),
        other => other,
    }
}
