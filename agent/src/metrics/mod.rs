//! Probes and metrics over TCP: `/healthz`, `/readyz` and `/metrics`. See `docs/metrics.md`, which lists every metric.

mod requests;
mod snapshot;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{encoding::text, registry::Registry};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, time};

pub use requests::{Operation, Requests};

use snapshot::Snapshot;

use crate::{
    api::StatusSource,
    cluster::SourceSetting,
    datapath::Datapath,
    node::{NodeStatus, PeerState},
    pods::PodManager,
    repairs::Repairs,
};

/// How long to wait before an address that is taken is tried again: an agent before this one may be ending.
const AGAIN: Duration = Duration::from_secs(2);

/// What the prometheus-client crate writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What there is to tell.
#[derive(Clone)]
pub struct Sources {
    /// The programs' counters and maps.
    pub datapath: Arc<Datapath>,
    /// The attachments.
    pub manager: PodManager,
    /// The node.
    pub node: watch::Receiver<NodeStatus>,
    /// The daemon as a whole.
    pub status: Arc<dyn StatusSource>,
    /// What has been mended.
    pub repairs: Repairs,
    /// Where the cluster's state comes from.
    pub cluster_source: SourceSetting,
}

/// Serves for as long as the agent runs. That somebody else has the address is no reason not to attach pods: it is
/// said, and tried again.
pub async fn serve(address: SocketAddr, sources: Sources) {
    let router = Router::new()
        .route("/healthz", get(healthz))
        // Kubernetes' newer name for it.
        .route("/livez", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(sources);
    let mut said = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) if !said => {
                said = true;
                tracing::warn!(%address, %error, "no probes and metrics yet: free the address, or set metricsAddress");
            }
            Err(_) => {}
        }
        time::sleep(AGAIN).await;
    };
    tracing::info!(%address, "serving probes and metrics");
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "probes and metrics are no longer served");
    }
}

/// Whether the agent lives. Not whether all is well: a restart cures no problem.
async fn healthz(State(sources): State<Sources>) -> Json<Value> {
    Json(report(&sources).await)
}

/// Whether it can attach pods.
async fn readyz(State(sources): State<Sources>) -> (StatusCode, Json<Value>) {
    let code = if sources.status.started() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(report(&sources).await))
}

async fn report(sources: &Sources) -> Value {
    let problems = sources.status.problems().await;
    json!({ "healthy": problems.is_empty(), "ready": sources.status.started(), "problems": problems })
}

async fn metrics(State(sources): State<Sources>) -> Response {
    let problems = sources.status.problems().await.len();
    // Maps are read by system calls, and waited for where a pass is writing them.
    let text = tokio::task::spawn_blocking(move || sources.encode(problems)).await;
    match text.context("the scrape died").and_then(|text| text) {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response(),
    }
}

impl Sources {
    fn encode(&self, problems: usize) -> anyhow::Result<String> {
        let mut registry = Registry::with_prefix("podlane");
        self.manager.requests().register(&mut registry);
        registry.register_collector(Box::new(self.snapshot(problems)?));
        let mut text = String::new();
        text::encode(&mut text, &registry).context("writing the metrics")?;
        Ok(text)
    }

    fn snapshot(&self, problems: usize) -> anyhow::Result<Snapshot> {
        let node = self.node.borrow().clone();
        use PeerState::{Direct, Routed, Tunnel, Unreachable};
        let mut peers: BTreeMap<String, usize> =
            [Direct, Routed, Tunnel, Unreachable].iter().map(|state| (word(state), 0)).collect();
        for peer in &node.peers {
            *peers.entry(word(&peer.state)).or_default() += 1;
        }
        Ok(Snapshot {
            counters: self.datapath.counters()?,
            maps: self.datapath.map_use()?,
            attachments: self.manager.len(),
            peers,
            problems,
            warnings: self.status.warnings().len(),
            repairs: self.repairs.total(),
            started: self.status.started(),
            reconciled: node.reconciled,
            source: word(&self.cluster_source),
            source_up: node.source_up,
            attach: word(&self.datapath.attach_mode()),
            xdp: word(&self.datapath.xdp_mode()),
            kernel: self.datapath.features().kernel.clone(),
        })
    }
}

/// A value's name in the API, which is its label here.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}
