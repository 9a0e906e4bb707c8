//! The devices towards the other nodes.

use std::net::IpAddr;

use anyhow::{bail, ensure};
use ipnetwork::IpNetwork;

use crate::netlink::Link;

/// The uplinks: those that are configured, else every device that carries one of the node's addresses.
///
/// # Errors
/// Names what is missing: a configured device, or any device with one of the addresses.
pub(super) fn find(
    configured: &[String],
    node: &str,
    node_addresses: &[IpAddr],
    links: &[Link],
    addresses: &[(u32, IpNetwork)],
) -> anyhow::Result<Vec<Link>> {
    if !configured.is_empty() {
        let mut found = Vec::new();
        for name in configured {
            let Some(link) = links.iter().find(|link| link.name == *name) else {
                bail!("uplink {name} does not exist: correct uplinks, or leave it out to have it found");
            };
            found.push(link.clone());
        }
        return Ok(found);
    }
    let carries = |link: &&Link| {
        !link.loopback
            && addresses
                .iter()
                .any(|(index, network)| *index == link.index && node_addresses.contains(&network.ip()))
    };
    let found: Vec<Link> = links.iter().filter(carries).cloned().collect();
    let listed = node_addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    ensure!(
        !found.is_empty(),
        "no device carries an address of node {node} ({listed}): correct the cluster's addresses, or set uplinks"
    );
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::testing;

    fn link(index: u32, name: &str) -> Link {
        testing::link(index, name, 1500)
    }

    #[test]
    fn the_uplink_is_the_device_with_the_nodes_address() {
        let links = [link(1, "lo"), link(2, "eth0"), link(3, "eth1")];
        let addresses = [(2, "172.16.0.1/24".parse().unwrap()), (3, "192.168.1.11/24".parse().unwrap())];
        let found = find(&[], "node1", &["192.168.1.11".parse().unwrap()], &links, &addresses).unwrap();
        assert_eq!(found, [link(3, "eth1")]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let links = [link(1, "lo")];
        let address = "192.168.1.11".parse().unwrap();
        let error = find(&[], "node1", &[address], &links, &[]).unwrap_err().to_string();
        assert!(error.contains("no device carries an address of node node1 (192.168.1.11)"), "{error}");
        let error = find(&["eth7".into()], "node1", &[address], &links, &[]).unwrap_err().to_string();
        assert!(error.contains("uplink eth7 does not exist"), "{error}");
    }
}
