//! Forgetting flows through the stack when conntrack has forgotten them.

use std::time::Duration;

use crate::datapath::FlowAges;

/// The kernel's own defaults, where conntrack is not loaded: five days for TCP; for the others the longest of the rest.
const DEFAULT_TCP: u64 = 432_000;
const DEFAULT_OTHER: u64 = 600;

/// What else a flow may be kept by; the names are those of `nf_conntrack-sysctl.rst`.
const OTHERS: [&str; 6] = [
    "generic_timeout",
    "udp_timeout",
    "udp_timeout_stream",
    "icmp_timeout",
    "icmpv6_timeout",
    "sctp_timeout_established",
];

/// How long conntrack of this network namespace remembers a flow.
pub(super) fn ages() -> FlowAges {
    from(|name| {
        fs_err::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_{name}"))
            .ok()?
            .trim()
            .parse()
            .ok()
    })
}

fn from(read: impl Fn(&str) -> Option<u64>) -> FlowAges {
    FlowAges {
        tcp: Duration::from_secs(read("tcp_timeout_established").unwrap_or(DEFAULT_TCP)),
        other: Duration::from_secs(OTHERS.into_iter().filter_map(read).max().unwrap_or(DEFAULT_OTHER)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_kept_for_as_long_as_conntrack_keeps_them() {
        let none = from(|_| None);
        assert_eq!((none.tcp.as_secs(), none.other.as_secs()), (432_000, 600));
        let some = from(|name| match name {
            "tcp_timeout_established" => Some(86_400),
            "udp_timeout_stream" => Some(180),
            "icmp_timeout" => Some(30),
            _ => None,
        });
        assert_eq!((some.tcp.as_secs(), some.other.as_secs()), (86_400, 180));
    }
}
