//! Which source tells the agent of the cluster's nodes.

use std::str::FromStr;

use anyhow::bail;
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, task::JoinHandle};

use super::{ClusterSource as _, EtcdSource, FileSource, Update};
use crate::config::Config;

/// The sources there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceSetting {
    /// The cluster file: one machine, labs, a handful of nodes.
    #[default]
    File,
    /// The Kubernetes API's nodes.
    Kubernetes,
    /// Nodes that publish themselves in etcd.
    Etcd,
}

impl FromStr for SourceSetting {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text {
            "file" => Ok(Self::File),
            "kubernetes" => Ok(Self::Kubernetes),
            "etcd" => Ok(Self::Etcd),
            _ => bail!("\"{text}\" is not a cluster source: use \"file\", \"kubernetes\" or \"etcd\""),
        }
    }
}

/// Starts the source that the settings name.
///
/// # Errors
/// A setting that the source needs is missing or wrong.
pub fn start(config: &Config, updates: mpsc::Sender<Update>) -> anyhow::Result<JoinHandle<()>> {
    match config.cluster_source {
        SourceSetting::File => Ok(tokio::spawn(FileSource::new(config.cluster_file.clone()).run(updates))),
        SourceSetting::Kubernetes => bail!("clusterSource: kubernetes is not built yet: use file"),
        SourceSetting::Etcd => {
            let etcd = config.etcd.clone();
            let source = EtcdSource::new(etcd, config.node_name.clone(), config.uplinks.clone())?;
            Ok(tokio::spawn(source.run(updates)))
        }
    }
}
