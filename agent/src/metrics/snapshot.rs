//! What a scrape shows of the agent's state.

use std::collections::BTreeMap;
use std::fmt::Error;
use std::time::{SystemTime, UNIX_EPOCH};

use dataplane_common::{Counter, Hook, Verdict};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::datapath::MapUse;

/// The agent at one moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) counters: Vec<(Hook, Verdict, Counter)>,
    pub(super) maps: Vec<MapUse>,
    pub(super) attachments: usize,
    /// By state; all states are there.
    pub(super) peers: BTreeMap<String, usize>,
    pub(super) problems: usize,
    pub(super) warnings: usize,
    pub(super) repairs: u64,
    pub(super) started: bool,
    pub(super) reconciled: Option<SystemTime>,
    pub(super) source: String,
    pub(super) source_up: bool,
    pub(super) attach: String,
    pub(super) xdp: String,
    pub(super) kernel: String,
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut packets =
            encoder.encode_descriptor("packets", "Packets by hook and verdict", None, MetricType::Counter)?;
        for (hook, verdict, counter) in &self.counters {
            count(&mut packets, &verdict_labels(*hook, *verdict), counter.packets)?;
        }
        let mut bytes = encoder.encode_descriptor(
            "bytes",
            "Bytes of those packets, from the Ethernet header on",
            None,
            MetricType::Counter,
        )?;
        for (hook, verdict, counter) in &self.counters {
            count(&mut bytes, &verdict_labels(*hook, *verdict), counter.bytes)?;
        }
        encoder
            .encode_descriptor(
                "repairs",
                "What others broke and the agent mended",
                None,
                MetricType::Counter,
            )?
            .encode_counter::<NoLabelSet, _, u64>(&self.repairs, None)?;
        let mut gauge = |name: &str, help: &str, value: f64| {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
        };
        gauge("attachments", "Pod interfaces that are attached", whole(self.attachments))?;
        gauge("problems", "What is wrong, as in the status", whole(self.problems))?;
        gauge("warnings", "What else is wrong, as in the status", whole(self.warnings))?;
        gauge("ready", "1 when pods can be attached", flag(self.started))?;
        gauge(
            "last_reconcile_timestamp_seconds",
            "When the node was last made to be as the cluster says; 0 is never",
            self.reconciled
                .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
                .map_or(0.0, |at| at.as_secs_f64()),
        )?;
        let mut peers =
            encoder.encode_descriptor("peers", "The other nodes by state", None, MetricType::Gauge)?;
        for (state, number) in &self.peers {
            value(&mut peers, &[("state", state.as_str())], whole(*number))?;
        }
        let mut entries = encoder.encode_descriptor(
            "map_entries",
            "Entries of the BPF maps (stack_flows: at the last sweep)",
            None,
            MetricType::Gauge,
        )?;
        for map in &self.maps {
            value(&mut entries, &[("map", map.name)], whole(map.entries))?;
        }
        let mut capacity = encoder.encode_descriptor(
            "map_capacity_entries",
            "How many entries the BPF maps can have",
            None,
            MetricType::Gauge,
        )?;
        for map in &self.maps {
            value(&mut capacity, &[("map", map.name)], f64::from(map.capacity))?;
        }
        let mut source = encoder.encode_descriptor(
            "cluster_source_up",
            "1 while the cluster source can be read and is consistent",
            None,
            MetricType::Gauge,
        )?;
        value(&mut source, &[("source", self.source.as_str())], flag(self.source_up))?;
        encoder
            .encode_descriptor("build", "What runs here", None, MetricType::Info)?
            .encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        encoder.encode_descriptor("datapath", "How it runs here", None, MetricType::Info)?.encode_info(&[
            ("attach", self.attach.as_str()),
            ("xdp", self.xdp.as_str()),
            ("kernel", self.kernel.as_str()),
        ])
    }
}

fn verdict_labels(hook: Hook, verdict: Verdict) -> [(&'static str, &'static str); 3] {
    let action = match verdict {
        Verdict::Pass(_) => "pass",
        Verdict::Forwarded(_) => "forward",
        Verdict::Drop(_) => "drop",
    };
    [("hook", hook.name()), ("verdict", verdict.name()), ("action", action)]
}

fn count(family: &mut MetricEncoder<'_>, labels: &impl EncodeLabelSet, value: u64) -> Result<(), Error> {
    family.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

fn value(family: &mut MetricEncoder<'_>, labels: &impl EncodeLabelSet, value: f64) -> Result<(), Error> {
    family.encode_family(labels)?.encode_gauge(&value)
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

/// Exact: no number of things on a node is larger than 32 bits.
fn whole(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::INFINITY, f64::from)
}
