//! A pod: a network namespace that a CNI plugin attached to its node's network.

use std::net::{IpAddr, Ipv4Addr};

use super::{Namespace, Node, cni};
use crate::Run;

/// The device name runtimes ask for.
pub(super) const IF_NAME: &str = "eth0";

/// An attached pod.
#[derive(Debug, Clone)]
pub struct Pod {
    name: String,
    node: String,
    container_id: String,
    namespace: Namespace,
    result: cni::Success,
}

impl PartialEq for Pod {
    fn eq(&self, other: &Self) -> bool {
        self.container_id == other.container_id
    }
}

impl Pod {
    pub(super) fn new(node: &Node, name: &str, sandbox: Sandbox, result: cni::Success) -> Self {
        Self {
            name: name.to_owned(),
            node: node.name().to_owned(),
            container_id: sandbox.container_id,
            namespace: sandbox.namespace,
            result,
        }
    }

    /// Its name, unique on its node.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its node's name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Node and pod, to show.
    pub fn label(&self) -> String {
        format!("{}/{}", self.node, self.name)
    }

    /// The container's id.
    pub fn container_id(&self) -> &str {
        &self.container_id
    }

    /// Its network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// What the plugin answered.
    pub fn result(&self) -> &cni::Success {
        &self.result
    }

    /// All its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.result.ips.iter().map(|ip| ip.address.ip())
    }

    /// Its first address, IPv4 in a lab with both. Unspecified if the plugin gave none.
    pub fn address(&self) -> IpAddr {
        self.addresses().next().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// Its first gateway. Unspecified if the plugin named none.
    pub fn gateway(&self) -> IpAddr {
        self.result.ips.iter().find_map(|ip| ip.gateway).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// The name of the device at the node's end, as the plugin reported it.
    pub fn host_interface(&self) -> Option<&str> {
        let on_node =
            |interface: &&cni::Interface| interface.sandbox.as_deref().unwrap_or_default().is_empty();
        self.result.interfaces.iter().rfind(on_node).map(|interface| interface.name.as_str())
    }

    /// A command to run in the pod.
    pub fn command<I: IntoIterator<Item: AsRef<std::ffi::OsStr>>>(&self, words: I) -> Run {
        self.namespace.command(words)
    }

    /// Runs a command in the pod.
    pub fn exec<I: IntoIterator<Item: AsRef<std::ffi::OsStr>>>(&self, words: I) -> anyhow::Result<String> {
        self.command(words).read()
    }
}

/// What a runtime has before it calls the plugin: a container's id and its network namespace.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// The container's id: 64 hex digits, as runtimes make them.
    pub container_id: String,
    /// With nothing but a loopback device, up.
    pub namespace: Namespace,
}
