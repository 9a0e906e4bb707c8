//! Which way the kernel would send a packet: `ip route get`.

use std::net::IpAddr;

use anyhow::{Context as _, anyhow, bail};
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia};

use super::Netlink;
use super::error::to_io;
use super::route::ip;

/// The kernel's way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The device to leave by.
    pub ifindex: u32,
    /// The router to hand the packet to; `None` when the destination itself is on the device's network.
    pub gateway: Option<IpAddr>,
    /// The source address that the node's own packets would take.
    pub source: Option<IpAddr>,
    /// The largest packet that fits the path, where the route says so or routers have: the latter for ten minutes.
    pub mtu: Option<u32>,
}

impl Netlink {
    /// Asks the kernel's FIB for the way to `address`. An error where there is none (`ENETUNREACH`, …).
    pub async fn resolve(&self, address: IpAddr) -> anyhow::Result<NextHop> {
        self.lookup(address).await.with_context(|| format!("asking the kernel for the route to {address}"))
    }

    async fn ask(&self, address: IpAddr) -> anyhow::Result<RouteMessage> {
        let mut answers = std::pin::pin!(self.handle.route().get(question(address)).execute());
        let answer = answers.try_next().await.map_err(to_io)?;
        answer.ok_or_else(|| anyhow!("the kernel did not answer"))
    }

    async fn lookup(&self, address: IpAddr) -> anyhow::Result<NextHop> {
        let answer = self.ask(address).await?;
        match answer.header.kind {
            RouteType::Unicast => {}
            RouteType::Local => bail!("{address} is one of this node's own addresses"),
            other => bail!("the route is of type {other:?}"),
        }
        let mut ifindex = None;
        let mut gateway = None;
        let mut source = None;
        let mut mtu = None;
        for attribute in &answer.attributes {
            match attribute {
                RouteAttribute::Oif(index) => ifindex = Some(*index),
                RouteAttribute::Gateway(address) => gateway = ip(address),
                RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some((*address).into()),
                RouteAttribute::PrefSource(address) => source = ip(address),
                RouteAttribute::Metrics(metrics) => {
                    mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        let ifindex = ifindex.ok_or_else(|| anyhow!("the route names no device"))?;
        Ok(NextHop { ifindex, gateway, source, mtu })
    }
}

/// The question for the way to an address.
pub(super) fn question(address: IpAddr) -> RouteMessage {
    let mut question = RouteMessage::default();
    question.header.address_family = super::address::family(address);
    question.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
    question.attributes.push(RouteAttribute::Destination(address.into()));
    question
}
