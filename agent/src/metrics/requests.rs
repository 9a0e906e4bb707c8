//! Attaching and detaching, counted and timed.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::{counter::Counter, family::Family, histogram::Histogram};
use prometheus_client::registry::Registry;

/// From a millisecond, which is a quick ADD on an idle node, to the minutes that a runtime waits at most.
const BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 240.0];

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// ADD.
    Add,
    /// DEL.
    Del,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    operation: &'static str,
    /// The CNI error's number; "0" is success.
    code: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    operation: &'static str,
}

/// Counts the requests for attachments. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub struct Requests {
    count: Family<Outcome, Counter>,
    duration: Family<Kind, Histogram, fn() -> Histogram>,
}

impl Default for Requests {
    fn default() -> Self {
        let requests = Self {
            count: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
        };
        // A series that begins with its first error shows no increase: begin with the successes, at least.
        for operation in [Operation::Add, Operation::Del] {
            drop(requests.count.get_or_create(&Outcome { operation: operation.name(), code: 0 }));
            drop(requests.duration.get_or_create(&Kind { operation: operation.name() }));
        }
        requests
    }
}

impl Operation {
    const fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Del => "del",
        }
    }
}

impl Requests {
    /// Counts a request that has ended: with this CNI error, or without any.
    pub fn ended(&self, operation: Operation, error: Option<u32>, took: Duration) {
        let operation = operation.name();
        self.count.get_or_create(&Outcome { operation, code: error.unwrap_or(0) }).inc();
        self.duration.get_or_create(&Kind { operation }).observe(took.as_secs_f64());
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "attachment_requests",
            "Requests to attach and detach pods, by the CNI error's code (0 is success)",
            self.count.clone(),
        );
        registry.register(
            "attachment_duration_seconds",
            "How long the agent took for them",
            self.duration.clone(),
        );
    }
}
