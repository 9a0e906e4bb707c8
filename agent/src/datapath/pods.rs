//! The datapath as the pods' attachments see it.

use std::{collections::BTreeMap, net::IpAddr};

use dataplane_common::Hook;

use super::{AttachMode, Contents, Datapath, Device, XdpMode};
use crate::pods::{FastPath, PodEndpoint};

impl FastPath for Datapath {
    fn attach_pod(&self, interface: &str, ifindex: u32) -> anyhow::Result<()> {
        let _short_waits = crate::rcu::expedite();
        self.hooks(Device::Pod).try_for_each(|hook| self.attach(hook, interface))?;
        self.state().maps.add_port(ifindex)
    }

    fn attach_new_pod(&self, interface: &str, ifindex: u32) -> anyhow::Result<()> {
        let _short_waits = crate::rcu::expedite();
        self.hooks(Device::Pod).try_for_each(|hook| self.attach_beside(hook, interface))?;
        self.state().maps.add_port(ifindex)
    }

    fn detach_pod(&self, interface: &str) -> anyhow::Result<()> {
        if let Ok(ifindex) = nix::net::if_::if_nametoindex(interface) {
            self.state().maps.remove_port(ifindex)?;
        }
        self.detach(Hook::FromPod, interface)?;
        self.detach(Hook::ToPod, interface)
    }

    fn set_pod(&self, address: IpAddr, pod: PodEndpoint) -> anyhow::Result<()> {
        self.state().changing_settings(|maps| maps.set_pod(address, pod))
    }

    fn remove_pod(&self, address: IpAddr) -> anyhow::Result<()> {
        self.state().changing_settings(|maps| maps.remove_pod(address))
    }

    fn pods(&self) -> anyhow::Result<BTreeMap<IpAddr, PodEndpoint>> {
        self.state().maps.pods()
    }

    fn filled(&self) -> anyhow::Result<()> {
        Self::filled(self, Contents::Pods)
    }

    fn needs_napi(&self) -> bool {
        self.xdp != XdpMode::Off
    }

    fn attached(&self) -> anyhow::Result<Vec<String>> {
        Self::attached(self, Hook::FromPod)
    }

    fn detached(&self, interface: &str) -> anyhow::Result<Vec<&'static str>> {
        let mut detached = Vec::new();
        if self.mode == AttachMode::Tcx && self.handover().is_none() {
            for hook in self.hooks(Device::Pod) {
                if !self.is_attached(hook, interface)? {
                    detached.push(hook.name());
                }
            }
        }
        Ok(detached)
    }

    fn filters(&self) -> anyhow::Result<Vec<(&'static str, u32, bool)>> {
        let mut filters = Vec::new();
        if self.handover().is_none() {
            for hook in self.hooks(Device::Pod) {
                filters.extend(self.filter(hook)?.map(|(program, ingress)| (hook.name(), program, ingress)));
            }
        }
        Ok(filters)
    }
}
