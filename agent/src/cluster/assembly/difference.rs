//! The usual case: a few nodes have come, gone or changed, and nothing contradicts. Then nobody has to be decided about,
//! and only what has changed is looked at.

use std::sync::Arc;

use super::Entry;
use crate::cluster::{Cluster, Node, node::overlap};

/// So many changes are compared with every node; with more it is faster to sort all claims.
const FEW: usize = 64;

/// The cluster of these entries, where it differs little from `last` and nothing is wrong with either. It is the one
/// that a whole decision would come to: that refuses nobody where all that is listed is apart.
pub(super) fn apply(last: &Cluster, entries: &[Entry]) -> Option<Cluster> {
    if !last.refused.is_empty() {
        return None;
    }
    let mut nodes: Vec<Option<&Arc<Node>>> = vec![None; last.nodes.len()];
    let mut changed: Vec<&Arc<Node>> = Vec::new();
    let mut newcomers: Vec<&Arc<Node>> = Vec::new();
    for entry in entries {
        let node = entry.node.as_ref().ok()?;
        let known =
            last.place(&node.name).ok().and_then(|at| Some((last.nodes.get(at)?, nodes.get_mut(at)?)));
        match known {
            None => {
                newcomers.push(node);
                changed.push(node);
            }
            // Listed twice.
            Some((_, Some(_))) => return None,
            Some((old, place)) if old == node => *place = Some(old),
            Some((_, place)) => {
                *place = Some(node);
                changed.push(node);
            }
        }
        if changed.len() > FEW {
            return None;
        }
    }
    let listed = || nodes.iter().copied().flatten().chain(newcomers.iter().copied());
    for node in &changed {
        let fits = node.check().is_ok()
            && listed()
                .all(|other| Arc::ptr_eq(node, other) || (node.name != other.name && apart(node, other)));
        if !fits {
            return None;
        }
    }
    if changed.is_empty() && nodes.iter().all(Option::is_some) {
        return Some(last.clone());
    }
    Some(Cluster::new(listed().cloned().collect(), Vec::new()))
}

/// Whether two nodes can be in one cluster.
fn apart(one: &Node, other: &Node) -> bool {
    let outside = |one: &Node, other: &Node| {
        one.addresses.iter().all(|address| !other.pod_cidrs.iter().any(|cidr| cidr.contains(*address)))
    };
    one.addresses.iter().all(|address| !other.addresses.contains(address))
        && one.pod_cidrs.iter().all(|cidr| !other.pod_cidrs.iter().any(|found| overlap(*cidr, *found)))
        && outside(one, other)
        && outside(other, one)
}
