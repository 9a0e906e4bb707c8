//! From where to where a probe goes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;

use crate::lab::{Namespace, Pod};

/// How long a probe waits for a packet that should come.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);

/// A client in one namespace, a server in another; the client may know the server by another address, a service's.
#[derive(Debug, Clone, Copy)]
pub struct Path<'a> {
    /// Where the client runs.
    pub client: &'a Namespace,
    /// The client binds its socket to this address, where it is to have another than the kernel's choice.
    pub from: Option<IpAddr>,
    /// Where the server runs.
    pub server: &'a Namespace,
    /// Where the server listens; port 0 is any free one.
    pub listen: SocketAddr,
    /// What the client sends to; none is where the server listens.
    pub service: Option<SocketAddr>,
}

impl<'a> Path<'a> {
    /// To a server at any free port of `address`.
    pub fn new(client: &'a Namespace, server: &'a Namespace, address: IpAddr) -> Self {
        Self { client, from: None, server, listen: (address, 0).into(), service: None }
    }

    /// Between two pods, at the server's address of that family.
    pub fn between(client: &'a Pod, server: &'a Pod, family: Family) -> anyhow::Result<Self> {
        Ok(Self::new(client.namespace(), server.namespace(), family.of(server)?))
    }

    /// To a server that listens at `listen` and is known as `service`.
    pub fn by_service(
        client: &'a Namespace,
        service: SocketAddr,
        server: &'a Namespace,
        listen: SocketAddr,
    ) -> Self {
        Self { client, from: None, server, listen, service: Some(service) }
    }

    /// What a client sends to if the server listens at `listening`.
    pub(super) fn target(&self, listening: SocketAddr) -> SocketAddr {
        self.service.unwrap_or(listening)
    }

    /// The address that a client's socket is bound to.
    pub(super) fn bind_address(&self) -> SocketAddr {
        let any = if self.listen.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let any = any.parse().unwrap_or(self.listen);
        self.from.map_or(any, |address| (address, 0).into())
    }
}

/// An IP family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// Its name in a test's cell.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }

    /// Whether the address is of this family.
    pub fn is(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }

    /// A pod's address of this family.
    pub fn of(self, pod: &Pod) -> anyhow::Result<IpAddr> {
        let address = pod.addresses().find(|address| self.is(*address));
        address.with_context(|| format!("{} has no {} address", pod.label(), self.name()))
    }

    /// The first of these addresses that is of this family.
    pub fn pick(self, addresses: impl IntoIterator<Item = IpAddr>) -> anyhow::Result<IpAddr> {
        let found = addresses.into_iter().find(|address| self.is(*address));
        found.with_context(|| format!("no {} address", self.name()))
    }

    /// The length of the header, without options.
    pub fn header_len(self) -> usize {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }
}
