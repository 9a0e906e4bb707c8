//! How large packets may be.

use std::net::IpAddr;

use super::path::{Path, Tunnel};

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
            Path::Tunnel(tunnel) => Some(overhead(tunnel.address.is_ipv4())),
            _ => None,
        })
        .max();
    let most = most.unwrap_or_else(|| overhead(own.iter().any(IpAddr::is_ipv4)));
    uplink_mtu.saturating_sub(most)
}

/// The largest inner packet that gets through a tunnel, whose device has the MTU `overlay`: less where the kernel knows
/// of a smaller link on the way, or routers have told the programs (`told`).
pub(super) fn tunnel(overlay: u32, tunnel: &Tunnel, told: Option<u32>) -> u32 {
    let known = tunnel.path_mtu.map(|mtu| mtu.saturating_sub(overhead(tunnel.address.is_ipv4())));
    known.into_iter().chain(told).fold(overlay, u32::min)
}

/// The MTU of the kernel's route through a tunnel that takes packets of `mtu` bytes; `None` where it is the device's.
/// IPv6 packets have a right to 1280 bytes: where the path takes less, the outer packets arrive in pieces.
pub(super) fn slow_route(overlay: u32, mtu: u32, v6: bool) -> Option<u32> {
    let mtu = if v6 { mtu.max(LEAST_FOR_IPV6) } else { mtu };
    (mtu < overlay).then_some(mtu)
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
    use std::sync::Arc;

    use super::*;
    use crate::netlink::testing::link;

    fn tunnel(address: &str) -> Path {
        let uplink = Arc::new(link(2, "uplink", 1500));
        Path::Tunnel(Tunnel { address: address.parse().unwrap(), gateway: None, uplink, path_mtu: None })
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
    fn a_smaller_link_on_the_way_is_heeded_whoever_knows_of_it() {
        let Path::Tunnel(found) = tunnel("192.168.1.12") else { panic!("not a tunnel") };
        let known = Tunnel { path_mtu: Some(1400), ..found.clone() };
        for (way, told, expected) in [
            (&found, None, 1450),
            (&found, Some(1300), 1300),
            (&known, None, 1350),
            (&known, Some(1300), 1300),
            (&Tunnel { path_mtu: Some(9000), ..found.clone() }, Some(1450), 1450),
        ] {
            assert_eq!(super::tunnel(1450, way, told), expected, "{way:?} {told:?}");
        }
        assert_eq!(slow_route(1450, 1450, false), None);
        assert_eq!(slow_route(1450, 1200, false), Some(1200));
        assert_eq!(slow_route(1450, 1200, true), Some(1280));
        assert_eq!(slow_route(1250, 1200, true), None);
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
