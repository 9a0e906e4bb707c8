//! Real Helm, which renders and lints the chart as users' Helm does. Its library comes from PyPI (helm-sdkpy: Helm 4 as
//! a shared object), as Helm itself is in no registry that Rust's tools read.

mod api;
mod library;

use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::Value;

use self::api::Api;
use self::library::Library;
use crate::Run;

/// Helm, ready to work.
pub struct Helm {
    library: Library,
    api: Api,
}

impl Helm {
    /// Loads it; fetches it first where it is not there yet. The error of a machine without it says what is missing.
    pub fn find_or_fetch() -> anyhow::Result<Self> {
        Ok(Self { library: Library::load(&library::find_or_fetch()?)?, api: Api::start()? })
    }

    /// What `helm template NAME CHART --namespace NAMESPACE --kube-version VERSION` prints, with these values.
    pub fn template(&self, chart: &Path, release: Release<'_>) -> anyhow::Result<String> {
        self.api.set_version(release.kubernetes);
        let folder = tempfile::tempdir()?;
        let kubeconfig = folder.path().join("kubeconfig");
        fs_err::write(&kubeconfig, self.api.kubeconfig())?;
        let install = self.library.install(&kubeconfig, chart, release);
        // The API takes the record of the release, and nothing after it: what is in it is what was asked for.
        match (self.api.take_release(), install) {
            (Some(record), _) => manifest(record),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => bail!("helm has installed the chart without a record of it"),
        }
    }

    /// What `helm lint CHART` complains of.
    pub fn lint(&self, chart: &Path) -> anyhow::Result<String> {
        self.library.lint(chart)
    }
}

/// What to render.
#[derive(Clone, Copy, Debug)]
pub struct Release<'a> {
    /// The release's name.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Values beside the chart's own.
    pub values: &'a Value,
    /// The cluster's version, such as `v1.34.0`.
    pub kubernetes: &'a str,
}

/// The manifest in a release's record: JSON, compressed, in base64.
fn manifest(record: Vec<u8>) -> anyhow::Result<String> {
    let text = Run::new("sh").args(["-c", "base64 -d | gzip -d"]).stdin(record).read()?;
    let release: Value = serde_json::from_str(&text).context("reading helm's record of the release")?;
    let manifest = release["manifest"].as_str().context("helm's record has no manifest")?;
    Ok(manifest.trim_start().to_owned())
}
