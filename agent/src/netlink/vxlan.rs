//! Flow-based VXLAN devices: one for all peers, each packet brings its tunnel's remote end along.

use anyhow::{Context as _, anyhow};
use nix::errno::Errno;
use rtnetlink::packet_route::link::InfoVxlan;
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVxlan};

use super::error::to_io;
use super::{Link, Netlink, is_errno};

/// What is particular about a VXLAN device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vxlan {
    /// The UDP port it listens and sends to.
    pub port: u16,
    /// Flow-based ("external").
    pub collect_metadata: bool,
    /// It takes IPv6 packets without a UDP checksum (RFC 6935), which programs send.
    pub zero_checksums: bool,
}

impl Vxlan {
    pub(super) fn from_infos(infos: &[InfoVxlan]) -> Self {
        let mut vxlan = Self::default();
        for info in infos {
            match info {
                InfoVxlan::Port(port) => vxlan.port = *port,
                InfoVxlan::CollectMetadata(on) => vxlan.collect_metadata = *on,
                InfoVxlan::UDPZeroCsumRX(on) => vxlan.zero_checksums = *on,
                _ => {}
            }
        }
        vxlan
    }
}

impl Netlink {
    /// Creates a flow-based VXLAN device and returns it. It is down, and learns nothing.
    pub async fn create_vxlan(&self, name: &str, mac: [u8; 6], mtu: u32, port: u16) -> anyhow::Result<Link> {
        let message = LinkMessageBuilder::<LinkVxlan>::new(name)
            .append_info_data(InfoVxlan::CollectMetadata(true))
            .append_info_data(InfoVxlan::Learning(false))
            .append_info_data(InfoVxlan::UDPZeroCsumRX(true))
            .port(port)
            .address(mac.to_vec())
            .mtu(mtu)
            .build();
        let result = self.handle.link().add(message).execute().await.map_err(to_io);
        result
            .with_context(|| format!("creating the VXLAN device {name}"))
            .map_err(|error| taken(error, port))?;
        let link = self.link_by_name(name).await?;
        link.ok_or_else(|| anyhow!("device {name} vanished right after it was created"))
    }

    /// Brings a VXLAN device up, which is when it takes its UDP port.
    pub async fn set_vxlan_up(&self, link: &Link, port: u16) -> anyhow::Result<()> {
        self.set_up(link.index).await.map_err(|error| taken(error, port))
    }

    /// Changes a device's MTU.
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> anyhow::Result<()> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu).build();
        let result = self.handle.link().set(message).execute().await;
        result
            .map_err(to_io)
            .with_context(|| format!("setting the MTU of the device with index {index} to {mtu}"))
    }
}

/// The kernel refuses a second flow-based device on a port when it is made or when it is brought up.
fn taken(error: anyhow::Error, port: u16) -> anyhow::Error {
    if is_errno(&error, Errno::EADDRINUSE) || is_errno(&error, Errno::EEXIST) {
        error.context(format!(
            "UDP port {port} is taken, perhaps by another VXLAN device: set vxlanPort to another one on every node"
        ))
    } else {
        error
    }
}
