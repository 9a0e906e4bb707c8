//! Nodes that publish themselves in etcd: `docs/etcd.md`.

mod addresses;
mod allocate;
mod connect;
mod publish;
mod ranges;
mod records;
mod session;
mod settings;
mod view;

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use ipnetwork::IpNetwork;
use tokio::{sync::mpsc, time};

pub use settings::{EtcdConfig, EtcdSettings};

use self::{
    records::Keys,
    session::{Ended, Memory},
};
use super::{ClusterSource, Update};
use crate::netlink::Netlink;

/// The first and the longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// Publishes this node in etcd and watches the others.
#[derive(Clone, Debug)]
pub struct EtcdSource {
    config: EtcdConfig,
    keys: Keys,
    name: String,
    uplinks: Vec<String>,
}

impl EtcdSource {
    /// For the node `name`, whose uplinks are `uplinks` where they are configured.
    ///
    /// # Errors
    /// A setting that this source needs is missing, or the name cannot be part of a key.
    pub fn new(config: EtcdConfig, name: String, uplinks: Vec<String>) -> anyhow::Result<Self> {
        ensure!(
            !config.cluster_cidrs.is_empty(),
            "etcd.clusterCIDRs is not set: give the range that the nodes' pod CIDRs are taken from, such as 10.244.0.0/16"
        );
        ensure!(
            !name.contains('/'),
            "nodeName: \"{name}\" has a slash, which separates names in etcd: use another"
        );
        let keys = Keys::new(config.prefix.clone());
        Ok(Self { config, keys, name, uplinks })
    }

    fn netlink(&self) -> anyhow::Result<Netlink> {
        Netlink::new()
    }
}

impl ClusterSource for EtcdSource {
    async fn run(self, updates: mpsc::Sender<Update>) {
        let mut memory = Memory::default();
        let mut failures = 0_usize;
        let mut told = None;
        let mut endpoints = self.config.endpoints.iter().cycle();
        let Some(mut endpoint) = endpoints.next() else { return };
        loop {
            let successes = memory.successes;
            let error = match self.session(endpoint, &mut memory, &updates).await {
                Ok(Ended::Stopped) => return,
                Ok(Ended::ListAgain) => continue,
                Err(error) => format!("etcd at {endpoint}: {error:#}"),
            };
            if memory.successes > successes {
                (failures, told) = (0, None);
                tracing::info!(error, "the connection to etcd ended, connecting again");
            } else {
                failures += 1;
            }
            if let Some(next) = endpoints.next() {
                endpoint = next;
            }
            // It is a problem when no member helps.
            if failures < self.config.endpoints.len() {
                continue;
            }
            if told.as_ref() != Some(&error) {
                told = Some(error.clone());
                if updates.send(Update::Problem(error)).await.is_err() {
                    return;
                }
            }
            let rounds = u32::try_from(failures / self.config.endpoints.len()).unwrap_or(u32::MAX);
            tokio::select! {
                () = time::sleep(pause(rounds, self.config.lease_ttl / 3)) => {}
                () = updates.closed() => return,
            }
        }
    }
}

/// Longer after each failure, and never the same for two nodes; shorter than what is left of a lease, so that every
/// node is back before the others forget it.
fn pause(failures: u32, limit: Duration) -> Duration {
    let (first, longest) = PAUSES;
    let pause =
        first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(longest).min(limit);
    let part = u32::try_from(RandomState::new().hash_one(failures) % 1000).unwrap_or(0);
    pause / 2 + (pause / 2) * part / 1000
}

/// Frees the pod CIDRs of a node that is gone: `podlane etcd release`.
///
/// # Errors
/// etcd cannot be reached, or the node is there and `force` is not given.
pub async fn release(config: &EtcdConfig, name: &str, force: bool) -> anyhow::Result<Vec<IpNetwork>> {
    let mut problem = anyhow::anyhow!("etcd.endpoints is empty");
    for endpoint in &config.endpoints {
        match connect::connect(endpoint, config).await {
            Ok(client) => {
                let keys = Keys::new(config.prefix.clone());
                let mut etcd = client.kv_client();
                let released = allocate::release(&mut etcd, &keys, name, force);
                return time::timeout(connect::PATIENCE, released)
                    .await
                    .context("etcd took too long to answer")?;
            }
            Err(error) => problem = error.context(format!("etcd at {endpoint}")),
        }
    }
    Err(problem)
}
