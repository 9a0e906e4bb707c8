//! How large packets may be.

use std::net::IpAddr;

use super::path::Path;

/// Outer Ethernet payload around an inner IP packet: IP, UDP, VXLAN and inner Ethernet header.
const fn overhead(outer_is_v4: bool) -> u32 {
    let ip = if outer_is_v4 { 20 } else { 40 };
    ip + 8 + 8 + 14
}

/// IPv6 works on no link with a smaller MTU (RFC 8200, 5); the kernel switches it off there.
const LEAST_FOR_IPV6: u32 = 1280;

/// The MTU of the overlay device: good for each of the tunnels, and for the family that new ones would have.
pub(super) fn overlay<'a>(uplink_mtu: u32, own: &[IpAddr], paths: impl IntoIterator<Item = &'a Path>) -> u32 {
    let most = paths
        .into_iter()
        .filter_map(|path| match path {
            Path::Tunnel(hop) => Some(overhead(hop.address.is_ipv4())),
            _ => None,
        })
        .max();
    let most = most.unwrap_or_else(|| overhead(own.iter().any(IpAddr::is_ipv4)));
    uplink_mtu.saturating_sub(most)
}

/// What is wrong with these MTUs, if anything.
pub(super) fn problem(pods: u32, overlay: Option<u32>, uplink: u32, has_ipv6: bool) -> Option<String> {
    if !has_ipv6 {
        return None;
    }
    if let Some(overlay) = overlay.filter(|mtu| *mtu < LEAST_FOR_IPV6) {
        let needed = LEAST_FOR_IPV6 + (uplink - overlay);
        return Some(format!(
            "the overlay's MTU is {overlay}, too small for IPv6, which needs {LEAST_FOR_IPV6}: raise the uplinks' MTU from {uplink} to at least {needed}"
        ));
    }
    (pods < LEAST_FOR_IPV6).then(|| {
        format!(
            "the pods' MTU is {pods}, too small for IPv6, which needs {LEAST_FOR_IPV6}: raise mtu, or the uplinks' MTU ({uplink})"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{netlink::Link, node::path::Hop};

    fn tunnel(address: &str) -> Path {
        let uplink = Link {
            index: 2,
            name: "uplink".into(),
            mac: None,
            mtu: 1500,
            up: true,
            loopback: false,
            kind: None,
            alias: None,
            vxlan: None,
            peer: None,
        };
        Path::Tunnel(Hop { address: address.parse().unwrap(), uplink })
    }

    #[test]
    fn the_overlay_leaves_room_for_its_outer_headers() {
        let (v4, v6) = (["192.168.1.11".parse().unwrap()], ["fd00:1::11".parse().unwrap()]);
        assert_eq!(overlay(1500, &v4, &[tunnel("192.168.1.12")]), 1450);
        assert_eq!(overlay(1500, &v4, &[tunnel("192.168.1.12"), tunnel("fd00:1::13")]), 1430);
        assert_eq!(overlay(9000, &v4, &[]), 8950);
        assert_eq!(overlay(1500, &v6, &[]), 1430);
    }

    #[test]
    fn ipv6_with_less_than_1280_is_a_problem_that_says_what_is_enough() {
        assert_eq!(problem(1280, Some(1280), 1330, true), None);
        assert_eq!(problem(1200, Some(1200), 1250, false), None);
        let told = problem(1250, Some(1250), 1300, true).unwrap();
        assert!(told.contains("from 1300 to at least 1330"), "{told}");
        let told = problem(1000, None, 1500, true).unwrap();
        assert!(told.contains("raise mtu, or the uplinks' MTU (1500)"), "{told}");
    }
}
