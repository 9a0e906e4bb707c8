//! The cluster file as most are written, one block of lines a node: a block that has been read before is not read again.
//! YAML takes its time, and of thousands of nodes few change at once.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use super::{Contents, Entry, Node, entry};

/// So many blocks are read at a time.
const AT_A_TIME: usize = 100;

/// The nodes of the blocks that the last file had, by the blocks' hashes: two of 64 bits, so that no two blocks are taken
/// for each other.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    nodes: HashMap<(u64, u64), Arc<Node>>,
    hashers: (RandomState, RandomState),
}

impl Blocks {
    /// The entries of a file. `None` where it is not of this form, or not valid: then it has to be read as a whole, and
    /// what is wrong is told with its place.
    pub(super) fn read(&mut self, text: &str) -> Option<Vec<Entry>> {
        let blocks = split(text)?;
        let mut nodes = HashMap::with_capacity(blocks.len());
        let mut entries = Vec::with_capacity(blocks.len());
        let mut unknown = Vec::new();
        for (number, block) in blocks.into_iter().enumerate() {
            let hash = (self.hashers.0.hash_one(block), self.hashers.1.hash_one(block));
            if let Some(node) = self.nodes.get(&hash) {
                nodes.insert(hash, Arc::clone(node));
                entries.push(Some(Entry::from(Arc::clone(node))));
            } else {
                entries.push(None);
                unknown.push((number, hash, block));
            }
        }
        for some in unknown.chunks(AT_A_TIME) {
            let text: String =
                std::iter::once("nodes:\n").chain(some.iter().map(|(_, _, block)| *block)).collect();
            let contents: Contents = serde_norway::from_str(&text).ok()?;
            if contents.nodes.len() != some.len() {
                return None;
            }
            for ((number, hash, _), value) in some.iter().zip(contents.nodes) {
                let entry = entry(*number, value);
                if let Some(node) = entry.node() {
                    nodes.insert(*hash, Arc::clone(node));
                }
                *entries.get_mut(*number)? = Some(entry);
            }
        }
        self.nodes = nodes;
        entries.into_iter().collect()
    }
}

/// The blocks of the list `nodes`, each beginning with the dash of its item; `None` where the text is laid out otherwise.
fn split(text: &str) -> Option<Vec<&str>> {
    // What stands for something elsewhere in the file.
    if text.contains(['&', '*', '\t']) {
        return None;
    }
    let mut blocks = Vec::new();
    let mut heading = false;
    let mut items = None;
    let mut start = None;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let begin = at;
        at += line.len();
        let content = line.trim_start_matches(' ');
        let indent = line.len() - content.len();
        let content = content.trim_end();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        if !heading {
            heading = indent == 0 && content == "nodes:";
            if !heading {
                return None;
            }
        } else if *items.get_or_insert(indent) == indent && content.starts_with("- ") {
            if let Some(start) = start.replace(begin) {
                blocks.push(text.get(start..begin)?);
            }
        } else if items.is_some_and(|items| indent <= items) || start.is_none() {
            return None;
        }
    }
    blocks.push(text.get(start?..)?);
    Some(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With comments, empty lines, flow and block style, and a scalar that looks like an item.
    const FILE: &str = "\
# The cluster.
nodes:
  - name: node1
    addresses: [192.168.1.11]
    podCIDRs: [10.244.1.0/24]

# The second one.
  - addresses:
    - 192.168.1.12
    podCIDRs:
    - 10.244.2.0/24
    name: \"node2\"
  - {name: node3, addresses: [192.168.1.13], podCIDRs: [
      10.244.3.0/24]}
";

    fn whole(text: &str) -> Vec<Entry> {
        super::super::parse(text).unwrap()
    }

    #[test]
    fn a_file_read_in_blocks_is_the_file_read_as_a_whole() {
        let mut blocks = Blocks::default();
        assert_eq!(split(FILE).unwrap().len(), 3);
        assert_eq!(blocks.read(FILE), Some(whole(FILE)));
        assert_eq!(blocks.nodes.len(), 3);
        // One changes, one goes, one comes, one is nonsense; all without a new line at the end.
        let other = FILE.replace("1.12", "1.22").replace("- {name: node3", "- {name: node4, nonsense: 7")
            + "  - name: node5\n    addresses: [192.168.1.15]\n    podCIDRs: [10.244.5.0/24]";
        assert_eq!(blocks.read(&other), Some(whole(&other)));
        assert_eq!(blocks.nodes.len(), 3, "of what cannot be read nothing is remembered");
        let many: String = std::iter::once("nodes:\n".to_owned())
            .chain((0..250).map(|node| {
                format!("- name: node{node}\n  addresses: [10.0.0.{node}]\n  podCIDRs: [10.1.{node}.0/24]\n")
            }))
            .collect();
        assert_eq!(blocks.read(&many), Some(whole(&many)));
        assert_eq!((blocks.read(&many).unwrap().len(), blocks.nodes.len()), (250, 250));
    }

    #[test]
    fn what_is_laid_out_otherwise_is_left_to_the_whole() {
        for text in [
            "",
            "nodes: []\n",
            "nodes: [{name: a, addresses: [10.0.0.1], podCIDRs: [10.1.0.0/24]}]\n",
            "{nodes: []}",
            "---\nnodes:\n- name: a\n",
            "nodes:\n- name: a\nother: 1\n",
            "nodes:\n  - name: a\n - name: b\n",
            "nodes:\n- &a\n  name: a\n- *a\n",
            "nodes:\n\t- name: a\n",
            "nodes:\n- name: a\n---\nnodes:\n- name: b\n",
            "other:\n- name: a\n",
            "nodes:\n  name: a\n",
            // Not YAML: told with its line by who reads the whole.
            "nodes:\n- name: [a\n- name: b\n",
        ] {
            assert_eq!(Blocks::default().read(text), None, "{text:?}");
        }
    }
}
