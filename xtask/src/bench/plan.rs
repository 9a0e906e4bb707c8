//! How much is measured.

use std::time::Duration;

/// Rounds, and the size of each sample. The contenders take turns in every round.
pub(super) struct Plan {
    pub(super) quick: bool,
    /// How long a bench of everything takes at most. Where this does not do for what follows, it is less.
    pub(super) limit: Duration,
    /// How often everything is built anew.
    pub(super) labs: usize,
    /// Rounds in each of these labs: each with Podlane's programs at another place in memory.
    pub(super) rounds: usize,
    /// Samples of round trips on one node in each of these rounds, of those that a target compares.
    pub(super) latencies: usize,
    /// How many there are across nodes, where what is compared differs by more.
    pub(super) latencies_across: usize,
    /// What no target compares is measured in one of so many rounds, the first among them.
    pub(super) seldom: usize,
    /// Turns, some milliseconds each, in a sample of round trips or small packets; what takes longer has fewer.
    pub(super) turns: usize,
    /// Turns in a sample of forwarding alone.
    pub(super) forwarding: usize,
    /// Frames in each of them.
    pub(super) frames: u32,
    /// Turns in a sample of bulk transfers.
    pub(super) bulk: usize,
    /// Samples in each round of transfers that a target compares; the floor has one.
    pub(super) transfers: usize,
    /// Whether everybody's transfers are measured as well, beside the wire.
    pub(super) all_in_bulk: bool,
    /// How often 110 pods are attached and detached one by one, and all at once.
    pub(super) attach_rounds: usize,
    /// Whether everything is measured with IPv6 as well, or only round trips.
    pub(super) all_with_ipv6: bool,
}

impl Plan {
    pub(super) const QUICK: Self = Self {
        quick: true,
        limit: Duration::from_secs(5 * 60),
        labs: 3,
        rounds: 12,
        latencies: 5,
        latencies_across: 2,
        seldom: 12,
        turns: 20,
        forwarding: 12,
        frames: 64 * 250,
        bulk: 2,
        transfers: 3,
        all_in_bulk: false,
        attach_rounds: 1,
        all_with_ipv6: false,
    };
    pub(super) const FULL: Self = Self {
        quick: false,
        limit: Duration::from_secs(40 * 60),
        labs: 2,
        rounds: 36,
        latencies: 5,
        latencies_across: 2,
        seldom: 3,
        turns: 20,
        forwarding: 16,
        frames: 64 * 125,
        bulk: 3,
        transfers: 3,
        all_in_bulk: true,
        attach_rounds: 5,
        all_with_ipv6: true,
    };

    /// The limit in minutes, where another has been asked for.
    pub(super) fn other_limit(&self) -> Option<u64> {
        let usual = if self.quick { Self::QUICK.limit } else { Self::FULL.limit };
        (self.limit != usual).then_some(self.limit.as_secs() / 60)
    }

    /// The families (IPv6, or IPv4) of what is measured with IPv6 in a full run alone.
    pub(super) const fn families(&self) -> &'static [bool] {
        if self.all_with_ipv6 { &[false, true] } else { &[false] }
    }
}
