//! A fast path without eBPF, for tests.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Mutex;

use super::{FastPath, PodEndpoint};

#[derive(Debug, Default)]
pub(crate) struct MemoryFastPath {
    pub(crate) pods: Mutex<BTreeMap<IpAddr, PodEndpoint>>,
    pub(crate) attached: Mutex<BTreeSet<String>>,
    /// Methods that refuse.
    pub(crate) refuse: Mutex<BTreeSet<&'static str>>,
}

impl MemoryFastPath {
    fn may(&self, method: &'static str) -> anyhow::Result<()> {
        anyhow::ensure!(!self.refuse.lock().unwrap().contains(method), "{method} is refused");
        Ok(())
    }
}

impl FastPath for MemoryFastPath {
    fn attach_pod(&self, interface: &str, ifindex: u32) -> anyhow::Result<()> {
        self.may("attach_pod")?;
        assert_ne!(ifindex, 0);
        self.attached.lock().unwrap().insert(interface.to_owned());
        Ok(())
    }

    fn detach_pod(&self, interface: &str) -> anyhow::Result<()> {
        self.may("detach_pod")?;
        self.attached.lock().unwrap().remove(interface);
        Ok(())
    }

    fn set_pod(&self, address: IpAddr, pod: PodEndpoint) -> anyhow::Result<()> {
        self.may("set_pod")?;
        self.pods.lock().unwrap().insert(address, pod);
        Ok(())
    }

    fn remove_pod(&self, address: IpAddr) -> anyhow::Result<()> {
        self.may("remove_pod")?;
        self.pods.lock().unwrap().remove(&address);
        Ok(())
    }

    fn pods(&self) -> anyhow::Result<BTreeMap<IpAddr, PodEndpoint>> {
        self.may("pods")?;
        Ok(self.pods.lock().unwrap().clone())
    }

    fn needs_napi(&self) -> bool {
        true
    }

    fn attached(&self) -> anyhow::Result<Vec<String>> {
        self.may("attached")?;
        Ok(self.attached.lock().unwrap().iter().cloned().collect())
    }

    fn detached(&self, interface: &str) -> anyhow::Result<Vec<&'static str>> {
        let attached = self.attached.lock().unwrap().contains(interface);
        Ok(if attached { vec![] } else { vec!["from_pod"] })
    }
}
