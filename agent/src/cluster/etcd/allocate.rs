//! A node's pod CIDRs out of the cluster's ranges. Who creates the key of a pod CIDR has it, lease or not, until
//! somebody releases it.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
};

use anyhow::{Context as _, bail, ensure};
use etcd_client::{Compare, CompareOp, GetOptions, KvClient, Txn, TxnOp};
use ipnetwork::IpNetwork;

use super::{
    ranges,
    records::{Keys, allocation_from_json, allocation_to_json},
    settings::EtcdConfig,
};

/// So many others may be faster, one after the other, before this agent takes a break.
const ATTEMPTS: u64 = 100;

/// An allocation in etcd.
#[derive(Debug)]
struct Allocation {
    cidr: IpNetwork,
    /// `None` if it cannot be read: taken all the same.
    node: Option<String>,
    created: i64,
}

/// The pod CIDRs of node `name`, one a family: those it has already, else `former` ones or free ones.
///
/// # Errors
/// Names the range that is exhausted, and the way out.
pub(super) async fn obtain(
    etcd: &mut KvClient,
    keys: &Keys,
    config: &EtcdConfig,
    name: &str,
    former: &[IpNetwork],
) -> anyhow::Result<Vec<IpNetwork>> {
    let mut found = Vec::new();
    for v4 in [true, false] {
        let of_family = |list: &[IpNetwork]| -> Vec<IpNetwork> {
            list.iter().copied().filter(|cidr| cidr.is_ipv4() == v4).collect()
        };
        let ranges = of_family(&config.cluster_cidrs);
        if !ranges.is_empty() {
            let wanted =
                Wanted { name, ranges, length: config.node_prefix_length(v4), former: of_family(former) };
            found.push(wanted.obtain(etcd, keys).await?);
        }
    }
    Ok(found)
}

/// What is wanted of one family.
struct Wanted<'a> {
    name: &'a str,
    ranges: Vec<IpNetwork>,
    length: u8,
    former: Vec<IpNetwork>,
}

impl Wanted<'_> {
    async fn obtain(&self, etcd: &mut KvClient, keys: &Keys) -> anyhow::Result<IpNetwork> {
        let random = RandomState::new();
        for attempt in 0..ATTEMPTS {
            let all = list(etcd, keys).await?;
            let mine = all.iter().filter(|one| self.is_mine(one)).min_by_key(|one| one.created);
            if let Some(mine) = mine {
                if !all.iter().any(|other| other.created < mine.created && contradicts(other, mine)) {
                    return Ok(mine.cidr);
                }
                // Taken at the same moment by an agent with another prefix length: the later one steps back.
                delete(etcd, keys, mine).await?;
                continue;
            }
            let taken: Vec<IpNetwork> = all.iter().map(|one| one.cidr).collect();
            let former =
                self.former.iter().find(|cidr| !taken.iter().any(|other| ranges::overlap(cidr, other)));
            // In order, as long as nobody else tries the same.
            let from = if attempt == 0 { 0 } else { random.hash_one((self.name, attempt)) };
            let Some(cidr) =
                former.copied().or_else(|| ranges::free(&self.ranges, self.length, &taken, from))
            else {
                return Err(self.exhausted(&all));
            };
            // Looked at again whether this was the first one: there the agents find out about each other.
            let key = keys.allocation(cidr);
            let absent = Compare::create_revision(key.clone(), CompareOp::Equal, 0);
            let put = TxnOp::put(key, allocation_to_json(self.name)?, None);
            etcd.txn(Txn::new().when([absent]).and_then([put])).await.context("allocating a pod CIDR")?;
        }
        bail!("{ATTEMPTS} attempts to allocate a pod CIDR found other nodes faster: trying again")
    }

    fn is_mine(&self, one: &Allocation) -> bool {
        one.node.as_deref() == Some(self.name)
            && self.ranges.iter().any(|range| range.is_ipv4() == one.cidr.is_ipv4())
    }

    fn exhausted(&self, all: &[Allocation]) -> anyhow::Error {
        let within = |one: &&Allocation| self.ranges.iter().any(|range| ranges::overlap(range, &one.cidr));
        let owners: HashSet<&str> = all.iter().filter(within).filter_map(|one| one.node.as_deref()).collect();
        let list: Vec<String> = self.ranges.iter().map(ToString::to_string).collect();
        let count: u128 =
            self.ranges.iter().map(|range| ranges::count(range, self.length)).fold(0, u128::saturating_add);
        anyhow::anyhow!(
            "cluster range {} is exhausted: it has {count} pod CIDRs of length /{}, and {} nodes have taken them: widen etcd.clusterCIDRs, or free what a node that is gone has left (podlane etcd release NODE)",
            list.join(", "),
            self.length,
            owners.len()
        )
    }
}

/// Frees the pod CIDRs of node `name`.
///
/// # Errors
/// Where the node is there, unless `force` is given.
pub(super) async fn release(
    etcd: &mut KvClient,
    keys: &Keys,
    name: &str,
    force: bool,
) -> anyhow::Result<Vec<IpNetwork>> {
    let node = etcd.get(keys.node(name), None).await.context("looking for the node")?;
    if !node.kvs().is_empty() {
        ensure!(
            force,
            "node {name} is published in etcd, so its agent runs or did so a moment ago: stop it and wait until its lease has run out, or use --force if it is gone for good"
        );
        etcd.delete(keys.node(name), None).await.context("deleting the node")?;
    }
    let mut freed = Vec::new();
    for one in list(etcd, keys).await? {
        if one.node.as_deref() == Some(name) {
            delete(etcd, keys, &one).await?;
            freed.push(one.cidr);
        }
    }
    Ok(freed)
}

async fn list(etcd: &mut KvClient, keys: &Keys) -> anyhow::Result<Vec<Allocation>> {
    let answer = etcd.get(keys.allocations(), Some(GetOptions::new().with_prefix())).await;
    let answer = answer.context("listing the pod CIDRs that are taken")?;
    let read = |kv: &etcd_client::KeyValue| {
        Some(Allocation {
            cidr: keys.cidr(kv.key())?,
            node: allocation_from_json(kv.value()).ok(),
            created: kv.create_revision(),
        })
    };
    Ok(answer.kvs().iter().filter_map(read).collect())
}

async fn delete(etcd: &mut KvClient, keys: &Keys, one: &Allocation) -> anyhow::Result<()> {
    let key = keys.allocation(one.cidr);
    let same = Compare::create_revision(key.clone(), CompareOp::Equal, one.created);
    let txn = Txn::new().when([same]).and_then([TxnOp::delete(key, None)]);
    etcd.txn(txn).await.with_context(|| format!("freeing pod CIDR {}", one.cidr))?;
    Ok(())
}

fn contradicts(one: &Allocation, other: &Allocation) -> bool {
    ranges::overlap(&one.cidr, &other.cidr)
}
