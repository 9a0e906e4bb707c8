//! Links: look-ups, changes, removal.

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use nix::errno::Errno;
use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::link::{
    InfoData, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};

use super::error::{to_io, tolerate};
use super::{Netlink, Vxlan};

/// A network device as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it within its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address; devices without one (a tunnel) have none.
    pub mac: Option<[u8; 6]>,
    /// The largest packet it takes.
    pub mtu: u32,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// The loopback device.
    pub loopback: bool,
    /// `veth`, `vxlan`, …; plain hardware has none.
    pub kind: Option<String>,
    /// What `ip link set … alias` shows.
    pub alias: Option<String>,
    /// What is particular about a VXLAN device.
    pub vxlan: Option<Vxlan>,
    /// The device it hangs on: a veth's other end (numbered in *its* namespace), a tunnel's lower device.
    pub peer: Option<u32>,
}

impl Netlink {
    /// The link with this name, if there is one.
    pub async fn link_by_name(&self, name: &str) -> anyhow::Result<Option<Link>> {
        let request = self.handle.link().get().match_name(name).execute();
        one(request).await.with_context(|| format!("looking for device {name}"))
    }

    /// The link with this index, if there is one.
    pub async fn link_by_index(&self, index: u32) -> anyhow::Result<Option<Link>> {
        let request = self.handle.link().get().match_index(index).execute();
        one(request).await.with_context(|| format!("looking for the device with index {index}"))
    }

    /// Every link of the namespace.
    pub async fn links(&self) -> anyhow::Result<Vec<Link>> {
        let _one_at_a_time = self.dumping.lock().await;
        let messages: Vec<LinkMessage> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(to_io)
            .context("listing the devices")?;
        Ok(messages.iter().map(Link::from_message).collect())
    }

    /// Removes a device. Fine when it is gone already.
    pub async fn delete_link(&self, index: u32) -> anyhow::Result<()> {
        let result = self.handle.link().del(index).execute().await;
        tolerate(result, &[Errno::ENODEV]).with_context(|| format!("deleting the device with index {index}"))
    }

    /// Brings a device up.
    pub async fn set_up(&self, index: u32) -> anyhow::Result<()> {
        let message = LinkUnspec::new_with_index(index).up().build();
        let result = self.handle.link().set(message).execute().await;
        result.map_err(to_io).with_context(|| format!("bringing up the device with index {index}"))
    }

    /// Changes a device's Ethernet address.
    pub async fn set_mac(&self, index: u32, mac: [u8; 6]) -> anyhow::Result<()> {
        let message = LinkUnspec::new_with_index(index).address(mac.to_vec()).build();
        let result = self.handle.link().set(message).execute().await;
        result
            .map_err(to_io)
            .with_context(|| format!("setting the Ethernet address of the device with index {index}"))
    }
}

/// The only message of a look-up, or none where the kernel says that there is no such device.
async fn one(
    messages: impl futures_util::Stream<Item = Result<LinkMessage, rtnetlink::Error>>,
) -> anyhow::Result<Option<Link>> {
    let mut messages = std::pin::pin!(messages);
    match messages.try_next().await.map_err(to_io) {
        Ok(message) => Ok(message.as_ref().map(Link::from_message)),
        Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Link {
    /// Whether it is a veth with this Ethernet address.
    pub fn is_veth(&self, mac: [u8; 6]) -> bool {
        self.kind.as_deref() == Some("veth") && self.mac == Some(mac)
    }

    pub(super) fn from_message(message: &LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Link {
            index: message.header.index,
            name: String::new(),
            mac: None,
            mtu: 0,
            up: flags.contains(LinkFlags::Up),
            loopback: flags.contains(LinkFlags::Loopback),
            kind: None,
            alias: None,
            vxlan: None,
            peer: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
                LinkAttribute::Link(index) => link.peer = Some(*index),
                LinkAttribute::Address(mac) if message.header.link_layer_type == LinkLayerType::Ether => {
                    link.mac = mac.as_slice().try_into().ok();
                }
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                    link.vxlan = infos.iter().find_map(|info| match info {
                        LinkInfo::Data(InfoData::Vxlan(infos)) => Some(Vxlan::from_infos(infos)),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link
    }
}
