//! Which source tells the agent of the cluster's nodes.

use std::str::FromStr;

use anyhow::bail;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::{ClusterSource as _, EtcdSource, FileSource, KubernetesSource, PodDirectory, Update};
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

/// What a source and the rest of the agent know of each other, beside the nodes.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Whether pods can be attached.
    pub ready: watch::Receiver<bool>,
    /// Where the source writes what it knows of this node's pods.
    pub pods: PodDirectory,
}

/// Starts the source that the settings name.
///
/// # Errors
/// A setting that the source needs is missing or wrong.
pub fn start(
    config: &Config,
    updates: mpsc::Sender<Update>,
    surroundings: Surroundings,
) -> anyhow::Result<JoinHandle<()>> {
    match config.cluster_source {
        SourceSetting::File => Ok(tokio::spawn(FileSource::new(config.cluster_file.clone()).run(updates))),
        SourceSetting::Kubernetes => {
            let Surroundings { ready, pods } = surroundings;
            let (settings, name) = (config.kubernetes.clone(), config.node_name.clone());
            Ok(tokio::spawn(KubernetesSource::new(settings, name, ready, pods).run(updates)))
        }
        SourceSetting::Etcd => {
            let etcd = config.etcd.clone();
            let source = EtcdSource::new(etcd, config.node_name.clone(), config.uplinks.clone())?;
            Ok(tokio::spawn(source.run(updates)))
        }
    }
}
