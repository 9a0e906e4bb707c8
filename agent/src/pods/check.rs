//! CHECK: what of an attachment is not as it was made.

use std::os::fd::AsFd as _;

use super::create::host_routes;
use super::record::{Key, Record, State};
use super::{Inner, host_network, pod_side};
use crate::cni::{Error, code};
use crate::netlink::{Link, Netlink};

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
        for part in
            [self.host_damage(record).await, self.fast_path_damage(record), self.pod_damage(record).await]
        {
            match part {
                Ok(found) => damage.extend(found),
                Err(error) => damage.push(format!("{error:#}")),
            }
        }
        damage
    }

    async fn host_damage(&self, record: &Record) -> anyhow::Result<Vec<String>> {
        let name = &record.host_interface;
        let Some(device) = self.own_device(record).await? else {
            return Ok(vec![format!("the node's device {name} is missing")]);
        };
        let mut damage = device_damage(&device, record.mtu);
        let neighbours = self.netlink.permanent_neighbours().await?;
        for address in &record.addresses {
            if !neighbours.contains(&(device.index, *address, record.mac.0)) {
                damage.push(format!(
                    "the node's neighbour entry for {address} on {name} is missing or different"
                ));
            }
        }
        let routes = self.netlink.routes().await?;
        for (route, _) in host_routes(record, device.index) {
            if !routes.contains(&route) {
                damage.push(format!(
                    "the node's route to {} by {name} is missing or different",
                    route.destination
                ));
            }
        }
        Ok(damage)
    }

    fn fast_path_damage(&self, record: &Record) -> anyhow::Result<Vec<String>> {
        let mut damage = Vec::new();
        if !self.fast_path.attached()?.contains(&record.host_interface) {
            damage.push(format!("no program is attached to {}", record.host_interface));
        }
        let pods = self.fast_path.pods()?;
        for address in &record.addresses {
            match pods.get(address) {
                None => damage.push(format!("{address} is missing in the pod map")),
                Some(pod) if *pod != Self::endpoint(record) => {
                    damage.push(format!("{address} is different in the pod map"));
                }
                Some(_) => {}
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
