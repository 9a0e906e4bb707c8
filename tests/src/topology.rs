//! The ways between nodes that tests go.

use crate::lab::{Builder, Wire};
use crate::{Binaries, Lab};

/// How packets get from node to node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// All nodes on one segment.
    Direct,
    /// Routers that route the pod CIDRs.
    Routed,
    /// Routers that don't: an overlay.
    Vxlan,
}

impl Topology {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Direct, Self::Routed, Self::Vxlan];

    /// Its name in a test's cell.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Routed => "routed",
            Self::Vxlan => "vxlan",
        }
    }

    const fn wire(self) -> Wire {
        match self {
            Self::Direct => Wire::Switch,
            Self::Routed => Wire::Routed,
            Self::Vxlan => Wire::Subnets,
        }
    }

    /// Two nodes with both families and Podlane, to be changed further.
    pub fn lab(self) -> anyhow::Result<Builder> {
        Ok(Lab::builder().nodes(2).ipv6(true).wire(self.wire()).podlane(Binaries::find()?))
    }
}
