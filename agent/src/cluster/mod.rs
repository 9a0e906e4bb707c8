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
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|node| node.name.as_str())
    }

    /// The names of the first few nodes, to tell which cluster it is.
    #[must_use]
    pub fn some_names(&self) -> String {
        const FEW: usize = 5;
        let few = self.names().take(FEW).collect::<Vec<_>>().join(", ");
        match self.nodes.len().saturating_sub(FEW) {
            0 => few,
            more => format!("{few} and {more} more"),
        }
    }

    /// What the source lists and is not, or not as listed, part of the cluster: why, in words.
    #[must_use]
    pub fn refused(&self) -> &[String] {
        &self.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_thousands_of_nodes_a_few_are_named() {
        let named = |count: usize| {
            let node =
                |number| Node { name: format!("node{number}"), addresses: Vec::new(), pod_cidrs: Vec::new() };
            Cluster::of((1..=count).map(node)).some_names()
        };
        assert_eq!(named(0), "");
        assert_eq!(named(2), "node1, node2");
        assert_eq!(named(5), "node1, node2, node3, node4, node5");
        assert_eq!(named(9), "node1, node2, node3, node4, node5 and 4 more");
    }
}
