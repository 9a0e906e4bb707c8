//! What an agent has pinned, as `bpftool` shows it to an operator.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::Run;
use crate::lab::Agent;

/// The pinned links: one for each program on each device.
pub fn links(agent: &Agent) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = files_below(&agent.bpf_dir())?;
    files.retain(|file| in_links_folder(file));
    Ok(files)
}

/// The pinned maps.
pub fn maps(agent: &Agent) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = files_below(&agent.bpf_dir())?;
    files.retain(|file| !in_links_folder(file));
    Ok(files)
}

/// Detaches every program of the agent from every device, behind the agent's back; gives how many there were.
pub fn detach_all(agent: &Agent) -> anyhow::Result<usize> {
    let links = links(agent)?;
    // The programs at egress first: what their other halves no longer forward, they would note. Removing the pins alone
    // would detach the programs at some later moment, after an RCU grace period.
    for link in links.iter().rev() {
        Run::new("bpftool").args(["link", "detach", "pinned"]).arg(link).read()?;
        fs_err::remove_file(link)?;
    }
    Ok(links.len())
}

/// The entries of the map pinned under that name. Each is what `bpftool` makes of its BTF type: named fields.
pub fn entries(agent: &Agent, map: &str) -> anyhow::Result<Vec<Value>> {
    let maps = maps(agent)?;
    let Some(path) = maps.iter().find(|path| path.file_name().is_some_and(|name| name == map)) else {
        bail!("no map {map} is pinned; there are {maps:?}");
    };
    let text = Run::new("bpftool").args(["--json", "map", "dump", "pinned"]).arg(path).read()?;
    let Value::Array(entries) = serde_json::from_str(&text)? else {
        bail!("`bpftool map dump`: no list: {text}")
    };
    let formatted = |entry: Value| {
        entry.get("formatted").cloned().with_context(|| format!("bpftool knows no type for {map}: {entry}"))
    };
    entries.into_iter().map(formatted).collect()
}

/// The state of the agent's `flow_gate` (docs/maps.md); not 0 while there are flows through the stack.
pub fn flow_gate(agent: &Agent) -> anyhow::Result<u64> {
    let entries = entries(agent, "flow_gate")?;
    let state = entries.first().and_then(|entry| entry.get("value")?.get("state")?.as_u64());
    state.with_context(|| format!("flow_gate: {entries:?}"))
}

fn in_links_folder(file: &Path) -> bool {
    file.parent().is_some_and(|folder| folder.ends_with("links"))
}

/// All files below `dir`, sorted; none where it does not exist.
pub fn files_below(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    if dir.exists() {
        for entry in fs_err::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                files.extend(files_below(&path)?);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
