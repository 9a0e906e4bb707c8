//! What `podlane-cni` does before the C library starts: ADD and DEL are handed to the agent as they came, and its answer
//! is handed back. Everything else, and whatever does not work here, is left to the plugin proper, which starts as if
//! nothing had been.
//!
//! Starting glibc takes longer than all the rest of the plugin on a virtual machine: it asks the CPU for its features and
//! caches again and again (`init_cpu_features`, `dl_init_cacheinfo`), and a hypervisor answers each `CPUID` itself (several
//! microseconds). So the executable's entry point is [`podlane_cni_start`], where it is linked statically; it
//! goes on to the C library's `_start` unless the agent has done the work.
//!
//! Nothing of the C library works yet: no allocation, no thread-local storage, no panic, and not even `memcpy`, which is
//! one of the functions that are chosen by the CPU's features. Hence `no_builtins`, and slices that are walked by hand.

#![cfg_attr(not(test), no_std)]
#![no_builtins]

mod answer;
mod config;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod entry;
mod request;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod system;
mod text;

pub use config::DEFAULT_SOCKET;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub use entry::{podlane_cni_start, read_ahead};

/// What was read of the standard input before the C library started: it comes before what is left there.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub fn read_ahead() -> &'static [u8] {
    &[]
}
