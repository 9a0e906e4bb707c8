//! By which addresses other nodes reach this one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::ensure;

use crate::netlink::Netlink;

/// Addresses of the whole internet, to ask the kernel for the default route's source: documentation's, as no packet is
/// sent.
const ANYWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// The configured addresses, else those of the first uplink, else those that the default routes' packets have; one a
/// family.
///
/// # Errors
/// Where there are none: names the settings that help.
pub(super) async fn find(
    netlink: &Netlink,
    configured: &[IpAddr],
    uplinks: &[String],
) -> anyhow::Result<Vec<IpAddr>> {
    if !configured.is_empty() {
        return Ok(configured.to_vec());
    }
    let mut found = Vec::new();
    if let Some(uplink) = uplinks.first() {
        let link = netlink.link_by_name(uplink).await?;
        let index = link.map(|link| link.index);
        for (_, network) in netlink.addresses().await?.iter().filter(|(at, _)| Some(*at) == index) {
            let address = network.ip();
            let family_is_new = !found.iter().any(|other: &IpAddr| other.is_ipv4() == address.is_ipv4());
            if family_is_new && is_reachable(address) {
                found.push(address);
            }
        }
    } else {
        for anywhere in ANYWHERE {
            // No route: the node has no such addresses.
            let way = netlink.resolve(anywhere).await.ok();
            found.extend(way.and_then(|way| way.source).filter(|address| is_reachable(*address)));
        }
    }
    ensure!(
        !found.is_empty(),
        "by which address other nodes reach this one is not known, as {}: set etcd.nodeAddresses, or uplinks",
        match uplinks.first() {
            Some(uplink) => format!("uplink {uplink} has none"),
            None => "there is no default route".to_owned(),
        }
    );
    Ok(found)
}

const fn is_reachable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !address.is_loopback() && !address.is_link_local() && !address.is_unspecified()
        }
        IpAddr::V6(address) => {
            !address.is_loopback() && !address.is_unicast_link_local() && !address.is_unspecified()
        }
    }
}
