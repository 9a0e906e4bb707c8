//! The logic of the Podlane programs: small functions that return a verdict, one concept a file.
//!
//! It builds on the host too, so that what needs no kernel is unit-tested there; `main.rs` holds the entry points
//! and the one place that turns a verdict into an action and a counter.
#![cfg_attr(target_arch = "bpf", no_std)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "header lengths and the helpers' return codes: small numbers that the helpers want in other types"
)]

pub mod context;
pub mod count;
pub mod extensions;
pub mod family;
pub mod frame;
pub mod from_pod;
pub mod from_wire;
pub mod hop_limit;
pub mod kernel;
pub mod log;
pub mod lookup;
pub mod maps;
pub mod outer;
pub mod overlay;
pub mod path_mtu;
pub mod post_routing;
pub mod redirect;
pub mod redirect_errors;
pub mod size;
pub mod symmetry;
pub mod transport;
pub mod unwrap;
pub mod vxlan;
pub mod wrap;
pub mod xdp;

use core::hint::cold_path;

use dataplane_common::{DropReason, PassReason, PodEntry, RouteEntry, TunnelEntry};

use crate::{context::Readable, lookup::Lookup};

/// Why a packet is not forwarded by a program; `?` ends the program with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Leave the packet to the kernel.
    Pass(PassReason),
    /// Drop the packet.
    Drop(DropReason),
}

/// Where a packet is forwarded to; its headers are rewritten already.
pub enum Forward<'a> {
    /// Into a local pod.
    ToPod(&'a PodEntry),
    /// To a direct next hop.
    ToPeer(&'a RouteEntry),
    /// To a peer node, through the overlay.
    ToTunnel {
        /// The route.
        route: &'a RouteEntry,
        /// How outer packets leave; through the overlay device where there is none.
        tunnel: Option<&'a TunnelEntry>,
        /// What the packet says of congestion, see [`family::Family::congestion`].
        congestion: u8,
    },
}

impl From<PassReason> for Exit {
    #[inline(always)]
    fn from(reason: PassReason) -> Self {
        cold_path();
        Self::Pass(reason)
    }
}

impl From<DropReason> for Exit {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        cold_path();
        Self::Drop(reason)
    }
}

/// What a packet from a pod to a pod must not have, to be forwarded by a program: options, which are the kernel's, and a
/// flow that the kernel's stack has touched.
///
/// # Errors
/// The reason to pass it.
#[inline(always)]
pub fn check_plain<F: Lookup>(packet: &impl Readable, base: usize, ip: &F) -> Result<(), Exit> {
    if ip.has_options() {
        return Err(PassReason::Options.into());
    }
    symmetry::check(packet, base, ip)
}

/// What an object of programs has to have beside them: the kernel requires a GPL-compatible licence of programs that call
/// its redirect helpers, and the compiler a panic handler. On the host, where it is only checked, an empty `main`.
#[macro_export]
macro_rules! object {
    () => {
        #[cfg(target_arch = "bpf")]
        #[unsafe(link_section = "license")]
        #[unsafe(no_mangle)]
        static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

        #[cfg(target_arch = "bpf")]
        #[panic_handler]
        fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
            loop {}
        }

        #[cfg(not(target_arch = "bpf"))]
        fn main() {}
    };
}
