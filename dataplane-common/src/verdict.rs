//! What a program can decide about a packet. The numbers are a promise: they are never renumbered nor reused.

/// One past the largest verdict number: the size of a hook's block of counters.
pub const VERDICTS: u32 = 64;

/// What became of a packet: the three enums below share one numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Left to the kernel.
    Pass(PassReason),
    /// Forwarded by the program.
    Forwarded(Forwarded),
    /// Dropped by the program.
    Drop(DropReason),
}

impl Verdict {
    /// The verdict's number, below [`VERDICTS`].
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Pass(reason) => reason as u32,
            Self::Forwarded(how) => how as u32,
            Self::Drop(reason) => reason as u32,
        }
    }

    /// The verdict's name in the CLI and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass(reason) => reason.name(),
            Self::Forwarded(how) => how.name(),
            Self::Drop(reason) => reason.name(),
        }
    }

    /// Every verdict, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = Self> {
        PassReason::ALL
            .iter()
            .map(|reason| Self::Pass(*reason))
            .chain(Forwarded::ALL.iter().map(|how| Self::Forwarded(*how)))
            .chain(DropReason::ALL.iter().map(|reason| Self::Drop(*reason)))
    }
}

/// Declares one of the enums: its numbers, names and docs stand in one place.
macro_rules! numbered {
    ($(#[$top:meta])* $enum:ident { $($(#[$doc:meta])+ $variant:ident = $number:literal, $name:literal;)+ }) => {
        $(#[$top])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum $enum {
            $($(#[$doc])+ $variant = $number,)+
        }

        impl $enum {
            /// Every one, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in the CLI and in metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

numbered! {
    /// Why a packet was left to the kernel's slow path. None of these is an error.
    PassReason {
        /// Neither IPv4 nor IPv6 (ARP, for one).
        NotIp = 0, "pass-not-ip";
        /// The frame is too short for its headers, or they contradict each other.
        Malformed = 1, "pass-malformed";
        /// The destination is neither a local pod nor in a peer's pod CIDR.
        NotPod = 2, "pass-not-pod";
        /// The frame is not addressed to this node's MAC address (multicast, broadcast, flooded).
        NotForHost = 3, "pass-not-for-host";
        /// IPv4 options: the kernel knows what to do with them.
        Options = 4, "pass-options";
        /// TTL or hop limit is about to expire: the kernel answers with an ICMP error.
        HopLimit = 5, "pass-hop-limit";
        /// Larger than the next hop's MTU: the kernel fragments it or answers with an ICMP error.
        TooBig = 6, "pass-too-big";
        /// Link-local or unspecified IPv6 source: neighbour discovery and the like.
        LinkLocal = 7, "pass-link-local";
        /// A next hop of a kind that this program does not know: an agent newer than the program.
        UnknownNextHop = 8, "pass-unknown-next-hop";
        /// To a pod, but not from one: replies to it go through the kernel, so it does as well.
        NotFromPod = 9, "pass-not-from-pod";
        /// The kernel's stack has seen the flow's other direction, and may have to undo what it has rewritten.
        StackFlow = 10, "pass-stack-flow";
        /// An ICMP error while such flows exist: it may be about one of them.
        IcmpError = 11, "pass-icmp-error";
        /// A fragment without ports while such flows exist: it may belong to one of them.
        Fragment = 12, "pass-fragment";
        /// The stack has made it a packet from a pod to a pod: its flow's other direction has been noted.
        Noted = 13, "pass-noted";
        /// A frame of the overlay that only the kernel's device can take apart: GRO has put several into one, a router
        /// has marked it as congested, or its packet is of another family than the one around it.
        Overlay = 14, "pass-overlay";
        /// An ICMP error that says that the overlay's packets are too big for the path; the path's MTU has been noted.
        PathMtu = 15, "pass-path-mtu";
    }
}

impl PassReason {
    /// Whether a packet that an ingress program passes for this reason goes from a pod to a pod.
    #[inline(always)]
    #[must_use]
    pub const fn is_pod_to_pod(self) -> bool {
        match self {
            Self::Options
            | Self::HopLimit
            | Self::TooBig
            | Self::UnknownNextHop
            | Self::StackFlow
            | Self::IcmpError
            | Self::Fragment => true,
            Self::NotIp
            | Self::Malformed
            | Self::NotPod
            | Self::NotForHost
            | Self::LinkLocal
            | Self::NotFromPod
            | Self::Noted
            | Self::Overlay
            | Self::PathMtu => false,
        }
    }
}

numbered! {
    /// How a packet was forwarded.
    Forwarded {
        /// Into a local pod.
        ToPod = 16, "to-pod";
        /// To a next hop on the uplink.
        ToPeer = 17, "to-peer";
        /// To a peer node through the overlay.
        ToTunnel = 18, "to-tunnel";
    }
}

numbered! {
    /// Why a packet was dropped.
    DropReason {
        /// A pod sent a packet whose source IP is not its own.
        SourceIp = 32, "drop-source-ip";
        /// A pod sent a packet whose source MAC address is not its own.
        SourceMac = 33, "drop-source-mac";
        /// A packet from outside the node claims a local pod's source IP.
        ForeignSource = 34, "drop-foreign-source";
        /// A frame in the overlay comes from a node that the cluster does not have.
        UnknownNode = 35, "drop-unknown-node";
        /// A frame in the overlay is of another network (VNI).
        UnknownNetwork = 36, "drop-unknown-network";
        /// The kernel did not take a frame that XDP had redirected to a pod.
        RedirectFailed = 37, "drop-redirect-failed";
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_verdict_has_its_own_number_and_name() {
        let numbers: BTreeSet<u32> = Verdict::all().map(Verdict::number).collect();
        let names: BTreeSet<&str> = Verdict::all().map(Verdict::name).collect();
        assert_eq!(numbers.len(), Verdict::all().count());
        assert_eq!(names.len(), Verdict::all().count());
        assert!(numbers.iter().all(|number| *number < VERDICTS));
    }

    /// The numbers are a promise to whoever reads the map: this test is the second place that a change must touch.
    #[test]
    fn numbers_are_never_renumbered() {
        let numbered: Vec<(u32, &str)> = Verdict::all().map(|v| (v.number(), v.name())).collect();
        assert_eq!(
            numbered,
            [
                (0, "pass-not-ip"),
                (1, "pass-malformed"),
                (2, "pass-not-pod"),
                (3, "pass-not-for-host"),
                (4, "pass-options"),
                (5, "pass-hop-limit"),
                (6, "pass-too-big"),
                (7, "pass-link-local"),
                (8, "pass-unknown-next-hop"),
                (9, "pass-not-from-pod"),
                (10, "pass-stack-flow"),
                (11, "pass-icmp-error"),
                (12, "pass-fragment"),
                (13, "pass-noted"),
                (14, "pass-overlay"),
                (15, "pass-path-mtu"),
                (16, "to-pod"),
                (17, "to-peer"),
                (18, "to-tunnel"),
                (32, "drop-source-ip"),
                (33, "drop-source-mac"),
                (34, "drop-foreign-source"),
                (35, "drop-unknown-node"),
                (36, "drop-unknown-network"),
                (37, "drop-redirect-failed"),
            ]
        );
    }
}
