//! The cluster as the Kubernetes API tells it: its nodes, their InternalIPs and pod CIDRs. `docs/kubernetes.md` has the
//! operator's view.
//!
//! The API is listed once, page by page, and then watched. Nothing is said before the first full list, and an API
//! server that is away changes nothing.

mod announce;
mod connect;
mod nodes;
mod objects;
mod pods;
mod setting;
mod uninstalled;

use std::time::Duration;

use kube::Api;
use tokio::{
    sync::{mpsc, watch},
    time,
};

pub use announce::AGENT_NOT_READY;
pub use pods::{PodDetails, PodDirectory};
pub use setting::KubernetesSettings;
pub use uninstalled::is_uninstalled;

use super::{ClusterSource, Update};
use connect::Connection;

/// Between attempts to read the credentials.
const CREDENTIALS_PAUSE: Duration = Duration::from_secs(5);

/// Reads and watches the Kubernetes API, and tells it when this node is ready.
#[derive(Clone, Debug)]
pub struct KubernetesSource {
    settings: KubernetesSettings,
    node_name: String,
    ready: watch::Receiver<bool>,
    pods: PodDirectory,
}

impl KubernetesSource {
    /// For the node of this name. Once `ready` is true, the node is marked as such in the API; what is known of its
    /// pods goes to `pods`.
    #[must_use]
    pub const fn new(
        settings: KubernetesSettings,
        node_name: String,
        ready: watch::Receiver<bool>,
        pods: PodDirectory,
    ) -> Self {
        Self { settings, node_name, ready, pods }
    }

    /// Credentials may come later than the agent: tries until they can be read. `None` when nobody listens any more.
    async fn connect(&self, updates: &mpsc::Sender<Update>) -> Option<Connection> {
        let mut last = None;
        loop {
            match connect::connect(&self.settings).await {
                Ok(connection) => return Some(connection),
                Err(error) => {
                    let problem = Update::Problem(format!("{error:#}"));
                    if last.as_ref() != Some(&problem) {
                        updates.send(problem.clone()).await.ok()?;
                        last = Some(problem);
                    }
                }
            }
            tokio::select! {
                () = time::sleep(CREDENTIALS_PAUSE) => {}
                () = updates.closed() => return None,
            }
        }
    }
}

impl ClusterSource for KubernetesSource {
    async fn run(self, updates: mpsc::Sender<Update>) {
        let Some(Connection { server, client, watching, answered }) = self.connect(&updates).await else {
            return;
        };
        tracing::info!(server, "reading nodes from the Kubernetes API");
        let (own_sender, own) = watch::channel(None);
        let nodes = nodes::Nodes::new(server, self.node_name.clone(), own_sender);
        tokio::select! {
            () = nodes.run(Api::all(watching), answered, updates) => {}
            () = announce::announce(Api::all(client.clone()), &self.node_name, own, self.ready) => {}
            () = pods::keep(Api::all(client), &self.node_name, &self.pods) => {}
        }
    }
}
