//! The list and watch of nodes.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use ipnetwork::IpNetwork;
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Error as ApiError, ResourceExt as _,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use tokio::{
    sync::{Notify, mpsc, watch},
    time,
};

use super::{announce::OwnNode, objects::NodeObject};
use crate::cluster::{Assembly, Entry, Node, Update};

/// Nodes in one answer: a list of thousands would be tens of megabytes.
const PAGE: u32 = 200;

/// At least between two lists that are made because the API has forgotten what happened.
const RELIST_PAUSE: Duration = Duration::from_secs(10);

const BEHIND: &str = "listing all nodes again: the API has forgotten what happened since the last watch";

/// A node as the API has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listed {
    created: Option<Timestamp>,
    node: Result<Arc<Node>, String>,
}

/// What is known of the nodes.
pub(super) struct Nodes {
    server: String,
    own_name: String,
    own: watch::Sender<Option<OwnNode>>,
    assembly: Assembly,
    /// The nodes since the last full list; `None` before the first.
    known: Option<BTreeMap<String, Listed>>,
    /// The nodes of a list that is not complete yet.
    listing: BTreeMap<String, Listed>,
    problem: Option<String>,
    /// Something is to be said.
    news: bool,
}

impl Nodes {
    pub(super) fn new(server: String, own_name: String, own: watch::Sender<Option<OwnNode>>) -> Self {
        Self {
            server,
            own_name,
            own,
            assembly: Assembly::default(),
            known: None,
            listing: BTreeMap::new(),
            problem: None,
            news: false,
        }
    }

    /// Until nobody listens any more.
    pub(super) async fn run(
        mut self,
        api: Api<NodeObject>,
        answered: Arc<Notify>,
        updates: mpsc::Sender<Update>,
    ) {
        let settings = || watcher::Config::default().page_size(PAGE);
        let start = || Box::pin(watcher(api.clone(), settings()).default_backoff());
        let mut events = start();
        let mut listed: Option<Instant> = None;
        loop {
            tokio::select! {
                // Events first: those that have come already are told as one.
                biased;
                () = updates.closed() => return,
                Some(event) = events.next() => match event {
                    Ok(event) => self.take(event),
                    Err(error) => {
                        self.fail(&error);
                        // A new list at once, not when the back-off of an outage before has passed; but not again
                        // and again.
                        if is_gone(&error) {
                            let pause = listed.map_or(Duration::ZERO, |at: Instant| {
                                RELIST_PAUSE.saturating_sub(at.elapsed())
                            });
                            time::sleep(pause).await;
                            listed = Some(Instant::now());
                            events = start();
                        }
                    }
                },
                () = answered.notified() => self.succeed(),
                permit = updates.reserve(), if self.news => match permit {
                    Ok(permit) => {
                        self.news = false;
                        if let Some(update) = self.update() {
                            permit.send(update);
                        }
                    }
                    Err(_) => return,
                },
            }
        }
    }

    fn update(&mut self) -> Option<Update> {
        if let Some(problem) = &self.problem {
            return Some(Update::Problem(problem.clone()));
        }
        let mut listed: Vec<(&String, &Listed)> = self.known.as_ref()?.iter().collect();
        // The oldest first: every agent decides a conflict in the same way.
        listed.sort_by_key(|(name, listed)| (listed.created, *name));
        let entries: Vec<Entry> = listed
            .into_iter()
            .map(|(name, listed)| match &listed.node {
                Ok(node) => Entry::from(Arc::clone(node)),
                Err(problem) => Entry::unreadable(name.clone(), problem.clone()),
            })
            .collect();
        Some(self.assembly.assemble(&entries))
    }

