//! Tunnelled routes: `encap ip`, the lightweight tunnels that a flow-based VXLAN device takes its orders from.

use std::net::IpAddr;

use rtnetlink::packet_route::route::{
    RouteAttribute, RouteIp6Tunnel, RouteIp6TunnelFlags, RouteIpTunnel, RouteIpTunnelFlags, RouteLwEnCapType,
    RouteLwTunnelEncap,
};

/// TTL or hop limit of the outer packets.
const OUTER_TTL: u8 = 64;

/// Where a tunnelled route's packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Encap {
    /// The outer packets' destination; their source follows from the kernel's route to it.
    pub remote: IpAddr,
    /// The network identifier.
    pub vni: u32,
}

impl Encap {
    pub(super) fn to_attributes(self) -> [RouteAttribute; 2] {
        let id = u64::from(self.vni);
        let (kind, parts) = match self.remote {
            IpAddr::V4(remote) => {
                // No UDP checksum, as VXLAN over IPv4 has it (RFC 7348, 5); the inner packet has its own.
                let parts = [
                    RouteIpTunnel::Id(id),
                    RouteIpTunnel::Destination(remote),
                    RouteIpTunnel::Ttl(OUTER_TTL),
                    RouteIpTunnel::Flags(RouteIpTunnelFlags::Key),
                ];
                (RouteLwEnCapType::Ip, parts.map(RouteLwTunnelEncap::Ip).to_vec())
            }
            IpAddr::V6(remote) => {
                // Without a checksum the receiving kernel would drop them (RFC 8200, 8.1).
                let parts = [
                    RouteIp6Tunnel::Id(id),
                    RouteIp6Tunnel::Destination(remote),
                    RouteIp6Tunnel::Hoplimit(OUTER_TTL),
                    RouteIp6Tunnel::Flags(RouteIp6TunnelFlags::Key | RouteIp6TunnelFlags::Checksum),
                ];
                (RouteLwEnCapType::Ip6, parts.map(RouteLwTunnelEncap::Ip6).to_vec())
            }
        };
        [RouteAttribute::Encap(parts), RouteAttribute::EncapType(kind)]
    }

    /// `None` for an encapsulation of another kind.
    pub(super) fn from_parts(parts: &[RouteLwTunnelEncap]) -> Option<Self> {
        let mut remote = None;
        let mut vni = None;
        for part in parts {
            match part {
                RouteLwTunnelEncap::Ip(RouteIpTunnel::Destination(address)) => {
                    remote = Some((*address).into())
                }
                RouteLwTunnelEncap::Ip6(RouteIp6Tunnel::Destination(address)) => {
                    remote = Some((*address).into())
                }
                RouteLwTunnelEncap::Ip(RouteIpTunnel::Id(id))
                | RouteLwTunnelEncap::Ip6(RouteIp6Tunnel::Id(id)) => {
                    vni = u32::try_from(*id).ok();
                }
                _ => {}
            }
        }
        Some(Self { remote: remote?, vni: vni? })
    }
}
