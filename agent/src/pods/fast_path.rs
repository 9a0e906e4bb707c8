//! What a pod's attachment needs from the eBPF datapath.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// Where a pod address lives on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodEndpoint {
    /// The host-side device.
    pub ifindex: u32,
    /// The pod's Ethernet address.
    pub mac: [u8; 6],
    /// The host side's Ethernet address.
    pub host_mac: [u8; 6],
}

/// The programs and maps, as far as pods are concerned. Every method is idempotent, and fast enough to be called
/// from an async task.
pub trait FastPath: Send + Sync {
    /// Attaches the programs of a pod to its host-side device.
    fn attach_pod(&self, interface: &str, ifindex: u32) -> anyhow::Result<()>;
    /// The same for a device that has just been made: nothing can be attached to it yet.
    fn attach_new_pod(&self, interface: &str, ifindex: u32) -> anyhow::Result<()> {
        self.attach_pod(interface, ifindex)
    }
    /// Detaches them. Fine when they or the device are gone already.
    fn detach_pod(&self, interface: &str) -> anyhow::Result<()>;
    /// Enters a pod's address, in the place of what was there.
    fn set_pod(&self, address: IpAddr, pod: PodEndpoint) -> anyhow::Result<()>;
    /// Removes a pod's address. Fine when it is gone already.
    fn remove_pod(&self, address: IpAddr) -> anyhow::Result<()>;
    /// The addresses that are entered.
    fn pods(&self) -> anyhow::Result<BTreeMap<IpAddr, PodEndpoint>>;
    /// Every pod that was there when the agent started is entered.
    fn filled(&self) -> anyhow::Result<()> {
        Ok(())
    }
    /// Whether pods' interfaces must be able to take frames that XDP redirects to them.
    fn needs_napi(&self) -> bool;
    /// The host-side devices that programs are attached to.
    fn attached(&self) -> anyhow::Result<Vec<String>>;
    /// Programs of a device that are not attached any more, by name.
    fn detached(&self, interface: &str) -> anyhow::Result<Vec<&'static str>>;
    /// Programs that are attached by filters, which only netlink knows of: name, number, whether at ingress.
    fn filters(&self) -> anyhow::Result<Vec<(&'static str, u32, bool)>> {
        Ok(Vec::new())
    }
}
