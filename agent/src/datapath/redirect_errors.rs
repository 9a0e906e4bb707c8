//! Counting what XDP has redirected and the kernel has not delivered: by programs at the kernel's tracepoints.

use std::{io, mem, os::fd::AsRawFd as _, path::Path};

use anyhow::{Context as _, anyhow};
use aya::{
    Btf, Ebpf,
    programs::{BtfTracePoint, links::FdLink},
};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::{kernel_types::KernelTypes, pins::remove_pin};

/// The programs, and the tracepoints that they are for.
const PROGRAMS: [(&str, &str); 2] =
    [("redirect_flushed", "xdp_devmap_xmit"), ("redirect_refused", "xdp_redirect_err")];

/// What the programs need to know of the running kernel and of this node.
pub(super) struct Globals {
    pub(super) ifindex: u32,
    pub(super) namespace: u32,
    pub(super) cookie_offset: u32,
    pub(super) cookie: u64,
}

impl Globals {
    /// Finds it out.
    pub(super) fn find(types: &KernelTypes) -> anyhow::Result<Self> {
        Ok(Self {
            ifindex: types.offset("net_device", "ifindex")?,
            namespace: types.offset("net_device", "nd_net")?,
            cookie_offset: types.offset("net", "net_cookie")?,
            cookie: namespace_cookie()?,
        })
    }
}

/// Attaches the programs, in the place of a former agent's.
pub(super) fn attach(ebpf: &mut Ebpf, links: &Path) -> anyhow::Result<()> {
    let btf = Btf::from_sys_fs().context("reading the kernel's types")?;
    for (name, tracepoint) in PROGRAMS {
        let program =
            ebpf.program_mut(name).ok_or_else(|| anyhow!("the embedded object has no program {name}"))?;
        let program: &mut BtfTracePoint = program.try_into()?;
        program.load(tracepoint, &btf).with_context(|| format!("loading the program {name}"))?;
        let id = program.attach().with_context(|| format!("attaching {name} to {tracepoint}"))?;
        let link: FdLink = program.take_link(id)?.into();
        // The new one counts already: the former one goes now, and what comes in between counts twice.
        detach_one(links, name)?;
        link.pin(links.join(name)).with_context(|| format!("pinning the link of {name}"))?;
    }
    Ok(())
}

/// Detaches them.
pub(super) fn detach(links: &Path) -> anyhow::Result<()> {
    PROGRAMS.iter().try_for_each(|(name, _)| detach_one(links, name))
}

fn detach_one(links: &Path, name: &str) -> anyhow::Result<()> {
    remove_pin(&links.join(name))
}

/// What tells this thread's network namespace from the others for as long as the machine runs (Linux 5.14).
fn namespace_cookie() -> anyhow::Result<u64> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .context("opening a socket to ask for the network namespace's cookie")?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(mem::size_of_val(&cookie))?;
    // SAFETY: the kernel writes at most `length` bytes to the cookie; both live for the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error()).context("asking for the network namespace's cookie");
    }
    Ok(cookie)
}
