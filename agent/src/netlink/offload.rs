//! Offloads and carriers, by the ioctl that every kernel has (`ethtool`).

use std::io;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `linux/ethtool.h`.
const ETHTOOL_GLINK: u32 = 0x0a;
const ETHTOOL_SGRO: u32 = 0x2c;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Turns generic receive offload on for a device of the calling thread's network namespace.
pub fn enable_gro(device: &str) -> anyhow::Result<()> {
    ethtool(device, EthtoolValue { command: ETHTOOL_SGRO, data: 1 })
        .with_context(|| format!("turning on GRO on {device}"))
}

/// Has the kernel heed at once that a device of the calling thread's namespace has a carrier. It does so in a work queue,
/// a moment after both ends of a veth are up; until then it drops what is sent to the device. Asking for the link's state
/// does that work first.
pub fn settle_carrier(device: &str) -> anyhow::Result<()> {
    ethtool(device, EthtoolValue { command: ETHTOOL_GLINK, data: 0 })
        .with_context(|| format!("asking for the carrier of {device}"))
}

fn ethtool(device: &str, mut value: EthtoolValue) -> anyhow::Result<()> {
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
        .context("opening a socket to ask by")?;
    // SAFETY: the request and the value that it points to live for the call; the kernel reads and writes both.
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as libc::Ioctl, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error().into()) }
}
