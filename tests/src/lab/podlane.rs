//! The Podlane pod network: an agent on each node.

use nix::mount::{MsFlags, mount};
use serde_json::json;
use serde_norway::{Mapping, Value};

use super::agent::VOLATILE;
use super::cni::Plugin;
use super::{Agent, Lab};
use crate::Binaries;

/// Writes the cluster file, every node's configuration and mounts a bpffs for each node. Starts no agent.
pub(super) fn prepare(
    lab: &mut Lab,
    binaries: &Binaries,
    settings: &[(String, Value)],
) -> anyhow::Result<()> {
    lab.write_cluster(&lab.cluster())?;
    let cluster_file = lab.cluster_file();
    for node in &mut lab.nodes {
        let volatile = node.dir().join(VOLATILE);
        let run_dir = volatile.join("run");
        let bpffs = node.dir().join("bpf");
        for (kind, dir) in [("tmpfs", &volatile), ("bpf", &bpffs)] {
            fs_err::create_dir_all(dir)?;
            mount(Some(kind), dir, Some(kind), MsFlags::empty(), None::<&str>)
                .map_err(|error| anyhow::anyhow!("mounting a {kind} on {}: {error}", dir.display()))?;
        }
        fs_err::create_dir_all(&run_dir)?;
        let bpf_dir = bpffs.join("podlane");

        let text = |path: &std::path::Path| Value::from(path.to_string_lossy().into_owned());
        let mut config = Mapping::from_iter([
            (Value::from("nodeName"), Value::from(node.name())),
            (Value::from("clusterFile"), text(&cluster_file)),
            (Value::from("runDir"), text(&run_dir)),
            (Value::from("bpfDir"), text(&bpf_dir)),
        ]);
        config.extend(settings.iter().map(|(key, value)| (Value::from(key.as_str()), value.clone())));
        fs_err::write(node.dir().join("config.yaml"), serde_norway::to_string(&config)?)?;

        let agent = Agent::new(node.namespace().clone(), binaries.podlane.clone(), node.dir());
        node.set_network(plugin(binaries, &agent), Some(agent));
    }
    Ok(())
}

/// The plugin of a node with this agent.
pub(super) fn plugin(binaries: &Binaries, agent: &Agent) -> Plugin {
    let config = json!({
        "cniVersion": "1.0.0",
        "name": "podlane",
        "type": "podlane-cni",
        "socket": agent.socket(),
    });
    Plugin { path: binaries.podlane_cni.clone(), config }
}
