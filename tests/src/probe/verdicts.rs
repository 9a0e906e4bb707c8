//! What the programs did, as `podlane status` counts it.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde_json::Value;

use crate::lab::{Agent, Node};

/// Packets by hook and verdict: `from_pod/to-pod`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdicts(BTreeMap<String, u64>);

impl Verdicts {
    /// Those of an agent's programs so far.
    pub fn of(agent: &Agent) -> anyhow::Result<Self> {
        let (status, _) = agent.status()?;
        let counters = status.get("counters").and_then(Value::as_array);
        let counters = counters.with_context(|| format!("no counters in the status: {status}"))?;
        let entry = |counter: &Value| {
            let word = |key: &str| counter.get(key).and_then(Value::as_str);
            let packets = counter.get("packets").and_then(Value::as_u64);
            Some((format!("{}/{}", word("hook")?, word("verdict")?), packets?))
        };
        let entries = counters
            .iter()
            .map(|counter| entry(counter).with_context(|| format!("not a counter: {counter}")));
        Ok(Self(entries.collect::<anyhow::Result<_>>()?))
    }

    /// Those of a node's.
    pub fn on(node: &Node) -> anyhow::Result<Self> {
        Self::of(node.agent()?)
    }

    /// Packets with that verdict at that hook.
    pub fn packets(&self, hook: &str, verdict: &str) -> u64 {
        self.0.get(&format!("{hook}/{verdict}")).copied().unwrap_or(0)
    }

    /// What has come since `before`, without what has not changed.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let grown = |(name, packets): (&String, &u64)| {
            let more = packets.saturating_sub(before.0.get(name).copied().unwrap_or(0));
            (more > 0).then(|| (name.clone(), more))
        };
        Self(self.0.iter().filter_map(grown).collect())
    }
}
