//! While the agent runs: what others have broken of the attachments' node side is mended. The inside of a pod is the
//! pod's own business; CHECK tells of it.

use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time;

use super::check::View;
use super::record::{Key, Record, State};
use super::{Inner, PodManager, is_host_interface, lock};
use crate::netlink::{Change, Link, Orders};

/// Changes come in bursts, and a DEL follows close on a namespace that a runtime has deleted: a pass waits this long.
const SETTLE: Duration = Duration::from_secs(1);

/// Maps and programs change without a word.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// How often a pass that fails is repeated, before it is left to the next look.
const ATTEMPTS: usize = 3;

impl PodManager {
    /// Looks after the attachments for as long as it is polled, from the kernel's changes and from time to time.
    pub async fn keep(&self) -> anyhow::Result<()> {
        let mut changes = self.0.netlink.watch()?;
        let mut look_again = time::interval(LOOK_AGAIN);
        look_again.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                change = changes.next() => {
                    let Some(change) = change else {
                        anyhow::bail!("the kernel's changes can no longer be listened to")
                    };
                    if !self.0.concerns(&change) {
                        continue;
                    }
                    time::sleep(SETTLE).await;
                    while let Some(Some(_)) = changes.next().now_or_never() {}
                }
                _ = look_again.tick() => {}
            }
            for _ in 0..ATTEMPTS {
                if self.repair().await {
                    break;
                }
                // What it needs may be on its way: the gateway's address is another task's.
                time::sleep(SETTLE).await;
            }
        }
    }

    /// One pass now. Returns whether everything is as it should be, as far as that can be.
    pub async fn repair(&self) -> bool {
        match self.0.repair().await {
            Ok(failures) => {
                for failure in &failures {
                    tracing::warn!(failure, "an attachment cannot be repaired");
                }
                failures.is_empty()
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the attachments cannot be looked after");
                false
            }
        }
    }
}

impl Inner {
    /// Whether an attachment may have to be mended. An attachment that comes or goes also shows here; a look is cheap.
    fn concerns(&self, change: &Change) -> bool {
        match change {
            Change::Link { name, .. } => is_host_interface(name),
            Change::Route { ours, to_host, .. } => ours.is_some() && *to_host,
            Change::Neighbour { ifindex, removed } => {
                *removed && lock(&self.records).values().any(|record| record.host_if_index == *ifindex)
            }
            Change::Lost => true,
            Change::Address { .. } | Change::Rule => false,
        }
    }

    /// Returns what could not be mended, in words.
    async fn repair(&self) -> anyhow::Result<Vec<String>> {
        if self.ensure_restored().is_err() {
            return Ok(Vec::new());
        }
        let _one_at_a_time = self.repairing.lock().await;
        let view = View::look(self).await?;
        let records: Vec<Record> = lock(&self.records).values().cloned().collect();
        let mut failures = Vec::new();
        for record in records.into_iter().filter(|record| record.state == State::Ready) {
            if !self.node_damage(&record, &view).await?.is_empty()
                && let Err(error) = self.repair_one(&record.key()).await
            {
                failures.push(format!("pod {}: {error:#}", record.alias()));
            }
        }
        Ok(failures)
    }

    /// Looks again, now that no ADD or DEL of it is under way.
    async fn repair_one(&self, key: &Key) -> anyhow::Result<()> {
        let _held = self.locks.lock(key).await;
        let Some(record) = self.record(key).filter(|record| record.state == State::Ready) else {
            return Ok(());
        };
        let view = View::look(self).await?;
        let pod = record.alias();
        let Some(device) = self.regain_device(&record, &view).await? else {
            return self.give_up(&record).await;
        };
        let damage = self.node_damage(&record, &view).await?;
        self.enter_fast_path(&record)?;
        self.configure_host_side(&mut Orders::open()?, &record, &device)?;
        if device.mtu != record.mtu {
            self.netlink.set_mtu(device.index, record.mtu).await?;
        }
        for what in damage {
            self.repairs.note(format!("pod {pod}: {what}"), "restored");
        }
        Ok(())
    }

    /// The host-side device, with its own Ethernet address again if somebody has changed it.
    async fn regain_device(&self, record: &Record, view: &View) -> anyhow::Result<Option<Link>> {
        if let Some(device) = view.device(record) {
            return Ok(Some(device.clone()));
        }
        let Some(device) = view.changed_device(record) else { return Ok(None) };
        self.netlink.set_mac(device.index, record.host_mac.0).await?;
        let what = format!("pod {}: the Ethernet address of {} was changed", record.alias(), device.name);
        self.repairs.note(what, "restored");
        Ok(Some(Link { mac: Some(record.host_mac.0), ..device.clone() }))
    }

    /// A pod whose device is gone, and cannot be made again: a process in the pod may hold what it knew of it.
    ///
    /// With the network namespace gone as well, so is the pod, whether a DEL ever comes or not: everything of it is
    /// removed, and its addresses are free. While the namespace is there, the pod lives and the cluster believes that
    /// it has these addresses: nobody else may get them before its DEL.
    pub(super) async fn give_up(&self, record: &Record) -> anyhow::Result<()> {
        let pod = record.alias();
        let addresses: Vec<_> = record.addresses.iter().map(ToString::to_string).collect();
        let addresses = addresses.join(", ");
        if let Err(gone) = self.open_netns(&record.netns) {
            self.undo(record).await.map_err(anyhow::Error::msg)?;
            tracing::debug!(pod, %gone, "no namespace");
            self.repairs.note(
                format!("pod {pod}: its network namespace {} is gone without a DEL", record.netns),
                format!("what was left of it was removed, its addresses {addresses} are free"),
            );
            return Ok(());
        }
        if lock(&self.broken).contains(&record.key()) {
            return Ok(());
        }
        for address in &record.addresses {
            self.fast_path.remove_pod(*address)?;
        }
        self.fast_path.detach_pod(&record.host_interface)?;
        lock(&self.broken).insert(record.key());
        self.repairs.note(
            format!("pod {pod}: its interface ({} on the node) was deleted", record.host_interface),
            format!("what was left of it was removed, its addresses {addresses} are kept until its DEL"),
        );
        Ok(())
    }

    /// What is wrong with single attachments, and what to do about it.
    pub(super) fn warnings(&self) -> Vec<String> {
        let broken = lock(&self.broken).clone();
        let records = lock(&self.records);
        let mut warnings: Vec<String> = broken
            .iter()
            .filter_map(|key| records.get(key))
            .map(|record| {
                let pod = record.alias();
                format!("pod {pod} has lost its interface and is cut off: delete the pod, it gets a new one")
            })
            .collect();
        warnings.extend(lock(&self.foreign).iter().map(super::foreign::Foreign::problem));
        warnings
    }
}
