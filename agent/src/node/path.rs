//! The choice of a way to a peer's pods: directly, through the router, or through the overlay. Pure: the kernel's
//! answers go in, a path comes out.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use dataplane_common::overlay_mac;

use crate::{
    config::TunnelSetting,
    netlink::{Link, NextHop},
};

/// How packets for one of a peer's pod CIDRs leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// Straight to the peer, which is on an uplink's segment.
    Direct(Hop),
    /// To the router in front of the peer, which routes pod CIDRs.
    Routed(Hop),
    /// Through the overlay to the peer's address.
    Tunnel(Tunnel),
}

/// An address and the uplink that it is behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    pub(super) address: IpAddr,
    pub(super) uplink: Arc<Link>,
}

/// The peer's end of the overlay, and the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tunnel {
    pub(super) address: IpAddr,
    /// The router in front of it, if there is one.
    pub(super) gateway: Option<IpAddr>,
    pub(super) uplink: Arc<Link>,
    /// What the kernel knows of the path's MTU beyond the uplink's.
    pub(super) path_mtu: Option<u32>,
}

/// The kernel's way to one of a peer's addresses.
#[derive(Clone, Debug)]
pub(super) struct Way {
    /// The peer's address.
    pub(super) address: IpAddr,
    /// What the kernel knows of the path's MTU beyond the uplink's.
    pub(super) path_mtu: Option<u32>,
    /// The router on the way, if there is one, and the uplink; or what is wrong, in words.
    pub(super) found: Result<(Option<IpAddr>, Arc<Link>), String>,
}

impl Way {
    /// Judges the kernel's answer.
    pub(super) fn new(
        node: &str,
        address: IpAddr,
        answer: Result<NextHop, String>,
        uplinks: &[Arc<Link>],
    ) -> Self {
        let path_mtu = answer.as_ref().ok().and_then(|hop| hop.mtu);
        let found = match answer {
            Err(error) => Err(format!("no route to node {node} at {address}: {error}")),
            Ok(hop) => match uplinks.iter().find(|uplink| uplink.index == hop.ifindex) {
                // A route that names the peer itself as the gateway only says by which device.
                Some(uplink) if uplink.up => {
                    Ok((hop.gateway.filter(|gateway| *gateway != address), Arc::clone(uplink)))
                }
                Some(uplink) => {
                    Err(format!("node {node} at {address} is behind {}, which is down", uplink.name))
                }
                None => Err(format!(
                    "node {node} at {address} is reached by the device with index {}, which is not an uplink: add it to uplinks",
                    hop.ifindex
                )),
            },
        };
        Self { address, path_mtu, found }
    }
}

/// The settings that the choice depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    pub(super) tunnel: TunnelSetting,
    pub(super) routed: bool,
}

/// Chooses the path for a pod CIDR of node `name`. `outer` is the address that its end of the overlay has.
///
/// # Errors
/// Why there is none, and the way out.
pub(super) fn choose(
    name: &str,
    v4: bool,
    ways: &[Way],
    outer: Option<IpAddr>,
    policy: Policy,
) -> Result<Path, String> {
    // IPv4 can go by an IPv6 next hop (RFC 8950); the kernel has no routes of the other kind.
    let native = || {
        let same = ways.iter().filter(move |way| way.address.is_ipv4() == v4);
        same.chain(ways.iter().filter(move |way| v4 && way.address.is_ipv6()))
    };
    let found = || native().filter_map(|way| Some((way.address, way.found.as_ref().ok()?)));
    if policy.tunnel != TunnelSetting::Always {
        if let Some((address, (_, uplink))) = found().find(|(_, (gateway, _))| gateway.is_none()) {
            return Ok(Path::Direct(Hop { address, uplink: Arc::clone(uplink) }));
        }
        if policy.routed
            && let Some((address, uplink)) =
                found().find_map(|(_, (gateway, uplink))| Some(((*gateway)?, uplink)))
        {
            return Ok(Path::Routed(Hop { address, uplink: Arc::clone(uplink) }));
        }
    }
    if policy.tunnel != TunnelSetting::Never {
        let way = outer.and_then(|outer| ways.iter().find(|way| way.address == outer));
        let Some(Way { address, path_mtu, found }) = way else {
            return Err(format!(
                "this node and node {name} have no address of the same family, so no overlay can join them: list one for each"
            ));
        };
        let (gateway, uplink) = found.clone()?;
        return Ok(Path::Tunnel(Tunnel { address: *address, gateway, uplink, path_mtu: *path_mtu }));
    }
    Err(native().next().map_or_else(
        || {
            format!(
                "node {name} has no address by which its {} pods can be reached without the overlay: list one, or set tunnel to auto",
                if v4 { "IPv4" } else { "IPv6" }
            )
        },
        |way| match &way.found {
            Err(problem) => problem.clone(),
            Ok((gateway, _)) => format!(
                "node {name} at {} is behind the router {}, and tunnel is never: set tunnel to auto, or routed to true if the network routes the pod CIDRs",
                way.address,
                gateway.map_or_else(|| "?".to_owned(), |gateway| gateway.to_string())
            ),
        },
    ))
}

/// The address of a peer's end of the overlay: IPv4 where both nodes have it, else IPv6.
pub(super) fn outer(own: &[IpAddr], peer: &[IpAddr]) -> Option<IpAddr> {
    [IpAddr::is_ipv4, IpAddr::is_ipv6].into_iter().find_map(|family: fn(&IpAddr) -> bool| {
        own.iter().any(family).then(|| peer.iter().copied().find(family)).flatten()
    })
}