    fn take(&mut self, event: Event<NodeObject>) {
        match event {
            Event::Init => self.listing.clear(),
            Event::InitApply(object) => {
                self.look_at_own(&object);
                let listed = describe(&object);
                self.listing.insert(object.name_any(), self.as_known(&object.name_any(), listed));
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listing);
                if !listed.contains_key(&self.own_name) {
                    self.own.send_replace(None);
                }
                self.news |= self.known.as_ref() != Some(&listed);
                self.known = Some(listed);
                self.succeed();
            }
            Event::Apply(object) => {
                self.look_at_own(&object);
                let name = object.name_any();
                let listed = self.as_known(&name, describe(&object));
                if let Some(known) = &mut self.known
                    && known.get(&name) != Some(&listed)
                {
                    known.insert(name, listed);
                    self.news = true;
                }
                self.succeed();
            }
            Event::Delete(object) => {
                let name = object.name_any();
                if name == self.own_name {
                    self.own.send_replace(None);
                }
                if let Some(known) = &mut self.known {
                    self.news |= known.remove(&name).is_some();
                }
                self.succeed();
            }
        }
    }

    /// The known one where it is the same: nobody compares what it points to again.
    fn as_known(&self, name: &str, listed: Listed) -> Listed {
        match self.known.as_ref().and_then(|known| known.get(name)) {
            Some(known) if *known == listed => known.clone(),
            _ => listed,
        }
    }

    fn look_at_own(&self, object: &NodeObject) {
        if object.name_any() == self.own_name {
            self.own.send_replace(Some(OwnNode::of(object)));
        }
    }

    fn succeed(&mut self) {
        if self.problem.take().is_some() {
            tracing::info!(server = self.server, "the Kubernetes API answers again");
            self.news = true;
        }
    }

    fn fail(&mut self, error: &watcher::Error) {
        if is_gone(error) {
            tracing::info!(server = self.server, "{BEHIND}");
            return;
        }
        let (doing, cause) = match error {
            watcher::Error::InitialListFailed(cause) => ("list", cause),
            watcher::Error::WatchStartFailed(cause) => ("watch", cause),
            // A refusal where events were to come.
            watcher::Error::WatchFailed(cause @ ApiError::Api(_)) => ("watch", cause),
            // Watches end now and then. It is a problem if the next attempt fails.
            other => {
                tracing::debug!(server = self.server, error = %chain(other), "the watch of nodes has ended");
                return;
            }
        };
        let problem = explain(&self.server, doing, cause);
        if self.problem.as_ref() != Some(&problem) {
            self.problem = Some(problem);
            self.news = true;
        }
    }
}

/// Why the API does not say what the nodes are.
fn explain(server: &str, doing: &str, cause: &ApiError) -> String {
    match cause {
        ApiError::Api(status) if matches!(status.code, 401 | 403) => format!(
            "the Kubernetes API at {server} refuses to {doing} nodes: {}: look at the service account, \
             deploy/kubernetes/rbac.yaml has what it needs",
            status.message
        ),
        ApiError::Api(status) => {
            format!(
                "the Kubernetes API at {server} cannot {doing} nodes: {} ({})",
                status.message, status.code
            )
        }
        other => {
            format!("the Kubernetes API at {server} cannot be reached to {doing} nodes: {}", chain(other))
        }
    }
}

/// An error with its causes, each once: some repeat the next one in their own text.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = next.source();
    }
    text
}

/// The API has forgotten the version that a watch should start from.
pub(super) fn is_gone(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(ApiError::Api(status))
        | watcher::Error::WatchFailed(ApiError::Api(status))
        | watcher::Error::WatchError(status) => status.code == 410,
        _ => false,
    }
}

/// What matters of a node; an error where it lacks something.
fn describe(object: &NodeObject) -> Listed {
    let created = object.creation_timestamp().map(|time| time.0);
    Listed { created, node: node(object).map(Arc::new) }
}

