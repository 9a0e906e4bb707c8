//! From the settings to a client.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use hyper::http::Response;
use kube::{
    Client, Config,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::sync::Notify;
use tower::util::MapResponseLayer;

use super::setting::KubernetesSettings;

/// A connection on which nothing came for so long is dead: an API server sends a bookmark every minute.
const SILENCE: Duration = Duration::from_secs(100);

/// What the source needs of an API server.
pub(super) struct Connection {
    /// Its URL, for people.
    pub(super) server: String,
    /// For everything but the nodes.
    pub(super) client: Client,
    /// For the list and watch of nodes.
    pub(super) watching: Client,
    /// Notified when the API has answered to `watching` as asked.
    pub(super) answered: Arc<Notify>,
}

/// Reads the credentials; asks the server nothing yet.
pub(super) async fn connect(settings: &KubernetesSettings) -> anyhow::Result<Connection> {
    let mut config = match &settings.kubeconfig {
        Some(path) => from_kubeconfig(path).await?,
        None => in_cluster(settings.server.is_some())?,
    };
    if let Some(server) = settings.server()? {
        config.cluster_url = server;
    }
    config.read_timeout = Some(SILENCE);
    let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let building = || format!("making a client for the Kubernetes API at {server}");
    let client = Client::try_from(config.clone()).with_context(building)?;
    let answered = Arc::new(Notify::new());
    let signal = Arc::clone(&answered);
    let watching = ClientBuilder::try_from(config)
        .with_context(building)?
        .with_layer(&MapResponseLayer::new(move |response: Response<_>| {
            if response.status().is_success() {
                signal.notify_one();
            }
            response
        }))
        .build();
    Ok(Connection { server, client, watching, answered })
}

async fn from_kubeconfig(path: &Path) -> anyhow::Result<Config> {
    let reading = || format!("kubernetes.kubeconfig: reading {}", path.display());
    let kubeconfig = Kubeconfig::read_from(path).with_context(reading)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.with_context(reading)
}

/// The service account of the pod that the agent runs in.
fn in_cluster(server_is_given: bool) -> anyhow::Result<Config> {
    // Its name is not used where the server is given.
    let config = if server_is_given { Config::incluster_dns() } else { Config::incluster_env() };
    config.context(
        "no service account to reach the Kubernetes API with: run the agent in a pod that has one, or set \
         kubernetes.kubeconfig",
    )
}
