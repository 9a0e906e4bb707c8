//! What an ADD asks for, checked before anything is touched.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::ipam::Wanted;
use super::mac::Mac;
use super::record::Key;
use super::{Inner, NodeNetwork};
use crate::cni::identifiers::{container_id, interface_name, invalid};
use crate::cni::{Error, code};
use crate::netlink::namespace;

/// An interface for a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachRequest {
    /// `CNI_CONTAINERID`.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// `CNI_NETNS`: the path of the pod's network namespace.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub if_name: String,
    /// The pod's Kubernetes namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The pod's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The pod's UID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The Ethernet address for the pod, instead of one that follows from its identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Wishes for the pod's addresses.
    #[serde(default, flatten)]
    pub wanted: Wanted,
}

impl AttachRequest {
    /// The identity of the attachment to be.
    pub fn key(&self) -> Key {
        Key::new(&self.container_id, &self.if_name)
    }

    pub(super) fn validate(&self) -> Result<(), Error> {
        container_id(&self.container_id)?;
        interface_name(&self.if_name)?;
        if !self.netns.starts_with('/') {
            return Err(invalid("CNI_NETNS", &self.netns, "it must be an absolute path"));
        }
        if let Some(mac) = self.mac
            && (mac.0 == [0; 6] || mac.0[0] & 1 == 1)
        {
            let msg = format!("mac {mac} cannot be an interface's: it is a group's address, or empty");
            return Err(Error::new(code::INVALID_CONFIG, msg));
        }
        // `ip link` shows them; the kernel takes 255 bytes.
        let alias = self.namespace.as_ref().map_or(0, String::len) + self.pod.as_ref().map_or(0, String::len);
        if alias > 254 {
            let msg =
                "invalid CNI_ARGS: K8S_POD_NAMESPACE and K8S_POD_NAME have more than 254 bytes together";
            return Err(Error::new(code::INVALID_ENVIRONMENT, msg));
        }
        Ok(())
    }
}

impl Inner {
    /// Opens the pod's namespace; refuses what is none, and the node's own.
    pub(super) fn open_netns(&self, path: &str) -> Result<File, Error> {
        let file = namespace::open(Path::new(path)).map_err(|error| {
            invalid("CNI_NETNS", path, "no network namespace").details(format!("{error:#}"))
        })?;
        match namespace::identity(file.as_fd()) {
            Ok(identity) if identity == self.node_namespace => {
                Err(invalid("CNI_NETNS", path, "it is the node's own network namespace"))
            }
            Ok(_) => Ok(file),
            Err(error) => Err(Error::new(code::IO, format!("{error:#}"))),
        }
    }

    /// What is known of the node, if that is enough to make a pod.
    pub(super) fn current_node(&self) -> Result<NodeNetwork, Error> {
        let later = |msg: String| Err(Error::new(code::TRY_AGAIN_LATER, msg));
        match self.node_network.borrow().clone() {
            None => later("the node's pod CIDRs and MTU are not known yet".to_owned()),
            Some(node) if node.mtu == 0 => {
                later(format!("the MTU for pods of {} is not known yet", node.name))
            }
            Some(node) if node.pod_cidrs.is_empty() => {
                later(format!("{} has no podCIDRs: give it one in the cluster's configuration", node.name))
            }
            Some(node) => Ok(node),
        }
    }
}