/// The MAC address of a node's overlay device, which every other node works out from the same address: its first
/// IPv4 one, else its first one.
pub(super) fn mac(addresses: &[IpAddr]) -> Option<[u8; 6]> {
    addresses
        .iter()
        .find(|address| address.is_ipv4())
        .or(addresses.first())
        .map(|address| overlay_mac(*address))
}

/// The link-local address that follows from a MAC address (RFC 4291, appendix A).
pub(super) fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 0x02, b, c, 0xff, 0xfe, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::testing::link;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn uplink() -> Arc<Link> {
        Arc::new(link(2, "uplink", 1500))
    }

    fn way(address: &str, gateway: Option<&str>) -> Way {
        Way { address: ip(address), path_mtu: None, found: Ok((gateway.map(ip), uplink())) }
    }

    const AUTO: Policy = Policy { tunnel: TunnelSetting::Auto, routed: false };
    const ALWAYS: Policy = Policy { tunnel: TunnelSetting::Always, routed: true };
    const NEVER: Policy = Policy { tunnel: TunnelSetting::Never, routed: false };
    const ROUTED: Policy = Policy { tunnel: TunnelSetting::Never, routed: true };

    /// Path and address, in short.
    fn chosen(v4: bool, ways: &[Way], outer: Option<&str>, policy: Policy) -> String {
        match choose("node2", v4, ways, outer.map(ip), policy) {
            Ok(Path::Direct(hop)) => format!("direct {}", hop.address),
            Ok(Path::Routed(hop)) => format!("routed {}", hop.address),
            Ok(Path::Tunnel(hop)) => format!("tunnel {}", hop.address),
            Err(problem) => problem,
        }
    }

    #[test]
    fn the_path_follows_from_the_segment_and_the_settings() {
        let near = [way("192.168.1.12", None), way("fd00:1::12", None)];
        let far = [way("192.168.2.12", Some("192.168.1.1")), way("fd00:2::12", Some("fe80::1"))];
        let (n4, f4) = (Some("192.168.1.12"), Some("192.168.2.12"));
        for (v4, ways, outer, policy, expected) in [
            (true, &near, n4, AUTO, "direct 192.168.1.12"),
            (false, &near, n4, AUTO, "direct fd00:1::12"),
            (true, &near, n4, NEVER, "direct 192.168.1.12"),
            (true, &near, n4, ALWAYS, "tunnel 192.168.1.12"),
            (false, &near, n4, ALWAYS, "tunnel 192.168.1.12"),
            (true, &far, f4, AUTO, "tunnel 192.168.2.12"),
            (false, &far, f4, AUTO, "tunnel 192.168.2.12"),
            (true, &far, f4, ROUTED, "routed 192.168.1.1"),
            (false, &far, f4, ROUTED, "routed fe80::1"),
            (true, &far, f4, Policy { tunnel: TunnelSetting::Auto, routed: true }, "routed 192.168.1.1"),
        ] {
            assert_eq!(chosen(v4, ways, outer, policy), expected, "{v4} {ways:?} {policy:?}");
        }
    }

    #[test]
    fn pods_of_a_family_that_the_network_lacks_still_have_a_path() {
        let v4_only = [way("192.168.1.12", None)];
        assert_eq!(chosen(false, &v4_only, Some("192.168.1.12"), AUTO), "tunnel 192.168.1.12");
        let v6_only = [way("fd00:1::12", None)];
        assert_eq!(chosen(true, &v6_only, Some("fd00:1::12"), AUTO), "direct fd00:1::12");
    }

    #[test]
    fn no_path_is_told_with_the_way_out() {
        let far = [way("192.168.2.12", Some("192.168.1.1"))];
        let never = chosen(true, &far, Some("192.168.2.12"), NEVER);
        assert!(
            never.contains("behind the router 192.168.1.1") && never.contains("set tunnel to auto"),
            "{never}"
        );
        let lacking = chosen(false, &far, Some("192.168.2.12"), NEVER);
        assert!(lacking.contains("no address by which its IPv6 pods"), "{lacking}");
        let strangers = chosen(true, &far, None, AUTO);
        assert!(strangers.contains("no address of the same family"), "{strangers}");
        let answer = Ok(NextHop { ifindex: 7, gateway: None, source: None, mtu: None });
        let elsewhere = [Way::new("node2", ip("192.168.2.12"), answer, &[uplink()])];
        let problem = chosen(true, &elsewhere, Some("192.168.2.12"), AUTO);
        assert!(problem.contains("index 7, which is not an uplink: add it to uplinks"), "{problem}");
    }

    #[test]
    fn the_outer_packet_is_ipv4_where_both_nodes_have_it() {
        let [a4, a6, b4, b6] = ["192.168.1.11", "fd00:1::11", "192.168.1.12", "fd00:1::12"].map(ip);
        assert_eq!(outer(&[a6, a4], &[b6, b4]), Some(b4));
        assert_eq!(outer(&[a6], &[b4, b6]), Some(b6));
        assert_eq!(outer(&[a6], &[b4]), None);
        assert_eq!(mac(&[b6, b4]), mac(&[b4]));
    }

    #[test]
    fn link_local_addresses_follow_from_macs() {
        assert_eq!(link_local([0x02, 0x50, 192, 168, 2, 12]), ip("fe80::50:c0ff:fea8:20c"));
    }
}
