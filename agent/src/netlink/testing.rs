//! Network namespaces for tests. The kernel removes them when the last descriptor closes, also when a test is
//! killed.

use std::fs::File;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::sched::{CloneFlags, unshare};

use super::Link;

/// A device that is up.
pub(crate) fn link(index: u32, name: &str, mtu: u32) -> Link {
    Link {
        index,
        name: name.into(),
        mac: None,
        mtu,
        up: true,
        loopback: name == "lo",
        kind: None,
        alias: None,
        vxlan: None,
        peer: None,
    }
}

/// Runs a test in a network namespace of its own, on a thread and a runtime of its own.
pub(crate) fn in_own_namespace<T: Future<Output = ()>>(test: impl FnOnce() -> T + Send + 'static) {
    let thread = std::thread::spawn(|| {
        enter_new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A fresh network namespace, alive while the descriptor is.
pub(crate) fn new_namespace() -> OwnedFd {
    std::thread::spawn(|| {
        enter_new();
        OwnedFd::from(File::open("/proc/thread-self/ns/net").unwrap())
    })
    .join()
    .unwrap()
}

/// A path by which a namespace's descriptor can be opened, for as long as it is open.
pub(crate) fn path_of(namespace: &OwnedFd) -> PathBuf {
    use std::os::fd::AsRawFd as _;
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd()))
}

fn enter_new() {
    assert!(nix::unistd::geteuid().is_root(), "this test makes network namespaces: run it as root");
    unshare(CloneFlags::CLONE_NEWNET).expect("making a network namespace");
}
