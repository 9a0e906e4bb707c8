//! How the Kubernetes API is reached.

use std::path::PathBuf;

use anyhow::ensure;
use hyper::http::Uri;
use serde::Deserialize;

/// The settings below `kubernetes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct KubernetesSettings {
    /// A kubeconfig file to reach the Kubernetes API by [default: the pod's service account]
    #[arg(
        id = "kubernetes_kubeconfig",
        long = "kubernetes-kubeconfig",
        env = "PODLANE_KUBERNETES_KUBECONFIG",
        value_name = "FILE"
    )]
    pub kubeconfig: Option<PathBuf>,

    /// The Kubernetes API server's URL [default: the kubeconfig's, or the service `kubernetes` of the cluster]
    #[arg(
        id = "kubernetes_server",
        long = "kubernetes-server",
        env = "PODLANE_KUBERNETES_SERVER",
        value_name = "URL"
    )]
    pub server: Option<String>,
}

impl KubernetesSettings {
    /// These settings, and `other`'s where they say nothing.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { kubeconfig: self.kubeconfig.or(other.kubeconfig), server: self.server.or(other.server) }
    }

    /// Checks them.
    ///
    /// # Errors
    /// Names the key, the value and what is allowed.
    pub fn check(self) -> anyhow::Result<Self> {
        self.server().map(|_| ())?;
        Ok(self)
    }

    /// `kubernetes.server`.
    pub(super) fn server(&self) -> anyhow::Result<Option<Uri>> {
        let Some(text) = &self.server else { return Ok(None) };
        let uri = text.parse::<Uri>().ok();
        let usable = uri.as_ref().is_some_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty())
        });
        ensure!(
            usable,
            "kubernetes.server: \"{text}\" is not a server's URL: write it like https://192.168.1.10:6443"
        );
        Ok(uri)
    }
}
