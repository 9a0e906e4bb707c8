//! Looks at what passes between pods.

pub mod counters;
pub mod icmp;
pub mod iperf;
pub mod latency;
pub mod ongoing;
pub mod path;
pub mod ping;
pub mod pins;
pub mod resources;
pub mod sctp;
pub mod source;
pub mod state;
pub mod steady;
mod steady_service;
pub mod tcp;
pub mod traffic;
pub mod udp;
pub mod verdicts;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::lab::Pod;

/// One ordered pair of pods and what the probe found.
#[derive(Debug)]
pub struct PairResult {
    /// Who asked.
    pub client: Pod,
    /// Who answered.
    pub server: Pod,
    /// What went wrong, if anything did.
    pub outcome: anyhow::Result<()>,
}

impl PairResult {
    /// One line about a pair that failed.
    pub fn failure(&self) -> Option<String> {
        let error = self.outcome.as_ref().err()?;
        Some(format!(
            "{} ({}) -> {} ({}): {error:#}",
            self.client.label(),
            self.client.address(),
            self.server.label(),
            self.server.address(),
        ))
    }
}

/// Lines about all pairs that failed; empty if none did.
pub fn failures(results: &[PairResult]) -> Vec<String> {
    results.iter().filter_map(PairResult::failure).collect()
}

/// Probes all pairs, several at once; `progress` is called after each. The results are in the pairs' order.
fn probe_pairs(
    pairs: &[(Pod, Pod)],
    at_once: usize,
    probe: impl Fn(&Pod, &Pod) -> anyhow::Result<()> + Sync,
    progress: impl Fn() + Sync,
) -> Vec<PairResult> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..at_once.min(pairs.len()) {
            scope.spawn(|| {
                while let index = next.fetch_add(1, Ordering::Relaxed)
                    && let Some((client, server)) = pairs.get(index)
                {
                    let outcome = probe(client, server);
                    if let Ok(mut outcomes) = outcomes.lock() {
                        let result = PairResult { client: client.clone(), server: server.clone(), outcome };
                        outcomes.push((index, result));
                    }
                    progress();
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_default();
    outcomes.sort_by_key(|(index, _)| *index);
    outcomes.into_iter().map(|(_, result)| result).collect()
}
