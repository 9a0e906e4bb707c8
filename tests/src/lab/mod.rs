//! Nodes and pods as network namespaces, with a wire between the nodes.

mod agent;
mod builder;
pub mod chain;
mod classic;
pub mod cluster;
pub mod cni;
pub mod containerd;
pub mod etcd;
mod folder;
mod guard;
mod namespace;
mod node;
mod pod;
mod podlane;
pub mod podman;
mod router;
pub mod systemd;
mod wire;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

pub use agent::Agent;
pub use builder::Builder;
pub use classic::Between;
pub use folder::{ids, remove};
pub use namespace::Namespace;
pub use node::Node;
pub use pod::{Pod, Sandbox};
pub use wire::{UPLINK, Wire};

use self::cluster::Cluster;
use self::folder::Folder;
use self::guard::Guard;
use crate::Binaries;

/// A lab. It lives until it is dropped, or its process dies: then everything it made is removed.
#[derive(Debug)]
pub struct Lab {
    // Agents are reaped when the nodes go, which is after Drop made the guard kill them.
    nodes: Vec<Node>,
    outside: Option<Namespace>,
    folder: Folder,
    guard: Option<Guard>,
    kept: bool,
}

impl Lab {
    /// Starts describing a lab: one node, IPv4, a switch, no pod network.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Its id, part of the name of everything it makes.
    pub fn id(&self) -> &str {
        self.folder.id()
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// All nodes, in order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node with that number; the first is 1, as in its name `node1`.
    ///
    /// # Panics
    /// If the lab has no such node.
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number - 1]
    }

    /// The host that is not of the cluster; an error in a lab without one.
    pub fn outside(&self) -> anyhow::Result<&Namespace> {
        self.outside.as_ref().context("the lab has no host outside: ask the builder for one")
    }

    /// All pods of all nodes, in order of nodes and names.
    pub fn pods(&self) -> Vec<Pod> {
        self.nodes.iter().flat_map(Node::pods).collect()
    }

    /// All ordered pairs of different pods.
    pub fn pod_pairs(&self) -> Vec<(Pod, Pod)> {
        let pods = self.pods();
        let pairs = pods.iter().flat_map(|one| pods.iter().map(move |other| (one.clone(), other.clone())));
        pairs.filter(|(one, other)| one != other).collect()
    }

    /// The file that all agents read their peers from.
    pub fn cluster_file(&self) -> PathBuf {
        self.dir().join("cluster.yaml")
    }

    /// The cluster as it is wired.
    pub fn cluster(&self) -> Cluster {
        Cluster::of(&self.nodes)
    }

    /// Replaces the cluster file by a description of `cluster`.
    pub fn write_cluster(&self, cluster: &Cluster) -> anyhow::Result<()> {
        self.write_cluster_text(&serde_norway::to_string(cluster)?)
    }

    /// Replaces the cluster file by any text. As a careful editor does, in one step.
    pub fn write_cluster_text(&self, text: &str) -> anyhow::Result<()> {
        let temporary = self.dir().join(".cluster.yaml.new");
        fs_err::write(&temporary, text)?;
        fs_err::rename(&temporary, self.cluster_file())?;
        Ok(())
    }

    /// Gives every node a CNI plugin, in a lab without a pod network of its own.
    pub fn set_plugins(
        &mut self,
        plugin: impl Fn(&Node) -> anyhow::Result<cni::Plugin>,
    ) -> anyhow::Result<()> {
        for node in &mut self.nodes {
            let plugin = plugin(node)?;
            node.set_network(plugin, None);
        }
        Ok(())
    }

    /// In a lab that [`Builder::classic_before_podlane`] has made: turns a node without pods, the first is 1, from the
    /// classic network to Podlane. Its agent is ready then.
    pub fn migrate(&mut self, number: usize, binaries: &Binaries) -> anyhow::Result<()> {
        let node = &mut self.nodes[number - 1];
        ensure!(node.pods().is_empty(), "{} has pods of the classic network: delete them first", node.name());
        classic::remove(node)?;
        node.set_plugin(podlane::plugin(binaries, node.agent()?));
        node.agent()?.start_and_wait()
    }

    /// Starts every node's agent and waits until all are ready.
    pub fn start_agents(&self) -> anyhow::Result<()> {
        for node in &self.nodes {
            node.agent()?.start()?;
        }
        self.nodes.iter().try_for_each(|node| node.agent()?.wait_ready())
    }

    /// Leaves everything in place when the lab is dropped; [`remove`] removes it by its id.
    pub fn keep(&mut self) -> anyhow::Result<()> {
        self.folder.keep().with_context(|| format!("keeping lab {}", self.id()))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.folder.unlock();
        if let Some(guard) = &mut self.guard {
            guard.release();
        }
        if !self.kept {
            for node in &self.nodes {
                node.reap();
            }
        }
    }
}
