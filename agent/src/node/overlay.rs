//! The overlay device: one flow-based VXLAN device for every tunnel of either family, there only while it is needed.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::bail;
use dataplane_common::Hook;
use ipnetwork::IpNetwork;

use super::{NodeTask, ledger::Ledger, sysctl};
use crate::{
    cluster::Node,
    datapath::Device,
    netlink::{Link, Vxlan},
    pods::gateway,
};

/// Its name.
pub const OVERLAY_DEVICE: &str = "podlane.vxlan";

/// The device as it should be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) mac: [u8; 6],
    pub(super) mtu: u32,
    pub(super) port: u16,
}

impl NodeTask {
    /// Creates, adopts or changes the device, with its programs attached before a packet can pass it.
    pub(super) async fn ensure_overlay(
        &self,
        links: &[Link],
        wanted: Wanted,
        ledger: &mut Ledger,
    ) -> anyhow::Result<Link> {
        let found = links.iter().any(|link| link.name == OVERLAY_DEVICE && fits(link, wanted));
        let mut link = match links.iter().find(|link| link.name == OVERLAY_DEVICE) {
            Some(link) if link.kind.as_deref() != Some("vxlan") => {
                bail!(
                    "device {OVERLAY_DEVICE} exists and is not a VXLAN device: remove it, the agent makes its own"
                )
            }
            Some(link) if fits(link, wanted) => link.clone(),
            other => {
                if let Some(former) = other {
                    self.remove_overlay_device(former).await?;
                }
                let Wanted { mac, mtu, port } = wanted;
                let link = self.netlink.create_vxlan(OVERLAY_DEVICE, mac, mtu, port).await?;
                tracing::info!(device = OVERLAY_DEVICE, mtu, port, "overlay device created");
                link
            }
        };
        if link.mtu != wanted.mtu {
            self.netlink.set_mtu(link.index, wanted.mtu).await?;
            tracing::info!(
                device = OVERLAY_DEVICE,
                from = link.mtu,
                to = wanted.mtu,
                "MTU of the overlay changed"
            );
            link.mtu = wanted.mtu;
        }
        ledger.keep(format_args!("the device {OVERLAY_DEVICE}"), found, "made anew");
        sysctl::prepare_overlay(OVERLAY_DEVICE, link.index, ledger)?;
        for hook in self.datapath.hooks(Device::Overlay) {
            self.ensure_attached(hook, &link, ledger).await?;
        }
        if !link.up {
            self.netlink.set_vxlan_up(&link, wanted.port).await?;
            link.up = true;
        }
        Ok(link)
    }

    /// Gives the device the node's IPv4 gateway addresses, as `lo` has them: on a device without any, the kernel takes
    /// `rp_filter=2` for 1, and drops what comes from a node's own address.
    pub(super) async fn address_overlay(
        &self,
        overlay: &Link,
        node: &Node,
        addresses: &[(u32, IpNetwork)],
        ledger: &mut Ledger,
    ) -> anyhow::Result<()> {
        let wanted: Vec<IpAddr> = node.pod_cidrs.iter().filter(|cidr| cidr.is_ipv4()).map(gateway).collect();
        let present = || {
            addresses
                .iter()
                .filter(|(index, network)| *index == overlay.index && network.is_ipv4())
                .map(|(_, network)| network.ip())
        };
        for address in &wanted {
            let found = present().any(|present| present == *address);
            if !found {
                self.netlink.add_address(overlay.index, IpNetwork::from(*address)).await?;
            }
            let thing = format!("the address {address} on {} (index {})", overlay.name, overlay.index);
            ledger.keep(thing, found, "added again");
        }
        for former in present().filter(|address| !wanted.contains(address)) {
            self.netlink.delete_address(overlay.index, IpNetwork::from(former)).await?;
        }
        Ok(())
    }

    /// Removes the device, if it is there.
    pub(super) async fn remove_overlay(&self, links: &[Link]) -> anyhow::Result<()> {
        if let Some(link) = find(links) {
            self.remove_overlay_device(link).await?;
            tracing::info!(device = OVERLAY_DEVICE, "overlay device removed: no node needs it");
        }
        Ok(())
    }

    async fn remove_overlay_device(&self, link: &Link) -> anyhow::Result<()> {
        for hook in [Hook::FromOverlay, Hook::ToWire] {
            self.datapath.detach(hook, OVERLAY_DEVICE)?;
        }
        self.netlink.delete_link(link.index).await
    }

    /// Makes the device's permanent neighbours be these: the slow path's next hops. What the kernel refuses is a
    /// problem, and the rest is done.
    pub(super) async fn write_neighbours(
        &self,
        overlay: &Link,
        wanted: &BTreeMap<IpAddr, [u8; 6]>,
        problems: &mut Vec<String>,
        ledger: &mut Ledger,
    ) -> anyhow::Result<()> {
        let mut present = BTreeMap::new();
        for (ifindex, address, mac) in self.netlink.permanent_neighbours().await? {
            if ifindex == overlay.index {
                present.insert(address, mac);
            }
        }
        for (address, mac) in wanted {
            let found = present.get(address) == Some(mac);
            if !found
                && let Err(error) =
                    self.netlink.replace_permanent_neighbour(overlay.index, *address, *mac).await
            {
                problems.push(format!("{error:#}"));
                continue;
            }
            let thing = format!("the neighbour {address} on {} (index {})", overlay.name, overlay.index);
            ledger.keep(thing, found, "entered again");
        }
        for former in present.keys().filter(|address| !wanted.contains_key(*address)) {
            // The kernel's own entries for multicast groups are permanent too.
            if !former.is_multicast() {
                self.netlink.delete_neighbour(overlay.index, *former).await?;
            }
        }
        Ok(())
    }
}

/// The device among these.
pub(super) fn find(links: &[Link]) -> Option<&Link> {
    links.iter().find(|link| link.name == OVERLAY_DEVICE && link.kind.as_deref() == Some("vxlan"))
}

/// What cannot be changed while the device lives is as it should be.
fn fits(link: &Link, wanted: Wanted) -> bool {
    link.mac == Some(wanted.mac)
        && link.vxlan == Some(Vxlan { port: wanted.port, collect_metadata: true, zero_checksums: true })
}
