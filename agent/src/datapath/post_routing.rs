//! Noting the flows of the kernel's stack by one program of netfilter, behind source NAT, for all devices: `post_routing`.
//! What the programs redirect does not pass it, where it would pass programs at the devices' egress.
//!
//! The kernel has no way to swap the program of such a link, and allows no two programs at one priority: a new link takes
//! another priority, then the former one goes. In between both note the same flows in the same maps.

use std::{
    collections::HashSet,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use aya::{
    Ebpf,
    programs::{ProgramInfo, loaded_programs},
};
use aya_obj::Object;
use dataplane_common::Hook;

use super::{
    kernel_types::KernelTypes,
    load::{PROGRAMS, map_data},
    pins::remove_pin,
    sys::{self, Netfilter},
};
use crate::failpoint::step;

/// The families, by the names of their pins and the numbers that netfilter gives them (`NFPROTO_IPV4`, `NFPROTO_IPV6`).
const FAMILIES: [(&str, u32); 2] = [("ipv4", 2), ("ipv6", 10)];

/// `NF_INET_POST_ROUTING`.
const POST_ROUTING: u32 = 4;

/// Behind source NAT (100) and everything else that iptables and nftables know by name, before conntrack's confirmation.
/// One would do, and a second for the change to the next agent's; the others are for those that are taken.
const PRIORITIES: std::ops::Range<u32> = 1000..1016;

const NAME: &str = Hook::PostRouting.name();

/// Where the kernel has what the program reads of a packet.
pub(super) struct Globals {
    pub(super) len: u32,
    pub(super) data_len: u32,
    pub(super) mark: u32,
    pub(super) data: u32,
}

impl Globals {
    pub(super) fn find(types: &KernelTypes) -> anyhow::Result<Self> {
        let offset = |member| types.offset("sk_buff", member);
        Ok(Self {
            len: offset("len")?,
            data_len: offset("data_len")?,
            mark: offset("mark")?,
            data: offset("data")?,
        })
    }
}

/// Tells what keeps the program from being used: those at the devices do in its place.
pub(super) fn or_tell<T>(result: anyhow::Result<T>) -> Option<T> {
    let tell = |error: anyhow::Error| {
        tracing::warn!(
            error = format!("{error:#}"),
            "no program at netfilter: flows are noted at every device's egress"
        );
    };
    result.map_err(tell).ok()
}

/// The loaded program.
#[derive(Debug)]
pub struct PostRouting {
    program: OwnedFd,
    id: u32,
}

impl PostRouting {
    /// Loads the program with the maps of the others: before any of those is taken out of `ebpf`.
    ///
    /// # Errors
    /// Where the kernel refuses it; its verifier's words are part of the error.
    pub fn load(ebpf: &Ebpf) -> anyhow::Result<Self> {
        let mut object = Object::parse(PROGRAMS).context("reading the embedded programs")?;
        let maps = std::mem::take(&mut object.maps);
        let fds = maps.iter().map(|(name, map)| {
            anyhow::Ok((name.as_str(), map_data(ebpf, name)?.fd().as_fd().as_raw_fd(), map))
        });
        let fds = fds.collect::<anyhow::Result<Vec<_>>>()?;
        let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        object.relocate_maps(fds.into_iter(), &sections)?;
        object.relocate_calls(&sections)?;
        let function = object.programs.get(NAME).map(aya_obj::Program::function_key);
        let function = function.and_then(|key| object.functions.get(&key));
        let function = function.ok_or_else(|| anyhow!("the embedded object has no program {NAME}"))?;
        let program = sys::load_netfilter(NAME, &function.instructions, &object.license)
            .with_context(|| format!("loading the program {NAME}"))?;
        Ok(Self { id: sys::program_id(&program)?, program })
    }

    /// The same, and attaches it.
    pub(super) fn attach(ebpf: &Ebpf, links: &Path) -> anyhow::Result<Self> {
        let program = Self::load(ebpf)?;
        program.ensure(links)?;
        Ok(program)
    }

    /// The program.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    /// What the kernel tells of the program.
    ///
    /// # Errors
    /// Where it cannot be asked.
    pub fn info(&self) -> anyhow::Result<ProgramInfo> {
        let found = loaded_programs().flatten().find(|info| info.id() == self.id);
        found.with_context(|| format!("the kernel does not list the program {NAME}"))
    }

    /// Attaches the program to both families where it is not, in the place of a former agent's. Returns whether it was.
    pub(super) fn ensure(&self, links: &Path) -> anyhow::Result<bool> {
        let mut all = true;
        for (family, number) in FAMILIES {
            all &= self
                .ensure_family(links, family, number)
                .with_context(|| format!("attaching {NAME} to netfilter, {family}"))?;
        }
        Ok(all)
    }

    fn ensure_family(&self, links: &Path, family: &str, number: u32) -> anyhow::Result<bool> {
        let place = |priority| Netfilter { family: number, hook: POST_ROUTING, priority };
        let pin = pin(links, family);
        if let Some(link) = sys::open(&pin)?.map(sys::link_info).transpose()? {
            // A link that has been detached looks like any other: but its priority is free.
            if link.program == self.id && sys::link_netfilter(&self.program, place(link.priority))?.is_none()
            {
                return Ok(true);
            }
        }
        for priority in PRIORITIES {
            let Some(link) = sys::link_netfilter(&self.program, place(priority))? else { continue };
            let new = new_pin(links, family);
            // Of an agent that came no further than here.
            remove_pin(&new)?;
            sys::pin(link, &new)?;
            step("post_routing pinned beside the former one");
            fs_err::rename(&new, &pin).context("pinning the link in the former one's place")?;
            return Ok(false);
        }
        Err(anyhow!(
            "other programs have all priorities from {} to {}: see `bpftool link show`",
            PRIORITIES.start,
            PRIORITIES.end - 1
        ))
    }
}

/// Detaches it, of whichever agent it is.
pub(super) fn detach(links: &Path) -> anyhow::Result<()> {
    FAMILIES.iter().try_for_each(|(family, _)| {
        remove_pin(&new_pin(links, family))?;
        remove_pin(&pin(links, family))
    })
}

fn pin(links: &Path, family: &str) -> PathBuf {
    links.join(format!("{NAME}-{family}"))
}

/// Where a new link is pinned until it takes the former one's place.
fn new_pin(links: &Path, family: &str) -> PathBuf {
    links.join(format!("{NAME}-{family}:new"))
}
