//! What a node has because of Podlane: to compare before and after.

use std::collections::BTreeSet;

use serde_json::Value;

use super::pins;
use crate::lab::Node;

/// Everything on a node that an attachment or the agent makes, a line each.
pub fn of(node: &Node) -> anyhow::Result<BTreeSet<String>> {
    let mut state = BTreeSet::new();
    let ip = |words: &[&str]| node.exec(["ip", "-oneline"].iter().chain(words));
    // Flags, counters and neighbour states change by themselves: names and addresses are what counts.
    for line in ip(&["link", "show"])?.lines() {
        let device = line.split_whitespace().nth(1).unwrap_or_default();
        state.insert(format!("link {}", device.split('@').next().unwrap_or_default()));
    }
    for line in ip(&["address", "show", "scope", "global"])?.lines() {
        let words: Vec<_> = line.split_whitespace().skip(1).take(3).collect();
        state.insert(format!("address {}", words.join(" ")));
    }
    for family in ["-4", "-6"] {
        for line in ip(&[family, "route", "show", "table", "main"])?.lines() {
            state.insert(format!("route {}", line.trim()));
        }
        for line in ip(&[family, "rule", "show"])?.lines() {
            state.insert(format!("rule {}", line.trim()));
        }
        for line in ip(&[family, "neighbour", "show", "nud", "permanent"])?.lines() {
            state.insert(format!("neighbour {}", line.trim()));
        }
    }
    for line in node.exec(["tc", "qdisc", "show"])?.lines().filter(|line| line.contains("clsact")) {
        state.insert(format!("qdisc {}", line.trim()));
    }
    for (hook, device) in attached(node)? {
        state.insert(format!("program {hook} on {device}"));
    }
    if let Ok(agent) = node.agent() {
        for file in pins::files_below(&agent.bpf_dir())? {
            state.insert(format!("pin {}", file.display()));
        }
        let mut files = pins::files_below(&agent.run_dir())?;
        // Which address was given last is worth knowing when nobody has it any more.
        files.retain(|file| !file.ends_with("addresses-given.json"));
        for file in files {
            state.insert(format!("file {}", file.display()));
        }
        for map in ["pods4", "pods6", "routes4", "routes6"] {
            if pins::maps(agent)?.iter().any(|path| path.ends_with(map)) {
                state.extend(pins::entries(agent, map)?.iter().map(|entry| format!("{map} {entry}")));
            }
        }
    }
    Ok(state)
}

/// Programs at the node's tc hooks, with the devices they hang on, as `bpftool net` tells.
pub fn attached(node: &Node) -> anyhow::Result<Vec<(String, String)>> {
    let text = node.exec(["bpftool", "--json", "net"])?;
    let value: Value = serde_json::from_str(&text)?;
    let entries =
        value.get(0).and_then(|all| all.get("tc")).and_then(Value::as_array).cloned().unwrap_or_default();
    let word =
        |entry: &Value, key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(entries.iter().map(|entry| (word(entry, "name"), word(entry, "devname"))).collect())
}
