//! The plain manifest, `deploy/kubernetes/podlane.yaml`: the chart with its own values.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::helm::{Helm, Release};

/// What `kubectl apply -f` takes.
pub const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kubernetes/podlane.yaml");

/// The oldest Kubernetes that the plain manifest is for: the field `appArmorProfile` came with it.
pub const KUBERNETES: &str = "v1.30.0";

const HEADER: &str = "\
# Podlane for Kubernetes 1.30 and later, see docs/install.md: kubectl apply -f podlane.yaml
# Rendered from deploy/helm/podlane by `cargo xtask manifest`: change the chart, not this file.
";

/// The chart's folder.
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm/podlane")
}

/// The plain manifest as it should be.
pub fn render(helm: &Helm) -> anyhow::Result<String> {
    let values = json!({});
    let release =
        Release { name: "podlane", namespace: "kube-system", values: &values, kubernetes: KUBERNETES };
    Ok(format!("{HEADER}{}", helm.template(&chart(), release)?))
}
