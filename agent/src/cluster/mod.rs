//! Where the nodes of the cluster come from. A source yields full states; a source that is down or wrong never
//! removes anything: what it last said stays in force.

mod assembly;
mod claims;
pub mod etcd;
mod file;
mod kubernetes;
mod node;
mod setting;

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::mpsc;

pub use assembly::{Assembly, Entry};
pub use etcd::{EtcdConfig, EtcdSettings, EtcdSource};
pub use file::FileSource;
pub use kubernetes::{
    AGENT_NOT_READY, KubernetesSettings, KubernetesSource, PodDetails, PodDirectory, is_uninstalled,
};
pub use node::Node;
pub use setting::{SourceSetting, Surroundings, start};

/// The nodes that are accepted: their addresses and pod CIDRs are apart. [`Assembly`] makes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    nodes: BTreeMap<String, Arc<Node>>,
    refused: Vec<String>,
}

/// What a source says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// The nodes are these now, and no others. After a problem it says that the problem is solved.
    Cluster(Cluster),
    /// The source cannot be read; what it said before stays in force.
    Problem(String),
}

/// A cluster source: runs until the receiver is gone.
pub trait ClusterSource: Send + 'static {
    /// Sends the first full state or problem as soon as it is known, and then each change. Changes that come while
    /// the receiver is busy are sent as one.
    fn run(self, updates: mpsc::Sender<Update>) -> impl Future<Output = ()> + Send;
}

impl Cluster {
    /// Of these nodes, unchecked.
    #[cfg(test)]
    pub(crate) fn of(nodes: impl IntoIterator<Item = Node>) -> Self {
        let nodes = nodes.into_iter().map(|node| (node.name.clone(), Arc::new(node))).collect();
        Self { nodes, refused: Vec::new() }
    }

    /// The node of this name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name).map(Arc::as_ref)
    }

    /// Every node.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().map(Arc::as_ref)
    }

    /// Every node but this one.
    pub fn peers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Node> + 'a {
        self.nodes().filter(move |node| node.name != name)
    }

    /// The nodes' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(String::as_str)
    }

    /// What the source lists and is not, or not as listed, part of the cluster: why, in words.
    #[must_use]
    pub fn refused(&self) -> &[String] {
        &self.refused
    }
}
