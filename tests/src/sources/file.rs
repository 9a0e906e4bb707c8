//! The cluster file.

use serde_norway::Value;

use super::Source;
use crate::Lab;
use crate::lab::cluster::{Cluster, ClusterNode};

/// The cluster file of a lab.
#[derive(Debug)]
pub struct FileSource {
    path: std::path::PathBuf,
    cluster: Cluster,
    garbled: Option<String>,
    down: bool,
}

impl FileSource {
    fn write(&self) -> anyhow::Result<()> {
        if self.down {
            return Ok(());
        }
        let mut value = serde_norway::to_value(&self.cluster)?;
        for node in value["nodes"].as_sequence_mut().into_iter().flatten() {
            if node["name"].as_str() == self.garbled.as_deref() {
                node["addresses"] = Value::from("nonsense");
            }
        }
        // As a careful editor does, in one step.
        let temporary = self.path.with_extension("new");
        fs_err::write(&temporary, serde_norway::to_string(&value)?)?;
        Ok(fs_err::rename(temporary, &self.path)?)
    }
}

impl Source for FileSource {
    fn settings() -> Vec<(&'static str, Value)> {
        Vec::new()
    }

    fn start(lab: &Lab) -> anyhow::Result<Self> {
        let source = Self { path: lab.cluster_file(), cluster: lab.cluster(), garbled: None, down: false };
        source.write()?;
        Ok(source)
    }

    fn join(&mut self, node: &ClusterNode) -> anyhow::Result<()> {
        self.cluster.nodes.push(node.clone());
        self.write()
    }

    fn fill(&mut self, nodes: &[ClusterNode]) -> anyhow::Result<()> {
        self.cluster.nodes.extend_from_slice(nodes);
        self.write()
    }

    fn change(&mut self, node: &ClusterNode) -> anyhow::Result<()> {
        self.garbled = None;
        self.cluster
            .nodes
            .iter_mut()
            .filter(|old| old.name == node.name)
            .for_each(|old| old.clone_from(node));
        self.write()
    }

    fn leave(&mut self, name: &str) -> anyhow::Result<()> {
        self.cluster.nodes.retain(|node| node.name != name);
        self.write()
    }

    fn garble(&mut self, name: &str) -> anyhow::Result<bool> {
        self.garbled = Some(name.to_owned());
        self.write()?;
        Ok(true)
    }

    fn fail(&mut self) -> anyhow::Result<()> {
        self.down = true;
        Ok(fs_err::remove_file(&self.path)?)
    }

    fn recover(&mut self) -> anyhow::Result<()> {
        self.down = false;
        self.write()
    }
}
