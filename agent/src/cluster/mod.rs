//! Where the nodes of the cluster come from. A source yields full states; a source that is down or wrong never
//! removes anything: what it last said stays in force.

mod assembly;
mod claims;
pub mod etcd;
mod file;
mod kubernetes;
mod node;
mod setting;

use std::sync::Arc;

use tokio::sync::mpsc;

pub use assembly::{Assembly, Entry};
pub use etcd::{EtcdConfig, EtcdSettings, EtcdSource};
pub use file::FileSource;
pub use kubernetes::{
    AGENT_NOT_READY, KubernetesSettings, KubernetesSource, PodDetails, PodDirectory, is_uninstalled,
};
pub use node::Node;
pub use setting::{SourceSetting, Surroundings, start};

/// The nodes that are accepted: their addresses and pod CIDRs are apart. [`Assembly`] makes it. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// By their names.
    nodes: Arc<[Arc<Node>]>,
    refused: Arc<[String]>,
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
        Self::new(nodes.into_iter().map(Arc::new).collect(), Vec::new())
    }

    fn new(mut nodes: Vec<Arc<Node>>, refused: Vec<String>) -> Self {
        nodes.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Self { nodes: nodes.into(), refused: refused.into() }
    }

    /// Where the node of this name is among the others, or would be.
    fn place(&self, name: &str) -> Result<usize, usize> {
        self.nodes.binary_search_by(|node| node.name.as_str().cmp(name))
    }

    fn get(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(self.place(name).ok()?)
    }

    /// The node of this name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.get(name).map(Arc::as_ref)
    }

    /// Every node.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().map(Arc::as_ref)
    }

    /// Every node but this one.
    pub fn peers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Arc<Node>> + 'a {
        self.nodes.iter().filter(move |node| node.name != name)
    }

    /// The nodes' names.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.nodes.iter().map(|node| node.name.as_str())
    }

    /// What the source lists and is not, or not as listed, part of the cluster: why, in words.
    #[must_use]
    pub fn refused(&self) -> &[String] {
        &self.refused
    }
}
