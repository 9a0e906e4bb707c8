//! Podlane's agent: see the modules.

pub mod api;
pub mod cni;
pub mod netlink;
pub mod pods;
