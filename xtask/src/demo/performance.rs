//! Podlane beside the classic network: throughput and latency.

use std::time::Duration;

use anyhow::{Context as _, Result};
use podlane_tests::Lab;
use podlane_tests::lab::Pod;
use podlane_tests::probe::{iperf, latency};
use serde::Serialize;

use super::steps::Steps;

const SECONDS: u64 = 2;
/// The contenders take turns, so that whatever else the machine does hits both.
const LATENCY_TURNS: usize = 5;
const ROUND_TRIPS: usize = 2000;

/// One way between two pods, on both networks.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Way {
    pub(super) way: &'static str,
    pub(super) podlane: Figures,
    pub(super) classic: Figures,
}

/// What was measured on one network.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Figures {
    pub(super) gbit_per_second: f64,
    pub(super) retransmits: u64,
    pub(super) round_trip_microseconds: f64,
}

pub(super) fn compare(podlane: &Lab, classic: &Lab, steps: &Steps) -> Result<Vec<Way>> {
    [("on one node", 1), ("across nodes", 2)]
        .into_iter()
        .map(|(way, server_node)| {
            let pods = |lab: &Lab| -> Result<(Pod, Pod)> {
                let pod = |node: usize, index: usize| {
                    let pods = lab.node(node).pods();
                    pods.get(index).cloned().with_context(|| format!("node{node} has no pod {index}"))
                };
                Ok((pod(1, 0)?, pod(server_node, 1)?))
            };
            let contenders = [("Podlane", pods(podlane)?), ("the classic network", pods(classic)?)];
            let mut throughput = Vec::new();
            for (name, (client, server)) in &contenders {
                let label = format!("Measuring throughput {way} with iperf3 on {name} ({SECONDS} s)");
                throughput.push(steps.step(&label, || iperf::tcp(client, server, SECONDS))?);
            }
            let label = format!("Measuring round trips {way} on both");
            let round_trips = steps.step(&label, || take_turns(&contenders))?;
            let figures = |index: usize| Figures {
                gbit_per_second: throughput[index].bits_per_second / 1e9,
                retransmits: throughput[index].retransmits,
                round_trip_microseconds: round_trips[index].as_secs_f64() * 1e6,
            };
            Ok(Way { way, podlane: figures(0), classic: figures(1) })
        })
        .collect()
}

/// The median of each contender's medians.
fn take_turns(contenders: &[(&str, (Pod, Pod)); 2]) -> Result<[Duration; 2]> {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..LATENCY_TURNS {
        for (times, (_, (client, server))) in times.iter_mut().zip(contenders) {
            times.push(latency::median_round_trip(client, server, ROUND_TRIPS)?);
        }
    }
    Ok(times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    }))
}
