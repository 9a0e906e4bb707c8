//! The Podlane agent as a library: what the binaries `podlane` and `podlane-cni` are made of.
//!
//! Desired state (attachments and cluster) is compared with what is; only the difference is written to maps, routes
//! and neighbours.

pub mod api;
pub mod cli;
pub mod cluster;
pub mod cni;
pub mod config;
pub mod datapath;
mod failpoint;
mod memory;
pub mod metrics;
pub mod netlink;
pub mod node;
pub mod pods;
mod rcu;
pub mod repairs;
mod sysctl;
