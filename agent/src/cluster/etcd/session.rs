//! One connection to etcd, from logging in to its end: allocate, publish, list, watch.

use std::{sync::Arc, time::Instant};

use anyhow::{Context as _, bail, ensure};
use etcd_client::{Client, EventType, GetOptions, KeyValue, WatchOptions, WatchResponse, WatchStream};
use futures_util::FutureExt as _;
use ipnetwork::IpNetwork;
use tokio::{
    sync::mpsc,
    time::{self, MissedTickBehavior},
};

use super::{
    EtcdSource, addresses, allocate,
    connect::{PATIENCE, connect},
    publish::{Lease, publish},
    records::node_from_json,
    view::{Seen, View},
};
use crate::cluster::{Assembly, Node, Update};

/// So many records are read at a time.
const PAGE: i64 = 1000;

/// What outlives a connection.
#[derive(Debug, Default)]
pub(super) struct Memory {
    view: View,
    assembly: Assembly,
    lease: Option<i64>,
    pod_cidrs: Vec<IpNetwork>,
    published: Option<Node>,
    /// Connections that came as far as watching.
    pub(super) successes: u64,
}

/// Why a session ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Nobody listens any more.
    Stopped,
    /// The history that was to be watched is compacted away.
    ListAgain,
}

impl EtcdSource {
    /// Runs until something fails.
    pub(super) async fn session(
        &self,
        endpoint: &str,
        memory: &mut Memory,
        updates: &mpsc::Sender<Update>,
    ) -> anyhow::Result<Ended> {
        let mut client = connect(endpoint, &self.config).await?;
        let starting = self.start(&mut client, memory);
        let (mut lease, mut watch) =
            time::timeout(PATIENCE * 3, starting).await.context("etcd took too long to answer")??;
        memory.successes += 1;
        let mut pending = Some(memory.assemble());
        let mut ticks = time::interval(self.config.lease_ttl / 3);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unanswered = 0_u32;
        loop {
            let grace_ends = memory.view.grace_ends();
            tokio::select! {
                permit = updates.reserve(), if pending.is_some() => match permit {
                    Ok(permit) => {
                        if let Some(update) = pending.take() {
                            permit.send(update);
                        }
                    }
                    Err(_) => return Ok(Ended::Stopped),
                },
                () = updates.closed() => return Ok(Ended::Stopped),
                message = watch.message() => {
                    let mut changed = false;
                    let mut next = Some(message);
                    // Whatever else is there already is one change with it.
                    while let Some(message) = next {
                        let response = message.context("watching the nodes")?.context("etcd has ended the watch")?;
                        match self.take(&response, &mut memory.view)? {
                            Some(news) => changed |= news,
                            None => return Ok(Ended::ListAgain),
                        }
                        next = watch.message().now_or_never();
                    }
                    if changed {
                        pending = Some(memory.assemble());
                    }
                }
                answer = lease.answers.message() => {
                    let answer = answer.context("keeping the lease alive")?.context("etcd no longer answers about the lease")?;
                    ensure!(answer.ttl() > 0, "this node's lease has run out");
                    unanswered = 0;
                }
                _ = ticks.tick() => {
                    ensure!(unanswered < 2, "etcd does not answer about the lease");
                    unanswered += 1;
                    lease.keeper.keep_alive().await.context("keeping the lease alive")?;
                    let addresses = addresses::find(&self.netlink()?, &self.config.node_addresses, &self.uplinks).await;
                    // Without an address for a moment, the last ones stay published.
                    if let Ok(addresses) = addresses
                        && memory.published.as_ref().is_some_and(|node| node.addresses != addresses)
                    {
                        bail!("this node's addresses have changed: publishing them");
                    }
                }
                () = time::sleep_until(grace_ends.unwrap_or_else(Instant::now).into()), if grace_ends.is_some() => {
                    memory.view.end_grace();
                    pending = Some(memory.assemble());
                }
            }
        }
    }

    /// Everything up to the watch.
    async fn start(&self, client: &mut Client, memory: &mut Memory) -> anyhow::Result<(Lease, WatchStream)> {
        let (config, keys) = (&self.config, &self.keys);
        let addresses = addresses::find(&self.netlink()?, &config.node_addresses, &self.uplinks).await?;
        let mut kv = client.kv_client();
        memory.pod_cidrs = allocate::obtain(&mut kv, keys, config, &self.name, &memory.pod_cidrs).await?;
        let node = Node { name: self.name.clone(), addresses, pod_cidrs: memory.pod_cidrs.clone() };
        let lease = publish(client, keys, config, &node, memory.lease).await?;
        memory.lease = Some(lease.id);
        memory.published = Some(node);

        let (revision, listed) = self.list(client).await?;
        memory.view.begin(Instant::now(), config.lease_ttl);
        memory.view.list(listed);
        let options = WatchOptions::new().with_prefix().with_start_revision(revision + 1);
        let watch = client.watch(keys.nodes(), Some(options)).await.context("watching the nodes")?;
        Ok((lease, watch))
    }

    /// The nodes at one revision.
    async fn list(&self, client: &mut Client) -> anyhow::Result<(i64, Vec<(String, Seen)>)> {
        let (mut from, end) = (self.keys.nodes().into_bytes(), prefix_end(&self.keys.nodes()));
        let mut revision = 0;
        let mut listed = Vec::new();
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(revision);
            let answer = client.get(from, Some(options)).await.context("listing the nodes")?;
            if revision == 0 {
                revision = answer.header().context("etcd's answer has no header")?.revision();
            }
            listed.extend(answer.kvs().iter().filter_map(|kv| self.read(kv)));
            match answer.kvs().last() {
                Some(last) if answer.more() => from = [last.key(), &[0]].concat(),
                _ => return Ok((revision, listed)),
            }
        }
    }

    /// Whether there is news; `None` where the history is compacted away.
    fn take(&self, response: &WatchResponse, view: &mut View) -> anyhow::Result<Option<bool>> {
        if response.compact_revision() > 0 {
            return Ok(None);
        }
        ensure!(!response.canceled(), "etcd has ended the watch: {}", response.cancel_reason());
        let mut changed = false;
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            match event.event_type() {
                EventType::Put => {
                    if let Some((name, seen)) = self.read(kv) {
                        changed |= view.put(name, seen);
                    }
                }
                EventType::Delete => {
                    let Some(name) = self.keys.name(kv.key()) else { continue };
                    ensure!(name != self.name, "this node's record was deleted: publishing it again");
                    changed |= view.delete(&name);
                }
            }
        }
        Ok(Some(changed))
    }

    fn read(&self, kv: &KeyValue) -> Option<(String, Seen)> {
        let name = self.keys.name(kv.key())?;
        let node = node_from_json(&name, kv.value()).map(Arc::new).map_err(|error| error.to_string());
        Some((name, Seen { created: kv.create_revision(), node }))
    }
}

impl Memory {
    fn assemble(&mut self) -> Update {
        self.assembly.assemble(&self.view.entries())
    }
}

/// The end of the range of keys that begin with `prefix`, which ends with a slash.
fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}
