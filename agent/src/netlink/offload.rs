//! Offloads, by the ioctl that every kernel has (`ethtool`).

use std::io;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `linux/ethtool.h`.
const ETHTOOL_SGRO: u32 = 0x2c;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Turns generic receive offload on for a device of the calling thread's network namespace.
pub fn enable_gro(device: &str) -> anyhow::Result<()> {
    let mut value = EthtoolValue { command: ETHTOOL_SGRO, data: 1 };
    let mut name: [libc::c_char; libc::IFNAMSIZ] = [0; libc::IFNAMSIZ];
    ensure!(device.len() < name.len(), "{device} is longer than an interface's name can be");
    for (to, from) in name.iter_mut().zip(device.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut value).cast() },
    };
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .context("opening a socket to set offloads by")?;
    // SAFETY: the request and the value that it points to live for the call; the kernel reads both.
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as libc::Ioctl, &raw const request) };
    if result != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("turning on GRO on {device}"));
    }
    Ok(())
}
