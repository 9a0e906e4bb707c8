//! Podlane's agent: see the modules.

pub mod netlink;
