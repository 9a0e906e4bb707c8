//! The cluster file.

use serde_norway::Value;

use super::Source;
use crate::Lab;
use crate::lab::cluster::ClusterNode;

/// The cluster file of a lab.
#[derive(Debug)]
pub struct FileSource {
    path: std::path::PathBuf,
    nodes: Vec<(String, Block)>,
    down: bool,
}

/// A node's lines: made when it changes, so that writing thousands of them takes no time of its own.
#[derive(Debug)]
struct Block {
    good: String,
    garbled: Option<String>,
}

impl Block {
    fn of(node: &ClusterNode) -> anyhow::Result<(String, Self)> {
        Ok((node.name.clone(), Self { good: serde_norway::to_string(&[node])?, garbled: None }))
    }
}

impl FileSource {
    fn write(&self) -> anyhow::Result<()> {
        if self.down {
            return Ok(());
        }
        let blocks = self.nodes.iter().map(|(_, block)| block.garbled.as_ref().unwrap_or(&block.good));
        let text: String = std::iter::once("nodes:\n").chain(blocks.map(String::as_str)).collect();
        // As a careful editor does, in one step.
        let temporary = self.path.with_extension("new");
        fs_err::write(&temporary, text)?;
        Ok(fs_err::rename(temporary, &self.path)?)
    }

    fn find(&mut self, name: &str) -> impl Iterator<Item = &mut Block> {
        self.nodes.iter_mut().filter(move |(found, _)| found == name).map(|(_, block)| block)
    }
}

impl Source for FileSource {
    fn settings() -> Vec<(&'static str, Value)> {
        Vec::new()
    }

    fn start(lab: &Lab) -> anyhow::Result<Self> {
        let nodes = lab.cluster().nodes.iter().map(Block::of).collect::<anyhow::Result<_>>()?;
        let source = Self { path: lab.cluster_file(), nodes, down: false };
        source.write()?;
        Ok(source)
    }

    fn join(&mut self, node: &ClusterNode) -> anyhow::Result<()> {
        self.fill(std::slice::from_ref(node))
    }

    fn fill(&mut self, nodes: &[ClusterNode]) -> anyhow::Result<()> {
        for node in nodes {
            self.nodes.push(Block::of(node)?);
        }
        self.write()
    }

    fn change(&mut self, node: &ClusterNode) -> anyhow::Result<()> {
        self.nodes.iter_mut().for_each(|(_, block)| block.garbled = None);
        let (name, changed) = Block::of(node)?;
        self.find(&name).for_each(|block| block.good.clone_from(&changed.good));
        self.write()
    }

    fn leave(&mut self, name: &str) -> anyhow::Result<()> {
        self.nodes.retain(|(found, _)| found != name);
        self.write()
    }

    fn garble(&mut self, name: &str) -> anyhow::Result<bool> {
        for block in self.find(name) {
            let mut nodes: Value = serde_norway::from_str(&block.good)?;
            nodes[0]["addresses"] = Value::from("nonsense");
            block.garbled = Some(serde_norway::to_string(&nodes)?);
        }
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
