//! CHECK: what of an attachment is not as it was made.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::AsFd as _;

use super::create::{host_routes, settings};
use super::record::{Key, Record, State};
use super::{Inner, PodEndpoint, host_network, lock, pod_side};
use crate::cni::{Error, code};
use crate::netlink::{Link, Netlink, Route};
use crate::sysctl;

impl Inner {
    pub(super) async fn check(&self, key: &Key) -> Result<Record, Error> {
        self.ensure_restored()?;
        let _held = self.locks.lock(key).await;
        let Key { container_id, if_name } = key;
        let Some(record) = self.record(key) else {
            let msg = format!("{if_name} of container {container_id} is not attached");
            return Err(Error::new(code::UNKNOWN_CONTAINER, msg));
        };
        let damage = self.damage(&record).await;
        if damage.is_empty() {
            return Ok(record);
        }
        let msg = format!("{if_name} of container {container_id} is damaged: {}", damage.join("; "));
        Err(Error::new(code::DAMAGED, msg))
    }

    /// One sentence for each thing that is missing or different.
    pub(super) async fn damage(&self, record: &Record) -> Vec<String> {
        let mut damage = Vec::new();
        if record.state != State::Ready {
            damage.push("its creation was not completed".to_owned());
        }
        let node = async {
            let view = View::look(self).await?;
            self.node_damage(record, &view).await
        };
        for part in [node.await, self.pod_damage(record).await] {
            match part {
                Ok(found) => damage.extend(found),
                Err(error) => damage.push(format!("{error:#}")),
            }
        }
        damage
    }

    /// What of the node's side is missing or different.
    pub(super) async fn node_damage(&self, record: &Record, view: &View) -> anyhow::Result<Vec<String>> {
        let name = &record.host_interface;
        if lock(&self.broken).contains(&record.key()) && view.device(record).is_none() {
            return Ok(vec![format!("the node's device {name} is missing, it was deleted: delete the pod")]);
        }
        let mut damage = match view.device(record) {
            None => vec![format!("the node's device {name} is missing")],
            Some(device) => host_damage(record, device, view)?,
        };
        for address in &record.addresses {
            match view.pods.get(address) {
                None => damage.push(format!("{address} is missing in the pod map")),
                Some(pod) if *pod != Self::endpoint(record) => {
                    damage.push(format!("{address} is different in the pod map"));
                }
                Some(_) => {}
            }
        }
        if let Some(device) = view.device(record) {
            let mut detached = self.fast_path.detached(name)?;
            for (hook, program, ingress) in &view.filters {
                if !self.netlink.classifiers(device.index, *ingress).await?.contains(program) {
                    detached.push(hook);
                }
            }
            for hook in detached {
                damage.push(format!("the program {hook} is not attached to {name}"));
            }
        }
        Ok(damage)
    }

    async fn pod_damage(&self, record: &Record) -> anyhow::Result<Vec<String>> {
        let name = &record.if_name;
        let netns = match self.open_netns(&record.netns) {
            Ok(netns) => netns,
            Err(error) => {
                return Ok(vec![format!("the pod's network namespace {} is gone: {error}", record.netns)]);
            }
        };
        let pod = Netlink::in_namespace(netns.as_fd())?;
        let device = pod.link_by_name(name).await?.filter(|device| device.mac == Some(record.mac.0));
        let Some(device) = device else {
            return Ok(vec![format!("the pod's interface {name} is missing or another one")]);
        };
        let mut damage = device_damage(&device, record.mtu);
        let addresses = pod.addresses().await?;
        for address in &record.addresses {
            if !addresses.contains(&(device.index, host_network(*address))) {
                damage.push(format!("the pod's address {address} is missing on {name}"));
            }
        }
        let neighbours = pod.permanent_neighbours().await?;
        for (_, gateway) in record.leases() {
            if !neighbours.contains(&(device.index, gateway, record.host_mac.0)) {
                damage.push(format!("the pod's neighbour entry for {gateway} is missing or different"));
            }
        }
        let routes = pod.routes().await?;
        for route in pod_side::routes(record, device.index)? {
            if !routes.contains(&route.clone().canonical()) {
                damage.push(format!("the pod's route to {} is missing or different", route.destination));
            }
        }
        Ok(damage)
    }
}

/// What all attachments are compared with: one listing of each kind, however many there are.
pub(super) struct View {
    devices: BTreeMap<String, Link>,
    neighbours: BTreeSet<(u32, IpAddr, [u8; 6])>,
    routes: BTreeSet<Route>,
    pods: BTreeMap<IpAddr, PodEndpoint>,
    filters: Vec<(&'static str, u32, bool)>,
}

impl View {
    pub(super) async fn look(inner: &Inner) -> anyhow::Result<Self> {
        let links = inner.netlink.links().await?;
        let veths = links.into_iter().filter(|link| link.kind.as_deref() == Some("veth"));
        Ok(Self {
            devices: veths.map(|link| (link.name.clone(), link)).collect(),
            neighbours: inner.netlink.permanent_neighbours().await?.into_iter().collect(),
            routes: inner.netlink.routes().await?.into_iter().collect(),
            pods: inner.fast_path.pods()?,
            filters: inner.fast_path.filters()?,
        })
    }

    /// As [`Inner::own_device`].
    pub(super) fn device(&self, record: &Record) -> Option<&Link> {
        self.devices.get(&record.host_interface).filter(|link| link.mac == Some(record.host_mac.0))
    }

    /// The record's device, with another Ethernet address than it was given.
    pub(super) fn changed_device(&self, record: &Record) -> Option<&Link> {
        self.devices.get(&record.host_interface).filter(|link| link.index == record.host_if_index)
    }
}

fn host_damage(record: &Record, device: &Link, view: &View) -> anyhow::Result<Vec<String>> {
    let name = &device.name;
    let mut damage = device_damage(device, record.mtu);
    for address in &record.addresses {
        if !view.neighbours.contains(&(device.index, *address, record.mac.0)) {
            damage
                .push(format!("the node's neighbour entry for {address} on {name} is missing or different"));
        }
    }
    for (route, _) in host_routes(record, device.index) {
        if !view.routes.contains(&route) {
            damage
                .push(format!("the node's route to {} by {name} is missing or different", route.destination));
        }
    }
    for (key, value) in settings(name) {
        if let Some(now) = sysctl::differs(&key, value)? {
            damage.push(format!("the setting {} is {now} instead of {value}", sysctl::name(&key)));
        }
    }
    Ok(damage)
}

fn device_damage(device: &Link, mtu: u32) -> Vec<String> {
    let mut damage = Vec::new();
    if !device.up {
        damage.push(format!("{} is down", device.name));
    }
    if device.mtu != mtu {
        damage.push(format!("{} has MTU {} instead of {mtu}", device.name, device.mtu));
    }
    damage
}
