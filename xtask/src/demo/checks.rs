//! What has to hold.

use anyhow::Result;
use podlane_tests::Lab;
use podlane_tests::lab::Node;
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
    Check::of_pairs("Servers see the client pod's own address (no NAT)", pairs.len(), &results)
}

/// What each node's kernel had forwarded at some moment.
pub(super) struct Forwarded(Vec<u64>);

impl Forwarded {
    pub(super) fn now(lab: &Lab) -> Result<Self> {
        counters::forwarded_by(lab.nodes()).map(Self)
    }

    /// What each node's kernel has forwarded since.
    pub(super) fn since(&self, lab: &Lab) -> Result<Vec<u64>> {
        let now = counters::forwarded_by(lab.nodes())?;
        Ok(now.iter().zip(&self.0).map(|(now, before)| now - before).collect())
    }
}

/// Holds if no kernel of `podlane` has forwarded anything. That the counter would have shown it is seen on the
/// classic network, where the kernels forwarded what was measured.
pub(super) fn nothing_forwarded(podlane: &Lab, by_podlane: &[u64], by_classic: &[u64]) -> Check {
    let line = |(node, packets): (&Node, &u64)| {
        (*packets > 0).then(|| format!("the kernel of {} forwarded {packets} packets", node.name()))
    };
    let mut failures: Vec<_> = podlane.nodes().iter().zip(by_podlane).filter_map(line).collect();
    let (podlane, classic) = (by_podlane.iter().sum::<u64>(), by_classic.iter().sum::<u64>());
    if classic == 0 {
        failures.push("the counter stood still on the classic network too: it shows nothing".to_owned());
    }
    Check {
        what: "eBPF carried it all: no kernel forwarded a packet",
        ok: failures.is_empty(),
        result: format!("IpForwDatagrams +{podlane} (classic: +{classic})"),
        failures,
    }
}
