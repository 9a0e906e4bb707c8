//! What an operator sees with bpftool and `podlane status`.

use podlane_tests::probe::{pins, state};
use podlane_tests::{Binaries, Lab, Run};
use serde_json::Value;

fn two_nodes() -> anyhow::Result<Lab> {
    let lab = Lab::builder().nodes(2).podlane(Binaries::find()?).build()?;
    for node in lab.nodes() {
        node.add_pods(&["a", "b"])?;
    }
    Ok(lab)
}

/// Whether a value is a structure, or made of structures, with named fields.
fn has_named_fields(value: &Value) -> bool {
    match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(values) => values.iter().any(has_named_fields),
        _ => false,
    }
}

#[test]
fn bpftool_prints_named_fields_for_every_map() -> anyhow::Result<()> {
    let lab = two_nodes()?;
    let agent = lab.node(1).agent()?;
    let maps = pins::maps(agent)?;
    assert!(maps.len() >= 5, "{maps:?}");
    for map in &maps {
        let name = map.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let shown: Value = serde_json::from_str(
            &Run::new("bpftool").args(["--json", "map", "show", "pinned"]).arg(map).read()?,
        )?;
        assert_eq!(shown["name"], name, "{shown}");
        // The kernel takes no BTF types for a devmap (`map_check_btf`): its entries are plain numbers.
        if name == "wire_ports" {
            continue;
        }
        for entry in pins::entries(agent, name)? {
            // A per-CPU value is a list with one value for each CPU.
            let value = entry.get("value").or_else(|| entry.get("values")).unwrap_or(&Value::Null);
            assert!(has_named_fields(value), "{name}: {entry}");
        }
    }
    for (map, field) in [("pods4", "ifindex"), ("routes4", "next_hop"), ("counters", "packets")] {
        let entries = pins::entries(agent, map)?;
        assert!(!entries.is_empty(), "{map} is empty");
        assert!(
            entries.iter().all(|entry| entry.to_string().contains(&format!("\"{field}\""))),
            "{entries:?}"
        );
    }
    Ok(())
}

#[test]
fn programs_have_their_hooks_names() -> anyhow::Result<()> {
    let lab = two_nodes()?;
    let links = pins::links(lab.node(1).agent()?)?;
    // A program for each of two pods and an uplink, and one at netfilter for both families.
    assert_eq!(links.len(), 5, "{links:?}");
    let mut names = Vec::new();
    for link in links {
        let show = |kind: &str, by: &[&str]| -> anyhow::Result<Value> {
            Ok(serde_json::from_str(&Run::new("bpftool").args(["--json", kind, "show"]).args(by).read()?)?)
        };
        let link = show("link", &["pinned", &link.to_string_lossy()])?;
        let program = show("prog", &["id", &link["prog_id"].to_string()])?;
        names.extend(program["name"].as_str().map(str::to_owned));
    }
    names.sort();
    assert_eq!(names, ["from_pod", "from_pod", "from_wire", "post_routing", "post_routing"]);
    Ok(())
}

#[test]
fn counters_count_what_passes() -> anyhow::Result<()> {
    let lab = two_nodes()?;
    let agent = lab.node(1).agent()?;
    let packets = || -> anyhow::Result<u64> {
        let mut sum = 0;
        for entry in pins::entries(agent, "counters")? {
            for cpu in entry["values"].as_array().into_iter().flatten() {
                sum += cpu["value"]["packets"].as_u64().unwrap_or_default();
            }
        }
        Ok(sum)
    };
    let before = packets()?;
    let (one, other) = (&lab.node(1).pods()[0], &lab.node(1).pods()[1]);
    podlane_tests::probe::ping::ping(one.namespace(), other.address())?;
    assert!(packets()? >= before + 2);
    Ok(())
}

#[test]
fn status_names_node_peers_and_pods() -> anyhow::Result<()> {
    let lab = two_nodes()?;
    let agent = lab.node(1).agent()?;
    let (status, code) = agent.status()?;
    assert_eq!(code, Some(0), "{status}");
    assert_eq!(status["healthy"], true, "{status}");
    assert_eq!(status["node"], "node1", "{status}");
    assert_eq!(status["pods"], 2, "{status}");
    assert_eq!(status["mtu"], 1500, "{status}");
    assert_eq!(status["uplinks"], serde_json::json!(["uplink"]), "{status}");
    assert_eq!(status["podCIDRs"], serde_json::json!(["10.244.1.0/24"]), "{status}");
    assert_eq!(status["peers"][0]["name"], "node2", "{status}");
    for list in ["problems", "warnings", "repairs"] {
        assert_eq!(status[list], serde_json::json!([]), "{status}");
    }
    let text = agent.cli(["status"])?.success()?;
    assert!(text.contains("node1") && text.contains("node2"), "{text}");
    Ok(())
}

#[test]
fn what_others_break_is_mended() -> anyhow::Result<()> {
    let lab = two_nodes()?;
    let node = lab.node(1);
    let before = state::of(node)?;
    node.exec(["ip", "route", "delete", "10.244.2.0/24"])?;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(15);
    while state::of(node)? != before && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(state::of(node)?, before);
    Ok(())
}
