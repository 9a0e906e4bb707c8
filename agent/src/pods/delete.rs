//! DEL, and the undoing of an ADD: remove everything an attachment has, whatever of it is still there.

use super::record::{Key, Record};
use super::{Inner, lock, names};
use crate::cni::identifiers::{container_id, interface_name};
use crate::cni::{Error, code};
use crate::{failpoint, rcu};

impl Inner {
    pub(super) async fn detach(&self, key: &Key) -> Result<(), Error> {
        container_id(&key.container_id)?;
        interface_name(&key.if_name)?;
        self.ensure_restored()?;
        let _held = self.locks.lock(key).await;
        let result = self.remove(key).await;
        let Key { container_id, if_name } = key;
        result.map_err(|details| {
            Error::new(
                code::DETACH_FAILED,
                format!("detaching {if_name} of container {container_id} is incomplete"),
            )
            .details(details)
        })
    }

    /// Removes an attachment, whatever is known and left of it.
    pub(super) async fn remove(&self, key: &Key) -> Result<(), String> {
        let Some(record) = self.record(key) else {
            self.remove_unrecorded(key).await?;
            return self.foreign(key).map_or(Ok(()), |foreign| {
                self.forget_foreign(&foreign).map_err(|error| format!("{error:#}"))
            });
        };
        self.undo(&record).await?;
        tracing::info!(
            container = record.container_id,
            pod = record.alias(),
            device = record.host_interface,
            addresses = ?record.addresses,
            "pod detached"
        );
        Ok(())
    }

    /// Removes what a record describes: everything is tried, every failure is told. The record goes last and only
    /// when nothing else is left, so that this can be repeated.
    pub(super) async fn undo(&self, record: &Record) -> Result<(), String> {
        let mut failures = Vec::new();
        for address in &record.addresses {
            if let Err(error) = self.fast_path.remove_pod(*address) {
                failures.push(format!("removing {address} from the pod map: {error:#}"));
            }
            failpoint::step("pod map entry removed");
        }
        // The kernel takes the other side, programs, routes and neighbours along with the device. Before the pins: without
        // a device behind it a link is let go of at once.
        if let Err(error) = self.delete_device(record).await {
            failures.push(format!("{error:#}"));
        }
        failpoint::step("device deleted");
        if let Err(error) = self.fast_path.detach_pod(&record.host_interface) {
            failures.push(format!("detaching the programs of {}: {error:#}", record.host_interface));
        }
        failpoint::step("programs detached");
        if failures.is_empty() {
            match self.store.remove(&record.key()) {
                Ok(()) => {
                    lock(&self.records).remove(&record.key());
                    lock(&self.broken).remove(&record.key());
                    self.release(record);
                    failpoint::step("detached, not answered");
                }
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
    }

    async fn delete_device(&self, record: &Record) -> anyhow::Result<()> {
        let _short_waits = rcu::expedite();
        // One of somebody else's that happens to have the name has another Ethernet address.
        self.netlink.remove_veth(&record.host_interface, record.host_mac.0).await
    }

    /// DEL without a record: nothing should be there. If a record was lost, the device that only this attachment
    /// can have made is removed all the same.
    async fn remove_unrecorded(&self, key: &Key) -> Result<(), String> {
        let text = |error: anyhow::Error| format!("{error:#}");
        let name = names::host_interface(key);
        let link = self.netlink.link_by_name(&name).await.map_err(text)?;
        let Some(link) = link.filter(|link| link.mac == Some(names::host_mac(key).0)) else { return Ok(()) };
        tracing::warn!(container = key.container_id, device = name, "removing a device whose record is lost");
        for (address, pod) in self.fast_path.pods().map_err(text)? {
            if pod.ifindex == link.index {
                self.fast_path.remove_pod(address).map_err(text)?;
            }
        }
        self.fast_path.detach_pod(&name).map_err(text)?;
        self.netlink.delete_link(link.index).await.map_err(text)
    }
}
