//! Permanent neighbours: who owns an address, without asking.

use std::net::IpAddr;

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use nix::errno::Errno;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};

use super::Netlink;
use super::address::family;
use super::error::{to_io, tolerate};

impl Netlink {
    /// Makes `address` on the device permanently known as `mac`, whatever was there before.
    pub async fn replace_permanent_neighbour(
        &self,
        ifindex: u32,
        address: IpAddr,
        mac: [u8; 6],
    ) -> anyhow::Result<()> {
        let mut request = self.handle.neighbours().add(ifindex, address).replace();
        *request.message_mut() = permanent(ifindex, address, mac);
        request
            .execute()
            .await
            .map_err(to_io)
            .with_context(|| format!("adding neighbour {address} to the device with index {ifindex}"))
    }

    /// Forgets a neighbour. Fine when it or the device is gone already.
    pub async fn delete_neighbour(&self, ifindex: u32, address: IpAddr) -> anyhow::Result<()> {
        let message = message(ifindex, address);
        let result = self.handle.neighbours().del(message).execute().await;
        tolerate(result, &[Errno::ENOENT, Errno::ENODEV, Errno::ENXIO])
            .with_context(|| format!("deleting neighbour {address} of the device with index {ifindex}"))
    }

    /// The permanent neighbours of the namespace: device index, address, Ethernet address.
    pub async fn permanent_neighbours(&self) -> anyhow::Result<Vec<(u32, IpAddr, [u8; 6])>> {
        let _one_at_a_time = self.dumping.lock().await;
        let messages: Vec<NeighbourMessage> = self
            .handle
            .neighbours()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(to_io)
            .context("listing the neighbours")?;
        Ok(messages
            .iter()
            .filter(|message| message.header.state == NeighbourState::Permanent)
            .filter_map(from_message)
            .collect())
    }
}

/// The order for a permanent neighbour.
pub(super) fn permanent(ifindex: u32, address: IpAddr, mac: [u8; 6]) -> NeighbourMessage {
    let mut message = message(ifindex, address);
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    message
}

fn message(ifindex: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = ifindex;
    message.attributes.push(NeighbourAttribute::Destination(match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    }));
    message
}

fn from_message(message: &NeighbourMessage) -> Option<(u32, IpAddr, [u8; 6])> {
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    Some((message.header.ifindex, address?, mac?))
}
