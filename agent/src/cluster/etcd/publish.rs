//! This node's own record: under a lease that is kept alive.

use anyhow::{Context as _, ensure};
use etcd_client::{
    Client, Compare, CompareOp, KeyValue, LeaseKeepAliveStream, LeaseKeeper, PutOptions, Txn, TxnOp,
};

use super::{
    records::{Keys, node_from_json, node_to_json},
    settings::EtcdConfig,
};
use crate::cluster::Node;

/// A lease, and the two ends of keeping it alive.
pub(super) struct Lease {
    pub(super) id: i64,
    pub(super) keeper: LeaseKeeper,
    pub(super) answers: LeaseKeepAliveStream,
}

/// Publishes `node`. What is there already as it should be stays untouched: every write is news for every node.
///
/// # Errors
/// Another machine has published itself under this name.
pub(super) async fn publish(
    client: &mut Client,
    keys: &Keys,
    config: &EtcdConfig,
    node: &Node,
    former_lease: Option<i64>,
) -> anyhow::Result<Lease> {
    let key = keys.node(&node.name);
    let answer = client.get(key.as_str(), None).await.context("looking for this node's record")?;
    let present = answer.kvs().first();
    if let Some(present) = present {
        check_owner(present, node, former_lease)?;
    }
    let lease = obtain(client, config, former_lease.or(present.map(KeyValue::lease))).await?;
    let json = node_to_json(node)?;
    if present.is_some_and(|kv| kv.value() == json.as_bytes() && kv.lease() == lease.id) {
        return Ok(lease);
    }
    let revision = present.map_or(0, KeyValue::mod_revision);
    let unchanged = Compare::mod_revision(key.as_str(), CompareOp::Equal, revision);
    let put = TxnOp::put(key, json, Some(PutOptions::new().with_lease(lease.id)));
    let answer =
        client.txn(Txn::new().when([unchanged]).and_then([put])).await.context("publishing this node")?;
    ensure!(
        answer.succeeded(),
        "the record of node {} changed while it was written: trying again",
        node.name
    );
    Ok(lease)
}

/// Two machines of one name would overwrite each other for ever: the second one waits.
fn check_owner(present: &KeyValue, node: &Node, former_lease: Option<i64>) -> anyhow::Result<()> {
    if former_lease == Some(present.lease()) {
        return Ok(());
    }
    let Ok(other) = node_from_json(&node.name, present.value()) else { return Ok(()) };
    let list = |node: &Node| node.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    ensure!(
        other.addresses.iter().any(|address| node.addresses.contains(address)),
        "another machine, {}, is node {} already, this one is {}: give one of them another nodeName, or wait until the other's lease has run out if this one's address has changed",
        list(&other),
        node.name,
        list(node)
    );
    Ok(())
}

/// The former lease, if it still lives and lasts as long as it should, or a new one.
async fn obtain(client: &mut Client, config: &EtcdConfig, former: Option<i64>) -> anyhow::Result<Lease> {
    let ttl = i64::try_from(config.lease_ttl.as_secs())?;
    let mut leases = client.lease_client();
    if let Some(id) = former.filter(|id| *id != 0)
        && let Ok(found) = leases.time_to_live(id, None).await
        && found.ttl() > 0
        && found.granted_ttl() == ttl
        && let Ok((keeper, answers)) = leases.keep_alive(id).await
    {
        return Ok(Lease { id, keeper, answers });
    }
    let id = leases.grant(ttl, None).await.context("asking for a lease")?.id();
    let (keeper, answers) = leases.keep_alive(id).await.context("keeping the lease alive")?;
    Ok(Lease { id, keeper, answers })
}
