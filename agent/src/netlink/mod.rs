//! The kernel's links, addresses, routes and neighbours, over rtnetlink. Nothing else in the agent speaks netlink.
//!
//! [`Netlink`] is one socket in one network namespace; cloning it shares the socket. Every error names what was
//! being done to what; [`is_errno`] tells the kernel's reasons apart.

mod address;
mod batch;
mod encap;
mod error;
mod exchange;
mod filter;
mod link;
pub mod namespace;
mod neighbour;
pub mod offload;
mod orders;
mod removal;
mod resolve;
mod route;
mod rule;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod vxlan;
mod watch;

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use anyhow::Context as _;
use rtnetlink::Handle;
use tokio::sync::Mutex;

pub use encap::Encap;
pub use error::is_errno;
pub use link::Link;
pub use orders::{Order, Orders, VethSpec};
pub use resolve::NextHop;
pub use route::{PEER_TABLE, ROUTE_PROTOCOL, Route, RouteKind, RoutePlace, RouteScope};
pub use rule::Rule;
pub use vxlan::Vxlan;
pub use watch::Change;

/// A netlink socket in one network namespace. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: Handle,
    /// The namespace the socket is bound to; `None` is the one the process runs in.
    namespace: Option<Arc<OwnedFd>>,
    /// Held over a dump: the kernel runs one at a time on a socket, and refuses a second one with EBUSY.
    dumping: Arc<Mutex<()>>,
    removals: removal::Removals,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace and serves it on the running tokio runtime.
    pub fn new() -> anyhow::Result<Self> {
        let handle = connect().context("opening a netlink socket")?;
        Ok(Self { handle, namespace: None, dumping: Arc::default(), removals: Arc::default() })
    }

    /// Opens a socket in another network namespace. It stays bound to that namespace; the caller's thread does not
    /// move.
    pub fn in_namespace(namespace: BorrowedFd<'_>) -> anyhow::Result<Self> {
        let handle =
            namespace::run_in(namespace, connect)?.context("opening a netlink socket in a namespace")?;
        let namespace =
            namespace.try_clone_to_owned().context("duplicating a network namespace's descriptor")?;
        Ok(Self {
            handle,
            namespace: Some(Arc::new(namespace)),
            dumping: Arc::default(),
            removals: Arc::default(),
        })
    }

    /// Runs `open` where this socket's namespace is current.
    fn within_namespace<T: Send>(&self, open: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        match &self.namespace {
            Some(namespace) => namespace::run_in(namespace.as_fd(), open),
            None => Ok(open()),
        }
    }
}

fn connect() -> std::io::Result<Handle> {
    // Strict checking makes the kernel apply the filters of a dump instead of ignoring them.
    let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()?;
    tokio::spawn(connection);
    Ok(handle)
}
