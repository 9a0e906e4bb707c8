//! The agent's HTTP API on a Unix socket: for the plugin, the CLI and `curl --unix-socket`. See `docs/api.md`.
//!
//! ```text
//! let socket = api::bind(&path)?;                          // refuses a second agent, before it touches anything
//! api::serve(socket, manager, status, shutdown).await?;    // may start before PodManager::restore is through
//! ```

pub mod client;
mod routes;
mod socket;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use anyhow::Context as _;
use futures_util::future::BoxFuture;

use crate::pods::{PodManager, Record};

pub use podlane_cni_start::DEFAULT_SOCKET;
pub use socket::{Socket, bind};

/// The file name of the socket in the run directory.
pub const SOCKET_NAME: &str = "agent.sock";

/// What the daemon knows of itself.
pub trait StatusSource: Send + Sync {
    /// The answer to `GET /v1/status`.
    fn status(&self) -> BoxFuture<'_, serde_json::Value>;
    /// What keeps this node's pods from being attached or reached; empty when nothing does: the answer to
    /// `GET /healthz`.
    fn problems(&self) -> BoxFuture<'_, Vec<String>>;
    /// What else is wrong: things that do not keep this node's pods from being attached or reached.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
    /// The labels of an attachment's pod, where the cluster source knows them.
    fn labels(&self, _record: &Record) -> Option<BTreeMap<String, String>> {
        None
    }
    /// Whether it has started, the answer to `GET /readyz`: from then on pods can be attached, and a problem may concern
    /// pods that are there.
    fn started(&self) -> bool;
    /// Compares everything with what should be and mends it, now: `POST /v1/reconcile`.
    fn reconcile(&self) -> BoxFuture<'_, anyhow::Result<()>>;
}

/// Serves the API until `shutdown` resolves; then lets the running requests end and removes the socket.
pub async fn serve(
    socket: Socket,
    manager: PodManager,
    status: Arc<dyn StatusSource>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let (listener, guard) = socket.into_parts();
    let served =
        axum::serve(listener, routes::router(manager, status)).with_graceful_shutdown(shutdown).await;
    drop(guard);
    served.context("serving the API")
}
