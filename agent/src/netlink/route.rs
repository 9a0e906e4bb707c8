//! Podlane's routes, in the main table and one of its own. Other daemons' routes are never listed and never deleted.

use std::fmt;
use std::net::IpAddr;

use anyhow::Context as _;
use ipnetwork::IpNetwork;
use nix::errno::Errno;
use rtnetlink::packet_core::NLM_F_DUMP;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteScope as KernelScope, RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::error::{to_io, tolerate};
use super::exchange::{Answer, Exchange};
use super::{Encap, Netlink};

/// `rtm_protocol` of every route that Podlane owns.
pub const ROUTE_PROTOCOL: u8 = 80;
/// Podlane's own routing table: what packets from pods are routed by first, see [`super::Rule`].
pub const PEER_TABLE: u8 = 80;
/// The metric that the kernel gives an IPv6 route which was added without one.
const IPV6_DEFAULT_METRIC: u32 = 1024;

/// The tables that Podlane's routes are in.
const TABLES: [u8; 2] = [RouteHeader::RT_TABLE_MAIN, PEER_TABLE];

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// Send it on.
    Unicast,
    /// Answer "unreachable".
    Unreachable,
}

/// How far away a route's destination is. IPv4 only: the kernel knows no scopes for IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteScope {
    /// Behind a gateway, or of no matter.
    Universe,
    /// On the device itself.
    Link,
}

/// Table, destination and metric.
pub type RoutePlace = (u8, IpNetwork, Option<u32>);

/// One of Podlane's routes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Where to.
    pub destination: IpNetwork,
    /// What to do.
    pub kind: RouteKind,
    /// The next hop, if the destination is not on the device itself.
    pub gateway: Option<IpAddr>,
    /// The device to leave by.
    pub ifindex: Option<u32>,
    /// The node's own packets take this source address.
    pub source: Option<IpAddr>,
    /// Lower wins. `None` is the kernel's default.
    pub metric: Option<u32>,
    /// The gateway is reachable on the device although no other route says so.
    pub on_link: bool,
    /// Path MTU.
    pub mtu: Option<u32>,
    /// IPv4 only.
    pub scope: RouteScope,
    /// Through a tunnel.
    pub encap: Option<Encap>,
    /// The routing table: main, or [`PEER_TABLE`].
    pub table: u8,
}

impl Route {
    /// A plain route out of a device: to fill in with `..`.
    pub fn to_device(destination: IpNetwork, ifindex: u32) -> Self {
        let scope = if destination.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
        Self {
            destination,
            kind: RouteKind::Unicast,
            gateway: None,
            ifindex: Some(ifindex),
            source: None,
            metric: None,
            on_link: false,
            mtu: None,
            scope,
            encap: None,
            table: RouteHeader::RT_TABLE_MAIN,
        }
    }

    /// A route through a gateway on a device.
    pub fn via(destination: IpNetwork, gateway: IpAddr, ifindex: u32) -> Self {
        Self { gateway: Some(gateway), scope: RouteScope::Universe, ..Self::to_device(destination, ifindex) }
    }

    /// An `unreachable` route.
    pub fn unreachable(destination: IpNetwork) -> Self {
        Self {
            kind: RouteKind::Unreachable,
            ifindex: None,
            scope: RouteScope::Universe,
            ..Self::to_device(destination, 0)
        }
    }

    /// What the kernel tells routes apart by: one replaces another in the same place.
    #[must_use]
    pub const fn place(&self) -> RoutePlace {
        (self.table, self.destination, self.metric)
    }

    /// The form in which [`Netlink::routes`] reports this route once it is installed: compare these.
    #[must_use]
    pub fn canonical(mut self) -> Self {
        if self.destination.is_ipv6() {
            self.scope = RouteScope::Universe;
            self.metric = self.metric.filter(|metric| *metric != IPV6_DEFAULT_METRIC);
        } else {
            self.metric = self.metric.filter(|metric| *metric != 0);
        }
        if self.kind == RouteKind::Unreachable {
            // The kernel puts IPv6's on `lo`, IPv4's nowhere.
            self.ifindex = None;
        }
        if let Ok(network) = IpNetwork::new(self.destination.network(), self.destination.prefix()) {
            self.destination = network;
        }
        self
    }