fn node(object: &NodeObject) -> Result<Node, String> {
    let name = object.name_any();
    let mut addresses: Vec<IpAddr> = Vec::new();
    let internal = object.status.addresses.iter().flatten().filter(|address| address.kind == "InternalIP");
    for address in internal {
        let parsed = address.address.parse().map_err(|_| {
            format!("node {name} has the InternalIP \"{}\", which is not an IP address", address.address)
        })?;
        if !addresses.contains(&parsed) {
            addresses.push(parsed);
        }
    }
    if addresses.is_empty() {
        return Err(format!("node {name} has no InternalIP in its status: its kubelet sets it (--node-ip)"));
    }
    let texts = match &object.spec.pod_cidrs {
        Some(cidrs) if !cidrs.is_empty() => cidrs.as_slice(),
        _ => object.spec.pod_cidr.as_slice(),
    };
    let mut pod_cidrs: Vec<IpNetwork> = Vec::new();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        pod_cidrs.push(
            text.parse()
                .map_err(|_| format!("node {name} has the podCIDR \"{text}\", which is not a network"))?,
        );
    }
    if pod_cidrs.is_empty() {
        return Err(format!(
            "node {name} has no podCIDRs: run kube-controller-manager with --allocate-node-cidrs, or set spec.podCIDRs"
        ));
    }
    Ok(Node { name, addresses, pod_cidrs })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(json: serde_json::Value) -> Result<Arc<Node>, String> {
        describe(&serde_json::from_value(json).unwrap()).node
    }

    fn object(spec: serde_json::Value, addresses: serde_json::Value) -> serde_json::Value {
        serde_json::json!({
            "metadata": {"name": "node1", "resourceVersion": "7", "creationTimestamp": "2026-01-02T03:04:05Z",
                         "labels": {"a": "b"}, "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:a": {}}}]},
            "spec": spec,
            "status": {"addresses": addresses, "images": [{"names": ["a"], "sizeBytes": 1}], "conditions": null},
        })
    }

    #[test]
    fn internal_addresses_and_pod_cidrs_of_both_families_are_taken() {
        let node = described(object(
            serde_json::json!({"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:244:1::/64"]}),
            serde_json::json!([
                {"type": "Hostname", "address": "node1"},
                {"type": "ExternalIP", "address": "203.0.113.1"},
                {"type": "InternalIP", "address": "192.168.1.11"},
                {"type": "InternalIP", "address": "fd00:1::11"},
            ]),
        ))
        .unwrap();
        assert_eq!(
            node.addresses,
            ["192.168.1.11", "fd00:1::11"].map(|text| text.parse::<IpAddr>().unwrap())
        );
        assert_eq!(
            node.pod_cidrs,
            ["10.244.1.0/24", "fd00:244:1::/64"].map(|text| text.parse::<IpNetwork>().unwrap())
        );
    }

    #[test]
    fn the_old_field_for_one_pod_cidr_serves_where_the_new_one_is_empty() {
        let addresses = serde_json::json!([{"type": "InternalIP", "address": "192.168.1.11"}]);
        for spec in [
            serde_json::json!({"podCIDR": "10.244.1.0/24"}),
            serde_json::json!({"podCIDR": "10.244.1.0/24", "podCIDRs": []}),
            serde_json::json!({"podCIDR": "10.244.1.0/24", "podCIDRs": null}),
        ] {
            assert_eq!(described(object(spec, addresses.clone())).unwrap().pod_cidrs.len(), 1);
        }
    }

    #[test]
    fn what_a_node_lacks_is_told_with_its_name() {
        let addresses = serde_json::json!([{"type": "InternalIP", "address": "192.168.1.11"}]);
        for (spec, addresses, expected) in [
            (serde_json::json!({}), addresses.clone(), "node node1 has no podCIDRs"),
            (serde_json::json!({"podCIDR": "10.244.1"}), addresses, "the podCIDR \"10.244.1\""),
            (serde_json::json!({"podCIDR": "10.244.1.0/24"}), serde_json::Value::Null, "no InternalIP"),
            (
                serde_json::json!({"podCIDR": "10.244.1.0/24"}),
                serde_json::json!([{"type": "InternalIP", "address": "node1.example"}]),
                "\"node1.example\", which is not an IP address",
            ),
        ] {
            let problem = described(object(spec, addresses)).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        }
    }
}
