//! Services as kube-proxy and the portmap plugin make them: rules in the nodes' netfilter.

mod iptables;
mod nftables;

use std::net::{IpAddr, SocketAddr};

use crate::lab::{Node, Pod};
use crate::probe::path::Family;

/// Which tool the rules are made by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// `iptables-nft-restore`.
    IptablesNft,
    /// `iptables-legacy-restore`.
    IptablesLegacy,
    /// `nft`.
    Nftables,
}

impl Rules {
    /// Its name in a test's cell.
    pub fn name(self) -> &'static str {
        match self {
            Self::IptablesNft => "iptables-nft",
            Self::IptablesLegacy => "iptables-legacy",
            Self::Nftables => "nftables",
        }
    }
}

/// What the service is offered over.
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// Service port of the cluster IP.
const SERVICE_PORT: u16 = 80;
/// Port of every node.
const NODE_PORT: u16 = 30080;
/// Port of the backend's node.
const HOST_PORT: u16 = 8081;
/// Where the backend listens.
const BACKEND_PORT: u16 = 8080;

/// A service in one family, over TCP, UDP and SCTP, with one backend.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    family: Family,
    backend: IpAddr,
}

impl Service {
    /// With that pod as the backend.
    pub fn of(backend: &Pod, family: Family) -> anyhow::Result<Self> {
        Ok(Self { family, backend: family.of(backend)? })
    }

    /// Where the backend listens.
    pub fn listen(&self) -> SocketAddr {
        (self.backend, BACKEND_PORT).into()
    }

    /// Its cluster IP and port.
    pub fn cluster_ip(&self) -> SocketAddr {
        let address: IpAddr = match self.family {
            Family::V4 => [10u8, 96, 0, 10].into(),
            Family::V6 => [0xfd00u16, 0x96, 0, 0, 0, 0, 0, 0x10].into(),
        };
        (address, SERVICE_PORT).into()
    }

    /// Its node port at a node.
    pub fn node_port(&self, node: &Node) -> anyhow::Result<SocketAddr> {
        Ok((self.family.pick(node.addresses())?, NODE_PORT).into())
    }

    /// The backend's host port at its node.
    pub fn host_port(&self, node: &Node) -> anyhow::Result<SocketAddr> {
        Ok((self.family.pick(node.addresses())?, HOST_PORT).into())
    }

    /// All pod addresses of the lab's nodes.
    fn cluster_cidr(&self) -> &'static str {
        match self.family {
            Family::V4 => "10.244.0.0/16",
            Family::V6 => "fd00:244::/32",
        }
    }

    /// The backend's address with its port behind it.
    fn backend(&self) -> SocketAddr {
        self.listen()
    }

    /// Sets a node's rules; `host_port` on the backend's node.
    pub fn set(&self, rules: Rules, node: &Node, host_port: bool) -> anyhow::Result<()> {
        match rules {
            Rules::IptablesNft => iptables::set(self, "nft", node, host_port),
            Rules::IptablesLegacy => iptables::set(self, "legacy", node, host_port),
            Rules::Nftables => nftables::set(self, node, host_port),
        }
    }
}
