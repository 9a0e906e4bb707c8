//! How to look around in a lab that was kept.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use podlane_tests::{Binaries, Lab};
use serde::Serialize;

/// A lab that outlives the demo, seen from its first node.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeptLab {
    id: String,
    node_namespace: PathBuf,
    pod_namespace: PathBuf,
    run_dir: PathBuf,
    bpf_dir: PathBuf,
    /// A pinned link for each program on each device.
    links: PathBuf,
    /// The pinned map of the pods.
    pods_map: PathBuf,
    cluster_file: PathBuf,
    podlane: PathBuf,
}

impl KeptLab {
    pub(super) fn describe(lab: &Lab, binaries: &Binaries) -> Result<Self> {
        let node = lab.node(1);
        let agent = node.agent()?;
        let bpf_dir = agent.bpf_dir();
        let pods_map =
            find(&bpf_dir, "pods4").with_context(|| format!("no map pods4 in {}", bpf_dir.display()))?;
        let namespace = node.namespace().path();
        Ok(Self {
            id: lab.id().to_owned(),
            pod_namespace: PathBuf::from(format!("{}-{}", namespace.display(), super::PODS[0])),
            node_namespace: namespace,
            run_dir: agent.run_dir(),
            bpf_dir,
            links: pods_map.with_file_name("links"),
            pods_map,
            cluster_file: lab.cluster_file(),
            podlane: binaries.podlane.clone(),
        })
    }

    /// Commands to copy.
    pub(super) fn text(&self) -> String {
        let Self { id, pods_map, bpf_dir, run_dir, podlane, .. } = self;
        let enter =
            |namespace: &Path, command: &str| format!("nsenter --net={} {command}", namespace.display());
        let status = format!(
            "{} status --run-dir {} --bpf-dir {}",
            podlane.display(),
            run_dir.display(),
            bpf_dir.display(),
        );
        let entries = [
            ("A shell in pod a of node1", enter(&self.pod_namespace, "bash")),
            ("From there to a pod of node2", enter(&self.pod_namespace, "ping 10.244.2.2")),
            ("The programs and the devices they hang on", format!("ls {}", self.links.display())),
            ("The same, with bpftool 7.3 or later", enter(&self.node_namespace, "bpftool net")),
            ("The agent's view of the cluster", enter(&self.node_namespace, &status)),
            (
                "The pods of node1, as the programs see them",
                format!("bpftool map dump pinned {}", pods_map.display()),
            ),
            ("About that map", format!("bpftool map show pinned {}", pods_map.display())),
            ("All that is pinned", format!("find {}", bpf_dir.display())),
            ("The cluster file; the agents notice changes", self.cluster_file.display().to_string()),
            ("Remove all of it", format!("cargo xtask demo --remove {id}")),
        ];
        let lines = entries.map(|(what, command)| format!("   {what}:\n      {command}"));
        format!("Lab {id} stays up. As root:\n\n{}", lines.join("\n"))
    }
}

/// The file called `name` below `dir`.
fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    let entries: Vec<_> = fs_err::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).collect();
    let here =
        entries.iter().find(|path| path.file_name().is_some_and(|file| file == name) && !path.is_dir());
    here.cloned().or_else(|| entries.iter().filter(|path| path.is_dir()).find_map(|path| find(path, name)))
}
