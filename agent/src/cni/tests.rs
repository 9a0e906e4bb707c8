//! The plugin against an agent, with pods in namespaces (needs root).

use std::path::Path;

use serde_json::{Value, json};

use super::plugin::{Outcome, run};
use crate::api::testing::TestAgent;
use crate::netlink::testing::{in_own_namespace, new_namespace, path_of};

/// Runs the plugin as a runtime would, beside the agent's runtime.
async fn call(
    agent: &TestAgent,
    command: &str,
    id: &str,
    netns: &str,
    version: &str,
    more: Value,
) -> Outcome {
    let mut config = json!({ "cniVersion": version, "name": "podlane", "socket": agent.socket() });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    let [command, id, netns] = [command, id, netns].map(str::to_owned);
    let plugin = move || {
        let variable = |name: &str| match name {
            "CNI_COMMAND" => Some(command.clone()),
            "CNI_CONTAINERID" => Some(id.clone()),
            "CNI_NETNS" => Some(netns.clone()),
            "CNI_IFNAME" => Some("eth0".to_owned()),
            "CNI_ARGS" => Some("K8S_POD_NAME=cart;K8S_POD_NAMESPACE=shop".to_owned()),
            _ => None,
        };
        run(variable, config.to_string().as_bytes())
    };
    tokio::task::spawn_blocking(plugin).await.unwrap()
}

fn fine(outcome: &Outcome) -> Value {
    assert_eq!(outcome.error, None);
    if outcome.stdout.is_empty() { Value::Null } else { serde_json::from_str(&outcome.stdout).unwrap() }
}

fn code(outcome: &Outcome) -> u32 {
    outcome.error.as_ref().expect("an error").code
}

#[test]
fn a_runtime_takes_a_pod_through_its_life() {
    in_own_namespace(|| async {
        let agent = TestAgent::start().await;
        let pod = new_namespace();
        let netns = path_of(&pod);
        let netns = netns.to_str().unwrap();
        assert_eq!(code(&call(&agent, "STATUS", "", "", "1.1.0", json!({})).await), 50);
        assert_eq!(code(&call(&agent, "ADD", "a1", netns, "1.0.0", json!({})).await), 11);
        agent.manager.restore().await.unwrap();
        agent.status.ready.store(true, std::sync::atomic::Ordering::Relaxed);
        fine(&call(&agent, "STATUS", "", "", "1.1.0", json!({})).await);

        let dns = json!({ "dns": { "nameservers": ["10.0.0.10"] } });
        let result = fine(&call(&agent, "ADD", "a1", netns, "1.0.0", dns).await);
        assert_eq!(
            result["ips"],
            json!([{ "address": "10.244.1.2/32", "gateway": "10.244.1.1", "interface": 1 }])
        );
        assert_eq!(result["interfaces"][1]["sandbox"], netns);
        assert_eq!(result["dns"]["nameservers"][0], "10.0.0.10");
        assert_eq!(agent.manager.records()[0].alias(), "shop/cart");

        let previous = json!({ "prevResult": result });
        fine(&call(&agent, "CHECK", "a1", netns, "1.0.0", previous.clone()).await);
        assert_eq!(code(&call(&agent, "CHECK", "a1", netns, "1.0.0", json!({})).await), 7);
        assert_eq!(code(&call(&agent, "CHECK", "b1", netns, "1.0.0", previous.clone()).await), 3);
        assert_eq!(code(&call(&agent, "CHECK", "a1", "/elsewhere", "1.0.0", previous.clone()).await), 103);
        assert_eq!(code(&call(&agent, "ADD", "a2", netns, "1.0.0", previous.clone()).await), 7);
        assert_eq!(code(&call(&agent, "ADD", "a2", netns, "1.0.0", json!({})).await), 102);
        assert_eq!(code(&call(&agent, "ADD", "a2", "/nowhere", "1.0.0", json!({})).await), 4);

        // Runtimes call DEL twice, the second time without the namespace.
        fine(&call(&agent, "DEL", "a1", netns, "1.0.0", previous).await);
        fine(&call(&agent, "DEL", "a1", "", "1.0.0", json!({})).await);
        assert!(agent.manager.is_empty());
        assert!(Path::new(netns).exists());
        agent.stop().await;
    });
}

#[test]
fn garbage_collection_keeps_what_the_runtime_knows() {
    in_own_namespace(|| async {
        let agent = TestAgent::start().await;
        agent.manager.restore().await.unwrap();
        let pods = [new_namespace(), new_namespace()];
        for (id, pod) in ["a1", "b1"].into_iter().zip(&pods) {
            fine(&call(&agent, "ADD", id, path_of(pod).to_str().unwrap(), "0.4.0", json!({})).await);
        }
        let valid = json!({ "cni.dev/valid-attachments": [{ "containerID": "b1", "ifname": "eth0" }] });
        assert_eq!(code(&call(&agent, "GC", "", "", "1.1.0", json!({})).await), 7);
        assert_eq!(agent.manager.len(), 2);
        fine(&call(&agent, "GC", "", "", "1.1.0", valid).await);
        let left: Vec<_> = agent.manager.records().into_iter().map(|record| record.container_id).collect();
        assert_eq!(left, ["b1"]);
        agent.stop().await;
    });
}
