//! The cluster file: a YAML list of nodes, read again whenever it changes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use notify::{RecursiveMode, Watcher as _};
use serde::Deserialize;
use tokio::{sync::mpsc, time};

use super::{Cluster, ClusterSource, Node, Update};

/// Editors and tools write in several steps: wait for the last one.
const SETTLE: Duration = Duration::from_millis(50);

/// A missed notification (a network file system, an exhausted inotify limit) is made up for by looking.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Reads and watches the cluster file.
#[derive(Clone, Debug)]
pub struct FileSource {
    path: PathBuf,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Contents {
    nodes: Vec<Node>,
}

impl FileSource {
    /// For the file at `path`, which need not exist yet.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    fn read(&self) -> Update {
        let cluster = fs_err::read_to_string(&self.path)
            .context("reading the cluster file")
            .and_then(|text| parse(&text).with_context(|| format!("cluster file {}", self.path.display())));
        match cluster {
            Ok(cluster) => Update::Cluster(cluster),
            Err(error) => Update::Problem(format!("{error:#}")),
        }
    }
}

impl ClusterSource for FileSource {
    async fn run(self, updates: mpsc::Sender<Update>) {
        let (changed, mut changes) = mpsc::channel(1);
        let watcher = watch(&self.path, changed);
        if let Err(error) = &watcher {
            tracing::warn!(path = %self.path.display(), error = format!("{error:#}"), "cannot watch the cluster file, looking at it every {LOOK_AGAIN:?} instead");
        }
        let mut last = None;
        loop {
            let update = self.read();
            if last.as_ref() != Some(&update) {
                last = Some(update.clone());
                if updates.send(update).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                Some(()) = changes.recv() => time::sleep(SETTLE).await,
                () = time::sleep(LOOK_AGAIN) => {}
                () = updates.closed() => return,
            }
            // What happened while it settled is read now.
            changes.try_recv().ok();
        }
    }
}

/// Watches the file's folder: the file itself is often replaced by a rename (or, in a ConfigMap, by way of a link).
fn watch(path: &Path, changed: mpsc::Sender<()>) -> anyhow::Result<notify::RecommendedWatcher> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if !matches!(event, Ok(event) if event.kind.is_access()) {
            // A full channel says it already.
            changed.try_send(()).ok();
        }
    })?;
    watcher
        .watch(folder, RecursiveMode::NonRecursive)
        .with_context(|| format!("watching {}", folder.display()))?;
    Ok(watcher)
}

fn parse(text: &str) -> anyhow::Result<Cluster> {
    let contents: Contents = serde_norway::from_str(text)?;
    Cluster::new(contents.nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "nodes:\n- name: node1\n  addresses: [192.168.1.11]\n  podCIDRs: [10.244.1.0/24]\n";

    #[test]
    fn field_names_are_kubernetes_names() {
        assert_eq!(parse(GOOD).unwrap().node("node1").unwrap().addresses.len(), 1);
    }

    #[test]
    fn malformed_files_are_refused_with_the_place() {
        for (text, expected) in [
            ("nodes:\n- name: node1\n  address: 1.2.3.4\n", "unknown field `address`"),
            ("nodes:\n- name: node1\n  addresses: [300.1.1.1]\n  podCIDRs: []\n", "invalid IP address"),
            ("nodes: [", "while parsing"),
            ("", "missing field `nodes`"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[tokio::test]
    async fn changes_come_and_an_invalid_file_is_a_problem_not_an_empty_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.yaml");
        fs_err::write(&path, GOOD).unwrap();
        let (sender, mut updates) = mpsc::channel(1);
        let task = tokio::spawn(FileSource::new(path.clone()).run(sender));
        assert!(matches!(updates.recv().await, Some(Update::Cluster(_))));
        // Replaced by a rename, as tools do.
        fs_err::write(dir.path().join("new"), "nodes: nonsense").unwrap();
        fs_err::rename(dir.path().join("new"), &path).unwrap();
        assert!(matches!(updates.recv().await, Some(Update::Problem(text)) if text.contains("cluster.yaml")));
        fs_err::write(&path, GOOD.replace("node1", "node9")).unwrap();
        assert!(
            matches!(updates.recv().await, Some(Update::Cluster(cluster)) if cluster.node("node9").is_some())
        );
        drop(updates);
        task.await.unwrap();
    }
}
