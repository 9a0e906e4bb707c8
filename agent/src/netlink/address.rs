//! Addresses of devices.

use std::net::IpAddr;

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use ipnetwork::IpNetwork;
use nix::errno::Errno;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::{AddressMessageBuilder, packet_route::AddressFamily};

use super::Netlink;
use super::error::{to_io, tolerate};

impl Netlink {
    /// Every address of the namespace with its device's index. The network keeps the address's host bits.
    pub async fn addresses(&self) -> anyhow::Result<Vec<(u32, IpNetwork)>> {
        let _one_at_a_time = self.dumping.lock().await;
        let messages: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(to_io)
            .context("listing the addresses")?;
        Ok(messages.iter().filter_map(from_message).collect())
    }

    /// Gives a device an address. Fine when it has it already. IPv6 addresses are usable at once: nobody else can
    /// have an address that we hand out, so duplicate address detection would only delay pods.
    pub async fn add_address(&self, ifindex: u32, address: IpNetwork) -> anyhow::Result<()> {
        let mut request = self.handle.address().add(ifindex, address.ip(), address.prefix());
        *request.message_mut() = message(ifindex, address);
        tolerate(request.execute().await, &[Errno::EEXIST])
            .with_context(|| format!("adding address {address} to the device with index {ifindex}"))
    }

    /// Takes an address from a device. Fine when the address or the device is gone already.
    pub async fn delete_address(&self, ifindex: u32, address: IpNetwork) -> anyhow::Result<()> {
        let message = message(ifindex, address);
        tolerate(self.handle.address().del(message).execute().await, &[Errno::EADDRNOTAVAIL, Errno::ENODEV])
            .with_context(|| format!("deleting address {address} of the device with index {ifindex}"))
    }
}

/// An address of a device's; an IPv6 one is not asked for first, as nobody else can have it.
pub(super) fn message(ifindex: u32, address: IpNetwork) -> AddressMessage {
    match address {
        IpNetwork::V4(v4) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
            .index(ifindex)
            .address(v4.ip(), v4.prefix())
            .build(),
        IpNetwork::V6(v6) => {
            let mut message = AddressMessageBuilder::<std::net::Ipv6Addr>::new()
                .index(ifindex)
                .address(v6.ip(), v6.prefix())
                .build();
            message.header.flags |= AddressHeaderFlags::Nodad;
            message
        }
    }
}

fn from_message(message: &AddressMessage) -> Option<(u32, IpNetwork)> {
    // On a point-to-point device the local address is the device's own; elsewhere IPv6 has only the other one.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    Some((message.header.index, IpNetwork::new(address, message.header.prefix_len).ok()?))
}

/// The address family of an address, in netlink's words.
pub(super) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
