//! Tells the cluster that pods can be attached to this node: its NetworkUnavailable condition becomes false, and the
//! taint that kept pods away goes.

use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Resource as _,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::{sync::watch, time};

use super::objects::NodeObject;

/// The key of the taint that keeps pods off a node until its agent is ready, whatever its effect.
pub const AGENT_NOT_READY: &str = "podlane.io/agent-not-ready";

const CONDITION: &str = "NetworkUnavailable";
const REASON: &str = "PodlaneIsUp";

/// As in the API's managed fields.
const MANAGER: &str = "podlane";

/// After an error.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// This node as the API has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OwnNode {
    version: Option<String>,
    taints: Vec<Value>,
    /// Status and reason of the condition.
    condition: Option<(String, Option<String>)>,
}

impl OwnNode {
    pub(super) fn of(object: &NodeObject) -> Self {
        let condition =
            object.status.conditions.iter().flatten().find(|condition| condition.kind == CONDITION);
        Self {
            version: object.meta().resource_version.clone(),
            taints: object.spec.taints.clone().unwrap_or_default(),
            condition: condition.map(|condition| (condition.status.clone(), condition.reason.clone())),
        }
    }

    /// Whether the condition has to be written. The first time, with our reason; later only where somebody says that
    /// the network is unavailable: a quarrel with a cloud's controller about the reason would have no end.
    fn needs_condition(&self, announced: bool) -> bool {
        match &self.condition {
            Some((status, reason)) => status != "False" || (!announced && reason.as_deref() != Some(REASON)),
            None => true,
        }
    }

    /// The taints without ours, if it is among them.
    fn other_taints(&self) -> Option<Vec<&Value>> {
        let ours = |taint: &Value| taint.get("key").and_then(Value::as_str) == Some(AGENT_NOT_READY);
        let others: Vec<&Value> = self.taints.iter().filter(|taint| !ours(taint)).collect();
        (others.len() < self.taints.len()).then_some(others)
    }
}

/// Looks at this node again whenever it changes: it may be registered anew. Never ends.
pub(super) async fn announce(
    api: Api<NodeObject>,
    name: &str,
    mut own: watch::Receiver<Option<OwnNode>>,
    mut ready: watch::Receiver<bool>,
) {
    let is_ready = ready.wait_for(|ready| *ready).await.map(drop);
    if is_ready.is_err() {
        // The agent ends.
        return std::future::pending().await;
    }
    let mut announced = false;
    let mut pause = SHORTEST_PAUSE;
    loop {
        let node = own.borrow_and_update().clone();
        let result = match &node {
            Some(node) => write(&api, name, node, announced).await,
            None => Ok(()),
        };
        match result {
            Ok(()) => {
                announced |= node.is_some();
                pause = SHORTEST_PAUSE;
                if own.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "trying again in {pause:?}");
                time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

async fn write(api: &Api<NodeObject>, name: &str, node: &OwnNode, announced: bool) -> anyhow::Result<()> {
    let newer;
    let mut node = node;
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    if node.needs_condition(announced) {
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        // A strategic merge leaves the other conditions alone.
        let patch = Patch::Strategic(json!({"status": {"conditions": [{
            "type": CONDITION,
            "status": "False",
            "reason": REASON,
            "message": "Podlane attaches pods on this node",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }]}}));
        let patched = api
            .patch_status(name, &params, &patch)
            .await
            .with_context(|| format!("setting the condition {CONDITION} of node {name} to False"))?;
        tracing::info!(node = name, "condition {CONDITION} is False: {REASON}");
        newer = OwnNode::of(&patched);
        node = &newer;
    }
    if let Some(others) = node.other_taints() {
        // The list is written whole: only over the version that it was read from.
        let patch = Patch::Merge(json!({
            "metadata": {"resourceVersion": node.version},
            "spec": {"taints": others},
        }));
        match api.patch(name, &params, &patch).await {
            Ok(_) => tracing::info!(node = name, "taint {AGENT_NOT_READY} removed"),
            // It has changed meanwhile: the watch brings the newer one.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("removing the taint {AGENT_NOT_READY} from node {name}"));
            }
        }
    }
    Ok(())
}
