//! How much is measured.

use std::time::Duration;

/// Rounds, and the size of each sample. The contenders take turns in every round.
pub(super) struct Plan {
    pub(super) quick: bool,
    /// How often everything is built anew.
    pub(super) labs: usize,
    /// Samples of each figure but bulk transfers, in each of these labs.
    pub(super) rounds: usize,
    /// Round trips in a sample.
    pub(super) round_trips: usize,
    /// Connections in a sample.
    pub(super) connections: u32,
    /// How long packets are sent for in a sample.
    pub(super) packets: Duration,
    /// Frames in a sample of forwarding alone.
    pub(super) frames: u32,
    /// Samples of bulk transfers, in each of these labs.
    pub(super) bulk_rounds: usize,
    /// How long each takes.
    pub(super) bulk_seconds: u32,
    /// How often 110 pods are attached and detached one by one, and all at once.
    pub(super) attach_rounds: usize,
    /// Whether everything is measured with IPv6 as well, or only round trips.
    pub(super) all_with_ipv6: bool,
}

impl Plan {
    pub(super) const QUICK: Self = Self {
        quick: true,
        labs: 1,
        rounds: 9,
        round_trips: 1500,
        connections: 400,
        packets: Duration::from_millis(50),
        frames: 64 * 500,
        bulk_rounds: 1,
        bulk_seconds: 1,
        attach_rounds: 1,
        all_with_ipv6: false,
    };
    pub(super) const FULL: Self = Self {
        quick: false,
        labs: 3,
        rounds: 11,
        round_trips: 4000,
        connections: 1000,
        packets: Duration::from_millis(100),
        frames: 64 * 4000,
        bulk_rounds: 2,
        bulk_seconds: 1,
        attach_rounds: 5,
        all_with_ipv6: true,
    };
}
