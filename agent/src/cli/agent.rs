//! `podlane agent`: the daemon.

use std::{
    collections::BTreeMap,
    io::IsTerminal as _,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
};
use tracing::Level;
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use super::service;
use crate::{
    api::{self, StatusSource},
    cluster::{self, PodDirectory, Surroundings},
    cni::Installation,
    config::{Config, LogFormat, Settings, TunnelSetting},
    datapath::{Datapath, Options},
    metrics,
    netlink::Netlink,
    node::{NodeStatus, NodeTask, OVERLAY_DEVICE, PassRequest},
    pods::{PodManager, Record},
    repairs::Repairs,
};

/// Settings come from flags, then the environment, then the config file, then defaults.
#[derive(Debug, Args)]
pub(super) struct AgentArgs {
    /// The config file [default: /etc/podlane/config.yaml, if it is there]
    #[arg(long, env = "PODLANE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    settings: Settings,
}

pub(super) fn run(args: AgentArgs) -> anyhow::Result<ExitCode> {
    crate::memory::prepare();
    let config = Config::resolve(args.settings, args.config.as_deref())?;
    start_logging(&config);
    // Two threads serve a node's whole churn; more would only cost memory.
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the async runtime")?
        .block_on(serve(config))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(version, node = config.node_name, "starting");
    // The socket first: it is what keeps two agents apart.
    let socket_path = config.run_dir.join(api::SOCKET_NAME);
    let socket = api::bind(&socket_path)?;
    crate::failpoint::look_in(&config.run_dir);
    crate::rcu::prepare(&config.run_dir, config.expedite_rcu);
    crate::sysctl::use_dir(config.sysctl_dir.clone());
    let netlink = Netlink::new()?;
    let datapath = Arc::new(Datapath::open(&Options {
        bpf_dir: config.bpf_dir.clone(),
        attach: config.attach,
        log_drops: config.log_drops,
        max_pods: config.max_pods,
        max_routes: config.max_routes,
        max_stack_flows: config.max_stack_flows,
        xdp: config.xdp,
        vni: config.vni,
        vxlan_port: config.vxlan_port,
    })?);
    if config.log_drops {
        tokio::spawn(log_drops(Arc::clone(&datapath)));
    }

    let (network_sender, network) = watch::channel(None);
    let (status_sender, node_status) = watch::channel(NodeStatus::default());
    let repairs = Repairs::default();
    let manager =
        PodManager::new(netlink.clone(), datapath.clone(), &config.run_dir, network, repairs.clone())?;
    let (updates_sender, updates) = mpsc::channel(1);
    let (ready_sender, ready) = watch::channel(false);
    let pods = PodDirectory::default();
    let source = cluster::start(&config, updates_sender, Surroundings { ready, pods: pods.clone() })?;
    let (cluster_source, metrics_address) = (config.cluster_source, config.metrics_address);
    let installation = config.install_cni.then(|| Installation {
        plugin: None,
        bin_dir: config.cni_bin_dir.clone(),
        conf_dir: config.cni_conf_dir.clone(),
        socket: socket_path.clone(),
    });
    let node_name = config.node_name.clone();
    let overlay = Overlay { tunnel: config.tunnel, vni: config.vni, port: config.vxlan_port };
    let task =
        NodeTask::new(config, netlink, datapath.clone(), network_sender, status_sender, repairs.clone());
    let (passes, pass_requests) = mpsc::channel(1);
    let mut node = tokio::spawn(task.run(updates, pass_requests));

    let restored = Arc::new(OnceLock::new());
    let status = Status {
        node_name,
        overlay,
        datapath,
        manager: manager.clone(),
        node: node_status,
        restored: restored.clone(),
        repairs,
        passes,
        pods,
    };
    let status = Arc::new(status);
    let around = Around::start(&status, cluster_source, metrics_address, installation);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = async {
        stopped.await.ok();
    };
    let mut server = tokio::spawn(api::serve(socket, manager.clone(), status.clone(), shutdown));
    let reporting = tokio::spawn(service::report(status, socket_path, ready_sender));

    let report = manager.restore().await.context("restoring the attachments")?;
    for problem in &report.problems {
        tracing::warn!(problem, "an attachment was not restored");
    }
    restored.get_or_init(|| report.problems);
    let mut keeper = tokio::spawn(async move { manager.keep().await });

    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping; traffic goes on"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping; traffic goes on"),
        ended = &mut node => ended.context("the node task died")??,
        ended = &mut keeper => ended.context("the task that looks after the pods died")??,
        ended = &mut server => return ended.context("the API task died")?,
    }
    service::stopping();
    reporting.abort();
    around.stop();
    source.abort();
    node.abort();
    keeper.abort();
    stop.send(()).ok();
    server.await.context("the API task died")?
}

/// What runs beside the agent's work.
struct Around(Vec<tokio::task::JoinHandle<()>>);