    pub(super) fn to_message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = super::address::family(self.destination.ip());
        header.destination_prefix_length = self.destination.prefix();
        header.table = self.table;
        header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
        header.kind = match self.kind {
            RouteKind::Unicast => RouteType::Unicast,
            RouteKind::Unreachable => RouteType::Unreachable,
        };
        header.scope = match self.scope {
            RouteScope::Link if self.destination.is_ipv4() => KernelScope::Link,
            _ => KernelScope::Universe,
        };
        if self.on_link {
            header.flags |= RouteFlags::Onlink;
        }
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Destination(self.destination.network().into()));
        match self.gateway {
            Some(IpAddr::V6(gateway)) if self.destination.is_ipv4() => {
                attributes.push(RouteAttribute::Via(RouteVia::Inet6(gateway)));
            }
            Some(gateway) => attributes.push(RouteAttribute::Gateway(gateway.into())),
            None => {}
        }
        attributes.extend(self.ifindex.map(RouteAttribute::Oif));
        attributes.extend(self.source.map(|source| RouteAttribute::PrefSource(source.into())));
        attributes.extend(self.metric.map(RouteAttribute::Priority));
        attributes.extend(self.mtu.map(|mtu| RouteAttribute::Metrics(self.metrics(mtu))));
        attributes.extend(self.encap.into_iter().flat_map(Encap::to_attributes));
        message
    }

    /// When it forwards, the kernel heeds an IPv6 route's MTU only where it is locked.
    fn metrics(&self, mtu: u32) -> Vec<RouteMetric> {
        /// `1 << RTAX_MTU` (`linux/rtnetlink.h`).
        const MTU: u32 = 1 << 2;
        let lock = self.encap.is_some() && self.destination.is_ipv6();
        lock.then_some(RouteMetric::Lock(MTU)).into_iter().chain([RouteMetric::Mtu(mtu)]).collect()
    }

    /// `None` for a route of another kind than Podlane's, or of somebody else.
    pub(super) fn from_message(message: &RouteMessage) -> Option<Self> {
        if !is_ours(message) {
            return None;
        }
        let header = &message.header;
        let kind = match header.kind {
            RouteType::Unicast => RouteKind::Unicast,
            RouteType::Unreachable => RouteKind::Unreachable,
            _ => return None,
        };
        let unspecified: IpAddr = match header.address_family {
            AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
            AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        let scope = if header.scope == KernelScope::Link { RouteScope::Link } else { RouteScope::Universe };
        // A default route carries no destination.
        let mut route = Self { kind, scope, ..Self::to_device(IpNetwork::new(unspecified, 0).ok()?, 0) };
        route.ifindex = None;
        route.table = header.table;
        route.on_link = header.flags.contains(RouteFlags::Onlink);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => {
                    route.destination =
                        IpNetwork::new(ip(address)?, header.destination_prefix_length).ok()?;
                }
                RouteAttribute::Gateway(address) => route.gateway = ip(address),
                RouteAttribute::Via(RouteVia::Inet6(address)) => route.gateway = Some((*address).into()),
                RouteAttribute::Oif(index) => route.ifindex = Some(*index),
                RouteAttribute::PrefSource(address) => route.source = ip(address),
                RouteAttribute::Priority(metric) => route.metric = Some(*metric),
                RouteAttribute::Encap(parts) => route.encap = Encap::from_parts(parts),
                RouteAttribute::Metrics(metrics) => {
                    route.mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        Some(route.canonical())
    }
}

fn list() -> std::io::Result<Vec<Route>> {
    let mut routes = Vec::new();
    let mut exchange = Exchange::open()?;
    let families = [AddressFamily::Inet, AddressFamily::Inet6];
    for (family, table) in families.into_iter().flat_map(|family| TABLES.map(|table| (family, table))) {
        let mut filter = RouteMessage::default();
        filter.header.address_family = family;
        filter.header.table = table;
        filter.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
        let mut result = Ok(());
        exchange.exchange(vec![(Message::GetRoute(filter), NLM_F_DUMP)], |_, answer| match answer {
            Answer::Message(Message::NewRoute(route)) => routes.extend(Route::from_message(&route)),
            Answer::Message(_) => {}
            // Filtered to nothing: the table does not exist before its first route.
            Answer::Ended(Err(error)) if error.raw_os_error() == Some(Errno::ENOENT as i32) => {}
            Answer::Ended(ended) => result = ended,
        })?;
        result?;
    }
    Ok(routes)
}

/// Whether a route of one of our tables carries Podlane's protocol.
pub(super) fn is_ours(message: &RouteMessage) -> bool {
    message.header.protocol == RouteProtocol::from(ROUTE_PROTOCOL) && TABLES.contains(&message.header.table)
}

/// The address of a route's attribute.
pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind == RouteKind::Unreachable {
            write!(f, "unreachable ")?;
        }
        write!(f, "{}", self.destination)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if let Some(ifindex) = self.ifindex {
            write!(f, " on the device with index {ifindex}")?;
        }
        if let Some(Encap { remote, .. }) = self.encap {
            write!(f, " through the overlay to {remote}")?;
        }
        if self.table == PEER_TABLE {
            write!(f, " in table {PEER_TABLE}")?;
        }
        Ok(())
    }
}

impl Netlink {
    /// Podlane's routes (protocol 80) in the main table and its own, both families. The kernel filters: other daemons may keep
    /// a million routes there.
    pub async fn routes(&self) -> anyhow::Result<Vec<Route>> {
        let netlink = self.clone();
        let listing = tokio::task::spawn_blocking(move || netlink.within_namespace(list));
        listing.await.context("the listing died")??.context("listing Podlane's routes")
    }

    /// Installs a route, in the place of one with the same destination and metric.
    pub async fn replace_route(&self, route: &Route) -> anyhow::Result<()> {
        let result = self.handle.route().add(route.to_message()).replace().execute().await;
        result.map_err(to_io).with_context(|| format!("installing route {route}"))
    }

    /// Removes one of Podlane's routes. Fine when it or its device is gone already.
    pub async fn delete_route(&self, route: &Route) -> anyhow::Result<()> {
        let mut message = route.to_message();
        // Enough to find it: the kernel compares what is given, and not-given matches everything.
        message.header.scope = KernelScope::NoWhere;
        message.attributes.retain(|attribute| {
            use RouteAttribute::{Encap, EncapType, Metrics};
            !matches!(attribute, Metrics(_) | Encap(_) | EncapType(_))
        });
        let result = self.handle.route().del(message).execute().await;
        tolerate(result, &[Errno::ESRCH, Errno::ENODEV]).with_context(|| format!("deleting route {route}"))
    }
}
