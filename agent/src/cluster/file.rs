//! The cluster file: a YAML list of nodes, read again whenever it changes.

mod blocks;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use notify::{RecursiveMode, Watcher as _};
use serde::Deserialize;
use serde_norway::Value;
use tokio::{sync::mpsc, time};

use self::blocks::Blocks;
use super::{Assembly, ClusterSource, Entry, Node, Update};

/// Editors and tools write in several steps: wait for the last one.
const SETTLE: Duration = Duration::from_millis(10);

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
    nodes: Vec<Value>,
}

impl FileSource {
    /// For the file at `path`, which need not exist yet.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    fn read(&self, known: &mut Blocks) -> anyhow::Result<Vec<Entry>> {
        let text = fs_err::read_to_string(&self.path).context("reading the cluster file")?;
        match known.read(&text) {
            Some(entries) => Ok(entries),
            None => parse(&text).with_context(|| format!("cluster file {}", self.path.display())),
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
        let mut assembly = Assembly::default();
        let mut blocks = Blocks::default();
        let mut last = None;
        loop {
            let update = match self.read(&mut blocks) {
                Ok(entries) => assembly.assemble(&entries),
                Err(error) => Update::Problem(format!("{error:#}")),
            };
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

fn parse(text: &str) -> anyhow::Result<Vec<Entry>> {
    let contents: Contents = serde_norway::from_str(text)?;
    Ok(contents.nodes.into_iter().enumerate().map(|(index, value)| entry(index, value)).collect())
}

/// One node of the list: what is wrong with it is its own problem.
fn entry(index: usize, value: Value) -> Entry {
    let name = value.get("name").and_then(Value::as_str).map(str::to_owned);
    serde_norway::from_value::<Node>(value).map_or_else(
        |error| {
            let name = name.unwrap_or_else(|| format!("number {}", index + 1));
            Entry::unreadable(name.clone(), format!("node {name} in the cluster file: {error}"))
        },
        Entry::from,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "nodes:\n- name: node1\n  addresses: [192.168.1.11]\n  podCIDRs: [10.244.1.0/24]\n";

    fn problems(text: &str) -> String {
        match parse(text).map(|entries| Assembly::default().assemble(&entries)) {
            Ok(Update::Cluster(cluster)) => cluster.refused().join("\n"),
            Ok(Update::Problem(problem)) => problem,
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn field_names_are_kubernetes_names() {
        assert_eq!(problems(GOOD), "");
    }

    #[test]
    fn what_is_malformed_is_told_with_the_place() {
        for (text, expected) in [
            (
                "nodes:\n- name: node1\n  address: 1.2.3.4\n",
                "node node1 in the cluster file: unknown field `address`",
            ),
            ("nodes:\n- name: node1\n  addresses: [300.1.1.1]\n  podCIDRs: []\n", "invalid IP address"),
            (
                "nodes:\n- addresses: [10.1.1.1]\n  podCIDRs: []\n",
                "node number 1 in the cluster file: missing field `name`",
            ),
            ("nodes: [", "while parsing"),
            ("", "missing field `nodes`"),
        ] {
            let problems = problems(text);
            assert!(problems.contains(expected), "{text:?}: {problems}");
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
