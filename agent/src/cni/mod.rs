//! The CNI protocol: what a runtime hands to `podlane-cni` and what it gets back. See `docs/cni.md`.

mod config;
mod delegate;
mod direct;
mod environment;
pub mod error;
pub mod identifiers;
mod install;
pub mod plugin;
mod result;
#[cfg(test)]
mod tests;
mod version;
mod wishes;

pub use direct::{Answer, Direct, Work};
pub use error::{Error, code};
pub use install::Installation;
