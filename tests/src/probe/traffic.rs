//! Kinds of traffic that tests send over every path.

use std::net::IpAddr;

use super::path::Path;
use super::{icmp, sctp, tcp, udp};

/// A kind of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// A few MiB in both directions.
    TcpBulk,
    /// Requests and responses.
    TcpSmall,
    /// Datagrams that are echoed.
    Udp,
    /// Echo requests.
    Icmp,
    /// Datagrams larger than the MTU that are echoed.
    Fragments,
    /// An association with one message.
    Sctp,
}

impl Traffic {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::TcpBulk, Self::TcpSmall, Self::Udp, Self::Icmp, Self::Fragments, Self::Sctp];

    /// Its name in a test's cell.
    pub fn name(self) -> &'static str {
        match self {
            Self::TcpBulk => "tcp-bulk",
            Self::TcpSmall => "tcp-small",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
            Self::Fragments => "fragments",
            Self::Sctp => "sctp",
        }
    }

    /// Sends it; gives the client's address as the server sees it.
    pub fn send(self, path: &Path<'_>) -> anyhow::Result<IpAddr> {
        match self {
            Self::TcpBulk => tcp::bulk(path),
            Self::TcpSmall => tcp::small(path),
            Self::Udp => udp::small(path),
            Self::Icmp => icmp::echo(path),
            Self::Fragments => udp::fragments(path),
            Self::Sctp => sctp::message(path),
        }
    }
}
