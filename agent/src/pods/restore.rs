//! After a start: make the system fit the records. Running pods notice nothing.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use anyhow::Context as _;

use super::foreign::Foreign;
use super::record::{Key, Loaded, Record, State};
use super::{Inner, lock, names, pod_side};
use crate::netlink::{Orders, namespace};

/// What [`PodManager::restore`](super::PodManager::restore) found and did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RestoreReport {
    /// Attachments that live on.
    pub restored: usize,
    /// Attachments of pods that are gone.
    pub removed: usize,
    /// Attachments whose device is gone though the pod is there: they wait for their DEL.
    pub broken: usize,
    /// Attachments that an agent was killed over while making them.
    pub rolled_back: usize,
    /// DELs that came while no agent was there.
    pub caught_up: usize,
    /// What nobody repaired: unreadable records, refused changes.
    pub problems: Vec<String>,
}

impl Inner {
    pub(super) async fn restore(&self) -> anyhow::Result<RestoreReport> {
        let Loaded { records, foreign, problems } =
            self.store.load().context("reading the attachment records")?;
        let all_read = problems.is_empty() && foreign.iter().all(Foreign::is_understood);
        let mut report = RestoreReport { problems, ..RestoreReport::default() };
        // All addresses first: nothing below may hand one out twice.
        {
            let mut ipam = lock(&self.ipam);
            self.given.read_into(&mut ipam);
            let mut known = lock(&self.records);
            for address in foreign.iter().flat_map(|foreign| &foreign.addresses) {
                ipam.claim(*address);
            }
            for record in &records {
                for address in record.addresses.iter().filter(|address| !ipam.claim(**address)) {
                    let owner = known.values().find(|other| other.addresses.contains(address));
                    report.problems.push(format!(
                        "{address} belongs to container {} and to {}: delete one of the two pods",
                        record.container_id,
                        owner.map_or("another", |other| &other.container_id)
                    ));
                }
                known.insert(record.key(), record.clone());
            }
            for foreign in &foreign {
                tracing::warn!("{}", foreign.problem());
            }
            lock(&self.foreign).clone_from(&foreign);
        }
        let deleted = self.catch_up(&mut report).await?;
        for record in records.into_iter().filter(|record| !deleted.contains(&record.key())) {
            let mut result = self.restore_one(record.clone(), &mut report).await;
            // A pod's namespace that is dying may take the device away while we are at it.
            if result.is_err() && self.own_device(&record).await?.is_none() {
                result = self.restore_one(record, &mut report).await;
            }
            if let Err(error) = result {
                report.problems.push(format!("{error:#}"));
            }
        }
        let foreign = lock(&self.foreign).clone();
        for foreign in &foreign {
            if let Err(error) = self.keep_foreign(foreign).await {
                report.problems.push(format!("{}: {error:#}", foreign.problem()));
            }
        }
        self.sweep(all_read, &mut report).context("comparing the datapath with the attachment records")?;
        self.fast_path.filled()?;
        for problem in &report.problems {
            tracing::warn!("{problem}");
        }
        let RestoreReport { restored, removed, broken, rolled_back, caught_up, .. } = report;
        tracing::info!(restored, removed, broken, rolled_back, caught_up, "attachments restored");
        self.restored.store(true, Ordering::Release);
        Ok(report)
    }

    /// Carries out the DELs that the plugin remembered. Returns which attachments they were of.
    async fn catch_up(&self, report: &mut RestoreReport) -> anyhow::Result<BTreeSet<Key>> {
        let (keys, problems) = self.pending.load().context("reading the remembered DELs")?;
        report.problems.extend(problems);
        for key in &keys {
            match self.remove(key).await {
                Ok(()) => {
                    self.pending.forget(key)?;
                    report.caught_up += 1;
                }
                // The file stays: the next start tries again.
                Err(error) => report.problems.push(format!(
                    "the DEL of {} of container {} that came while no agent was there: {error}",
                    key.if_name, key.container_id
                )),
            }
        }
        Ok(keys.into_iter().collect())
    }

    async fn restore_one(&self, mut record: Record, report: &mut RestoreReport) -> anyhow::Result<()> {
        let Record { container_id, if_name, .. } = record.clone();
        let what = |done: &str| format!("{done} {if_name} of container {container_id}");
        let device = if record.state == State::Ready { self.own_device(&record).await? } else { None };
        let Some(device) = device else {
            if record.state == State::Ready && self.open_netns(&record.netns).is_ok() {
                self.give_up(&record).await.with_context(|| what("cleaning up after"))?;
                report.broken += 1;
                return Ok(());
            }
            self.undo(&record).await.map_err(anyhow::Error::msg).with_context(|| what("removing"))?;
            match record.state {
                State::Ready => report.removed += 1,
                State::Creating => report.rolled_back += 1,
            }
            return Ok(());
        };
        if record.host_if_index != device.index {
            record.host_if_index = device.index;
            self.store.update(&record)?;
            lock(&self.records).insert(record.key(), record.clone());
        }
        self.enter_fast_path(&record).with_context(|| what("restoring"))?;
        self.configure_host_side(&mut Orders::open()?, &record, &device)
            .with_context(|| what("restoring"))?;
        if self.fast_path.needs_napi() {
            let netns = namespace::open(record.netns.as_ref()).with_context(|| what("restoring"))?;
            pod_side::enable_napi(&netns, &record.if_name).with_context(|| what("restoring"))?;
        }
        report.restored += 1;
        Ok(())
    }

    /// Removes entries and attachments of programs that no record claims. With an unreadable record about, whose
    /// they are is unknown: then they stay, and their addresses are not given to anybody.
    fn sweep(&self, all_read: bool, report: &mut RestoreReport) -> anyhow::Result<()> {
        let records: Vec<Record> = lock(&self.records).values().cloned().collect();
        let mut addresses: BTreeSet<_> =
            records.iter().flat_map(|record| record.addresses.iter().copied()).collect();
        let mut devices: BTreeSet<_> = records.iter().map(|record| record.host_interface.clone()).collect();
        for foreign in lock(&self.foreign).iter() {
            addresses.extend(&foreign.addresses);
            devices.extend(foreign.host_interface.clone());
        }
        for address in self.fast_path.pods()?.into_keys().filter(|address| !addresses.contains(address)) {
            if !all_read {
                lock(&self.ipam).claim(address);
            } else if let Err(error) = self.fast_path.remove_pod(address) {
                report
                    .problems
                    .push(format!("removing {address}, which no pod has, from the pod map: {error:#}"));
            }
        }
        for device in self.fast_path.attached()? {
            let stray = all_read && names::is_host_interface(&device) && !devices.contains(&device);
            if stray && let Err(error) = self.fast_path.detach_pod(&device) {
                report.problems.push(format!("detaching the programs of {device}: {error:#}"));
            }
        }
        Ok(())
    }
}
