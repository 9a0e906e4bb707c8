//! Cluster sources as tests drive them: nodes come, change and go, and the source itself goes away and comes back. One
//! suite (`tests/tests/cluster_sources.rs`) runs for each of them.

mod etcd;
mod file;
mod kubernetes;
mod world;

use serde_norway::Value;

pub use self::etcd::EtcdSource;
pub use self::file::FileSource;
pub use self::kubernetes::{Faults, KubernetesSource, ScriptedApi};
pub use self::world::World;
use crate::Lab;
use crate::lab::cluster::ClusterNode;

/// A source with nodes that exist only in it, beside the lab's own node, which it has from its start on.
pub trait Source: Sized {
    /// Lines of the agent's configuration file.
    fn settings() -> Vec<(&'static str, Value)>;

    /// Starts the source for a lab with one node.
    fn start(lab: &Lab) -> anyhow::Result<Self>;

    /// A node appears.
    fn join(&mut self, node: &ClusterNode) -> anyhow::Result<()>;

    /// Many nodes appear.
    fn fill(&mut self, nodes: &[ClusterNode]) -> anyhow::Result<()> {
        nodes.iter().try_for_each(|node| self.join(node))
    }

    /// A node's description becomes this one.
    fn change(&mut self, node: &ClusterNode) -> anyhow::Result<()>;

    /// A node goes.
    fn leave(&mut self, name: &str) -> anyhow::Result<()>;

    /// A node's description becomes one that no agent can read; `false` where the source itself would refuse it.
    fn garble(&mut self, name: &str) -> anyhow::Result<bool>;

    /// The source goes away; agents cannot read it.
    fn fail(&mut self) -> anyhow::Result<()>;

    /// It comes back with what it had.
    fn recover(&mut self) -> anyhow::Result<()>;
}
