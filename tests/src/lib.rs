//! The lab: nodes and pods as network namespaces on one machine, and probes that look at what passes between them.
//!
//! ```no_run
//! use podlane_tests::{Binaries, Lab};
//!
//! # fn main() -> anyhow::Result<()> {
//! let lab = Lab::builder().nodes(2).podlane(Binaries::find()?).build()?;
//! let client = lab.node(1).add_pod("client")?;
//! let server = lab.node(2).add_pod("server")?;
//! podlane_tests::probe::ping::ping(client.namespace(), server.address())?;
//! # Ok(())
//! # }
//! ```
//!
//! It drives binaries and the kernel only, so `xtask` can use it before anything for eBPF is installed.

pub mod bench;
mod binaries;
mod cells;
pub mod contender;
pub mod helm;
pub mod lab;
pub mod manifest;
pub mod netfilter;
pub mod probe;
mod run;
pub mod services;
pub mod sources;
mod topology;

pub use binaries::Binaries;
pub use cells::Cells;
pub use lab::Lab;
pub use run::{Finished, Run};
pub use topology::Topology;
