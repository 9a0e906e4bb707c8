//! The CNI protocol: what a runtime hands to `podlane-cni` and what it gets back. See `docs/cni.md`.

pub mod error;
pub mod identifiers;

pub use error::{Error, code};