impl Around {
    fn start(
        status: &Arc<Status>,
        cluster_source: cluster::SourceSetting,
        metrics_address: Option<SocketAddr>,
        installation: Option<Installation>,
    ) -> Self {
        let sources = metrics::Sources {
            datapath: status.datapath.clone(),
            manager: status.manager.clone(),
            node: status.node.clone(),
            status: status.clone(),
            repairs: status.repairs.clone(),
            cluster_source,
        };
        let metrics = metrics_address.map(|address| tokio::spawn(metrics::serve(address, sources)));
        let install = installation.map(|installation| {
            let status = status.clone();
            tokio::spawn(async move { installation.when_ready(&*status).await })
        });
        Self(metrics.into_iter().chain(install).collect())
    }

    fn stop(&self) {
        self.0.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// What `GET /v1/status` and `GET /healthz` answer.
struct Status {
    node_name: String,
    overlay: Overlay,
    datapath: Arc<Datapath>,
    manager: PodManager,
    node: watch::Receiver<NodeStatus>,
    /// What went wrong when the attachments were restored; empty until that is done.
    restored: Arc<OnceLock<Vec<String>>>,
    repairs: Repairs,
    passes: mpsc::Sender<PassRequest>,
    /// What the cluster says of this node's pods.
    pods: PodDirectory,
}

/// The settings of the overlay.
struct Overlay {
    tunnel: TunnelSetting,
    vni: u32,
    port: u16,
}

impl StatusSource for Status {
    fn status(&self) -> BoxFuture<'_, Value> {
        Box::pin(async {
            let node = self.node.borrow().clone();
            let problems = self.problems().await;
            let counters = match self.datapath.counters() {
                Ok(counters) => counters,
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "the counters cannot be read");
                    Vec::new()
                }
            };
            let counters: Vec<Value> = counters
                .iter()
                .filter(|(_, _, counter)| counter.packets > 0)
                .map(|(hook, verdict, counter)| {
                    json!({
                        "hook": hook.name(),
                        "verdict": verdict.name(),
                        "packets": counter.packets,
                        "bytes": counter.bytes,
                    })
                })
                .collect();
            json!({
                "healthy": problems.is_empty(),
                "node": self.node_name,
                "version": env!("CARGO_PKG_VERSION"),
                "attach": self.datapath.attach_mode(),
                "uplinks": node.uplinks,
                "podCIDRs": node.pod_cidrs,
                "mtu": node.mtu,
                "tunnel": {
                    "mode": self.overlay.tunnel,
                    "device": node.overlay_mtu.map(|_| OVERLAY_DEVICE),
                    "mtu": node.overlay_mtu,
                    "vni": self.overlay.vni,
                    "port": self.overlay.port,
                },
                "xdp": { "mode": self.datapath.xdp_mode(), "uplinks": node.xdp_uplinks },
                "features": self.datapath.features(),
                "pods": self.manager.len(),
                "peers": node.peers,
                "counters": counters,
                "problems": problems,
                "warnings": self.warnings(),
                "repairs": self.repairs.list(),
            })
        })
    }

    fn labels(&self, record: &Record) -> Option<BTreeMap<String, String>> {
        let details = self.pods.get(record.namespace.as_deref()?, record.pod.as_deref()?)?;
        // A pod of a StatefulSet comes again under the same name.
        let same = record.uid.as_ref().is_none_or(|uid| *uid == details.uid);
        same.then(|| details.labels.clone())
    }

    fn started(&self) -> bool {
        self.node.borrow().ready && self.restored.get().is_some()
    }

    fn problems(&self) -> BoxFuture<'_, Vec<String>> {
        Box::pin(async {
            let node = self.node.borrow();
            let mut problems = node.problems.clone();
            if !node.ready && problems.is_empty() {
                problems.push("the cluster state has not been read yet".to_owned());
            }
            if self.restored.get().is_none() {
                problems.push("the attachments have not been restored yet".to_owned());
            }
            problems
        })
    }

    fn reconcile(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(async {
            let (done, over) = oneshot::channel();
            self.passes.send(done).await.context("the agent is stopping")?;
            over.await.context("the agent is stopping")?;
            self.manager.repair().await;
            Ok(())
        })
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.node.borrow().warnings.clone();
        warnings.extend(self.restored.get().into_iter().flatten().cloned());
        warnings.extend(self.manager.warnings());
        warnings.extend(self.datapath.handover());
        warnings
    }
}

fn start_logging(config: &Config) {
    // What these log of every failed request is told once, as a problem.
    let others = if config.log_level > Level::INFO { config.log_level.into() } else { LevelFilter::OFF };
    let filter = Targets::new()
        .with_default(config.log_level)
        .with_targets([("kube_client", others), ("kube_runtime", others)]);
    let log = tracing_subscriber::fmt()
        .with_max_level(config.log_level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    match config.log_format {
        LogFormat::Text => log.finish().with(filter).init(),
        LogFormat::Json => log.json().finish().with(filter).init(),
    }
}

/// Passes the programs' records on to the log, for debugging: a look ten times a second is enough.
async fn log_drops(datapath: Arc<Datapath>) {
    match datapath.drop_log() {
        Ok(mut logger) => loop {
            logger.flush();
            tokio::time::sleep(Duration::from_millis(100)).await;
        },
        Err(error) => tracing::warn!(error = format!("{error:#}"), "drops cannot be logged"),
    }
}
