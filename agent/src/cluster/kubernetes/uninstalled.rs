//! Whether an agent's pod ends because Podlane is uninstalled.

use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::{Api, Error};

use super::{connect::connect, setting::KubernetesSettings};

/// A pod has seconds to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether the DaemonSet is gone or going. Who takes its permissions away first uninstalls it, too: an API server that
/// no longer knows the agent says that, in its way. One that does not answer says nothing.
///
/// # Errors
/// Where the API server cannot be asked.
pub async fn is_uninstalled(
    settings: &KubernetesSettings,
    namespace: &str,
    name: &str,
) -> anyhow::Result<bool> {
    let connection = connect(settings).await?;
    let sets = Api::<DaemonSet>::namespaced(connection.client, namespace);
    let asking = || format!("asking {} for the DaemonSet {namespace}/{name}", connection.server);
    match tokio::time::timeout(PATIENCE, sets.get_metadata(name)).await.with_context(asking)? {
        Ok(found) => Ok(found.metadata.deletion_timestamp.is_some()),
        Err(Error::Api(status)) if matches!(status.code, 401 | 403 | 404) => Ok(true),
        Err(error) => Err(error).with_context(asking),
    }
}
