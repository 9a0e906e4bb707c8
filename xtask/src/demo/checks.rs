//! What has to hold.

use anyhow::Result;
use podlane_tests::Lab;
use podlane_tests::probe::{self, PairResult, counters};
use serde::Serialize;

use super::steps::Steps;

/// One thing that held, or did not.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    /// The fact.
    pub(super) what: &'static str,
    pub(super) ok: bool,
    /// What was found, in few words.
    pub(super) result: String,
    /// A line for each thing that went wrong.
    pub(super) failures: Vec<String>,
}

impl Check {
    fn of_pairs(what: &'static str, expected: usize, results: &[PairResult]) -> Self {
        let failures = probe::failures(results);
        let held = results.len() - failures.len();
        let ok = held == expected && expected > 0;
        Self { what, ok, result: format!("{held} of {expected} pairs"), failures }
    }
}

/// Every pod pings every other pod.
pub(super) fn ping(lab: &Lab, steps: &Steps) -> Check {
    let pairs = lab.pod_pairs();
    let results = steps.count("Pinging every pod from every other pod", pairs.len(), |progress| {
        probe::ping::ping_pairs(&pairs, progress)
    });
    Check::of_pairs("Every pod can ping every other pod", pairs.len(), &results)
}

/// Every pod connects to every other pod, which looks at the address the connection comes from.
pub(super) fn source(lab: &Lab, steps: &Steps) -> Check {
    let pairs = lab.pod_pairs();
    let results = steps.count("Connecting from every pod to every other pod", pairs.len(), |progress| {
        probe::source::check_pairs(&pairs, progress)
    });
    Check::of_pairs("A server sees the client pod's own address (no NAT)", pairs.len(), &results)
}

/// What each node's kernel had forwarded at some moment.
pub(super) struct Forwarded(Vec<u64>);

impl Forwarded {
    pub(super) fn before(lab: &Lab) -> Result<Self> {
        counters::forwarded_by(lab.nodes()).map(Self)
    }

    /// What all nodes' kernels have forwarded since.
    pub(super) fn grown(&self, lab: &Lab) -> Result<u64> {
        let now = counters::forwarded_by(lab.nodes())?;
        Ok(now.iter().zip(&self.0).map(|(now, before)| now - before).sum())
    }

    /// Holds if no kernel has forwarded anything since. That the counter would have shown it is seen on the classic
    /// network, whose kernels forwarded `classic` packets for the same traffic.
    pub(super) fn check_unchanged(&self, lab: &Lab, classic: u64) -> Result<Check> {
        let now = counters::forwarded_by(lab.nodes())?;
        let grown: Vec<_> = now.iter().zip(&self.0).map(|(now, before)| now - before).collect();
        let line = |(node, grown): (&podlane_tests::lab::Node, &u64)| {
            (*grown > 0).then(|| format!("the kernel of {} forwarded {grown} packets", node.name()))
        };
        let mut failures: Vec<_> = lab.nodes().iter().zip(&grown).filter_map(line).collect();
        if classic == 0 {
            failures
                .push("the counter did not grow on the classic network either: it shows nothing".to_owned());
        }
        Ok(Check {
            what: "eBPF carried all of it: the kernel's IpForwDatagrams stand still",
            ok: failures.is_empty(),
            result: format!("{} forwarded (classic network: {classic})", grown.iter().sum::<u64>()),
            failures,
        })
    }
}
