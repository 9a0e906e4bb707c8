//! Three nodes whose agents know each other by the API. Each test runs against the scripted server and, where it is
//! there, against a kube-apiserver.

use anyhow::{Context as _, ensure};
use podlane::cluster::AGENT_NOT_READY;
use podlane_tests::lab::Node;
use podlane_tests::probe::{counters, failures, ping, state, steady::Steady};
use podlane_tests::{Binaries, Lab};
use serde_json::{Value, json};

use crate::api::{Api, wait_for_status, wait_until};
use crate::given;
use crate::real::Programs;

/// Three nodes, none of which the API knows yet.
fn lab() -> anyhow::Result<Lab> {
    Lab::builder().nodes(3).ipv6(true).outside().podlane_stopped(Binaries::find()?).build()
}

fn scripted(test: impl FnOnce(&Lab, &Api) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let lab = lab()?;
    let api = Api::scripted(&lab)?;
    api.use_by(lab.nodes())?;
    test(&lab, &api)
}

fn real(test: impl FnOnce(&Lab, &Api) -> anyhow::Result<()>) -> anyhow::Result<()> {
    if let Some(kubeconfig) = given::kubeconfig() {
        let lab = lab()?;
        let api = Api::given(&lab, &kubeconfig)?;
        api.use_by(lab.nodes())?;
        return test(&lab, &api);
    }
    let programs = match Programs::find() {
        Ok(programs) => programs,
        Err(reason) => {
            println!("skipped: {reason:#}; the scripted API server stands in");
            return Ok(());
        }
    };
    let lab = lab()?;
    let api = Api::real(&lab, programs)?;
    api.use_by(lab.nodes())?;
    test(&lab, &api)
}

/// A lab's node as its kubelet registers it.
fn object(node: &Node) -> Value {
    let addresses = node.addresses().map(|address| json!({"type": "InternalIP", "address": address}));
    let addresses: Vec<_> = addresses.chain([json!({"type": "Hostname", "address": node.name()})]).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name(), "labels": {"kubernetes.io/hostname": node.name()}},
        "spec": {
            "podCIDR": node.pod_cidrs()[0],
            "podCIDRs": node.pod_cidrs(),
            "taints": [{"key": AGENT_NOT_READY, "effect": "NoSchedule"}, {"key": "example.com/kept", "effect": "NoSchedule"}],
        },
        "status": {
            "addresses": addresses,
            "conditions": [{"type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated",
                            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        },
    })
}

fn register(api: &Api, nodes: &[Node]) -> anyhow::Result<()> {
    nodes.iter().try_for_each(|node| api.create("/api/v1/nodes", &object(node)).map(drop))
}

fn path(node: &Node) -> String {
    format!("/api/v1/nodes/{}", node.name())
}

/// Problems and warnings.
fn told(status: &Value) -> String {
    let lists = ["problems", "warnings"].iter().filter_map(|list| status[list].as_array()).flatten();
    lists.map(|line| format!("{line}\n")).collect()
}

fn has_peers(agent_of: &Node, count: usize) -> anyhow::Result<()> {
    wait_for_status(agent_of.agent()?, &format!("had {count} direct peers"), |status| {
        status["peers"]
            .as_array()
            .is_some_and(|peers| peers.len() == count && peers.iter().all(|peer| peer["state"] == "direct"))
    })
}

/// All pods reach each other, at all their addresses, and no kernel forwards anything of it.
fn assert_fast_path(lab: &Lab) -> anyhow::Result<()> {
    let before = counters::forwarded_by(lab.nodes())?;
    let problems = failures(&ping::ping_pairs(&lab.pod_pairs(), || {}));
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    let after = counters::forwarded_by(lab.nodes())?;
    ensure!(before == after, "the kernels forwarded: {before:?} before, {after:?} after");
    Ok(())
}

fn nodes_come_change_and_go(lab: &Lab, api: &Api) -> anyhow::Result<()> {
    let [first, second, third] = lab.nodes() else { anyhow::bail!("three nodes") };
    register(api, &lab.nodes()[..2])?;
    for node in [first, second] {
        node.agent()?.start_and_wait()?;
        node.ready_pods(["a"])?;
    }
    has_peers(first, 1)?;
    assert_fast_path(lab)?;

    // Joined, without pod CIDRs at first, as before the controller manager has seen it.
    let mut young = object(third);
    let spec = young["spec"].take();
    young["spec"] = json!({"taints": spec["taints"]});
    api.create("/api/v1/nodes", &young)?;
    wait_for_status(first.agent()?, "named the node without pod CIDRs", |status| {
        told(status).contains("node3 has no podCIDRs") && status["peers"][0]["name"] == "node2"
    })?;
    api.merge(&path(third), &json!({"spec": {"podCIDR": spec["podCIDR"], "podCIDRs": spec["podCIDRs"]}}))?;
    third.agent()?.start_and_wait()?;
    third.ready_pods(["a"])?;
    for node in lab.nodes() {
        has_peers(node, 2)?;
        wait_for_status(node.agent()?, "had no problem", |status| told(status).is_empty())?;
    }
    assert_fast_path(lab)?;

    // Another address.
    let moved = "192.168.1.112";
    second.exec(["ip", "address", "add", &format!("{moved}/24"), "dev", podlane_tests::lab::UPLINK])?;
    let mut addresses = object(second)["status"]["addresses"].clone();
    addresses[0]["address"] = moved.into();
    api.merge(&format!("{}/status", path(second)), &json!({"status": {"addresses": addresses}}))?;
    wait_for_status(first.agent()?, "knew the new address", |status| {
        status["peers"][0]["addresses"][0] == moved && status["peers"][0]["nextHops"][0] == moved
    })?;
    assert_fast_path(lab)?;

    // Another pod CIDR: the API allows no change, but the node may be registered anew.
    third.del_pods(&["a"])?;
    api.delete(&path(third))?;
    has_peers(first, 1)?;
    let routes = first.exec(["ip", "route"])?;
    ensure!(!routes.contains("10.244.3.0"), "{routes}");
    let mut anew = object(third);
    anew["spec"]["podCIDR"] = "10.244.33.0/24".into();
    anew["spec"]["podCIDRs"] = json!(["10.244.33.0/24", "fd00:244:33::/64"]);
    api.create("/api/v1/nodes", &anew)?;
    wait_for_status(third.agent()?, "had the new pod CIDR", |status| {
        status["podCIDRs"][0] == "10.244.33.0/24"
    })?;
    has_peers(first, 2)?;
    let [pod] = third.ready_pods(["b"])?;
    ensure!(pod.address().to_string().starts_with("10.244.33."), "{}", pod.address());
    assert_fast_path(lab)
}

fn the_api_knows_that_nodes_are_ready(lab: &Lab, api: &Api) -> anyhow::Result<()> {
    let node = lab.node(1);
    register(api, lab.nodes())?;
    let announced = || -> anyhow::Result<bool> {
        let object = api.get(&path(node))?;
        let taints = object["spec"]["taints"].to_string();
        let conditions = object["status"]["conditions"].as_array().context("no conditions")?;
        let network = conditions.iter().find(|condition| condition["type"] == "NetworkUnavailable");
        let network = network.context("no condition NetworkUnavailable")?;
        ensure!(taints.contains("example.com/kept"), "{taints}");
        let available = network["status"] == "False" && network["reason"] == "PodlaneIsUp";
        Ok(available && !taints.contains(AGENT_NOT_READY))
    };
    ensure!(!announced()?, "announced before there was an agent");
    node.agent()?.start_and_wait()?;
    wait_until("the condition is False and the taint is gone", announced)?;
    // The other agents do not run: nobody speaks for their nodes.
    let other = api.get(&path(lab.node(2)))?;
    ensure!(other["spec"]["taints"].to_string().contains(AGENT_NOT_READY), "{other}");

    // Pods of the node, with their labels.
    node.ready_pods(["cart"])?;
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "cart", "namespace": "default", "labels": {"app": "cart", "tier": "front"}},
        "spec": {"nodeName": node.name(), "containers": [{"name": "main", "image": "example.com/cart"}]}});
    wait_until("the namespace is there", || {
        Ok(!api.is_real() || api.get("/api/v1/namespaces/default").is_ok())
    })?;
    api.create("/api/v1/namespaces/default/pods", &pod)?;
    let labels = || -> anyhow::Result<Value> {
        let (_, body) = node.agent()?.get("/v1/attachments")?;
        Ok(serde_json::from_str::<Value>(&body)?[0]["labels"].clone())
    };
    wait_until("the attachment has the pod's labels", || {
        Ok(labels()? == json!({"app": "cart", "tier": "front"}))
    })?;
    api.merge("/api/v1/namespaces/default/pods/cart", &json!({"metadata": {"labels": {"tier": "back"}}}))?;
    wait_until("the labels have changed", || Ok(labels()?["tier"] == "back"))?;
    let links = node.exec(["ip", "link"])?;
    ensure!(links.contains("alias default/cart"), "{links}");
    Ok(())
}

fn an_outage_harms_nothing(lab: &Lab, api: &Api) -> anyhow::Result<()> {
    let [first, second, third] = lab.nodes() else { anyhow::bail!("three nodes") };
    register(api, lab.nodes())?;
    lab.start_agents()?;
    for node in [first, second] {
        node.ready_pods(["a", "b"])?;
    }
    has_peers(first, 2)?;
    has_peers(second, 2)?;
    let (here, there) = (first.pods(), second.pods());
    let conversations = [
        Steady::udp(&here[0], &there[0])?,
        Steady::tcp(&there[0], &here[0])?,
        Steady::tcp(&here[0], &here[1])?,
    ];
    let before = state::of(first)?;
    api.stop()?;
    wait_for_status(first.agent()?, "named the API server that is away", |status| {
        told(status).contains("the Kubernetes API at")
            && status["peers"].as_array().is_some_and(|peers| peers.len() == 2)
    })?;
    ensure!(state::of(first)? == before, "the outage has changed the node");
    // Pods come and go, and an agent is killed and started.
    first.ready_pods(["c"])?;
    second.agent()?.kill()?;
    second.agent()?.start()?;
    wait_for_status(second.agent()?, "named the API server", |status| {
        told(status).contains("the Kubernetes API at")
    })?;
    assert_fast_path(lab)?;

    // A node goes, and what a watch would start from is forgotten.
    let gone = path(third);
    third.agent()?.stop()?;
    let forgotten = api.forget()?;
    api.resume()?;
    api.delete(&gone)?;
    for node in [first, second] {
        has_peers(node, 1)?;
        wait_for_status(node.agent()?, "had no problem", |status| told(status).is_empty())?;
    }
    assert_fast_path(lab)?;
    for conversation in conversations {
        conversation.finish()?;
    }
    let log = first.agent()?.log();
    ensure!(
        !forgotten || log.contains("listing all nodes again"),
        "the API has forgotten nothing; the log:\n{log}"
    );
    Ok(())
}

/// What `rbac.yaml` gives, and nothing beside it.
fn the_account_has_its_rights_and_no_others(lab: &Lab, api: &Api) -> anyhow::Result<()> {
    register(api, &lab.nodes()[..1])?;
    let token = api.account_token()?;
    let json = "application/json";
    let merge = "application/merge-patch+json";
    let nothing = Value::Null;
    let node = path(lab.node(1));
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    let object = object(lab.node(2));
    for (allowed, method, path, kind, body) in [
        (true, "GET", "/api/v1/nodes?limit=1", json, &nothing),
        (true, "GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode1", json, &nothing),
        (true, "PATCH", &node, merge, &labels),
        (true, "PATCH", &format!("{node}/status"), merge, &labels),
        (false, "GET", "/api/v1/secrets", json, &nothing),
        (false, "GET", "/api/v1/namespaces/kube-system/secrets", json, &nothing),
        (false, "GET", "/api/v1/configmaps", json, &nothing),
        (false, "GET", "/api/v1/services", json, &nothing),
        (false, "GET", "/api/v1/namespaces", json, &nothing),
        (false, "POST", "/api/v1/nodes", json, &object),
        (false, "PUT", &node, json, &object),
        (false, "DELETE", &node, json, &nothing),
        (false, "DELETE", "/api/v1/nodes", json, &nothing),
        (false, "GET", "/api/v1/namespaces/default/pods/a", json, &nothing),
        (false, "PATCH", "/api/v1/namespaces/default/pods/a", merge, &labels),
        (false, "DELETE", "/api/v1/namespaces/default/pods/a", json, &nothing),
        (false, "POST", "/api/v1/namespaces/default/pods/a/exec?command=id", json, &nothing),
        (false, "GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles", json, &nothing),
    ] {
        let answer = api.request_as(&token, method, path, kind, body);
        match (allowed, &answer) {
            (true, Ok(_)) => {}
            (false, Err(error)) if format!("{error:#}").contains("forbidden") => {}
            _ => anyhow::bail!(
                "{method} {path} should be {}: {answer:?}",
                if allowed { "allowed" } else { "forbidden" }
            ),
        }
    }
    Ok(())
}

#[test]
fn scripted_nodes_come_change_and_go() -> anyhow::Result<()> {
    scripted(nodes_come_change_and_go)
}

#[test]
fn real_nodes_come_change_and_go() -> anyhow::Result<()> {
    real(nodes_come_change_and_go)
}

#[test]
fn scripted_api_knows_that_nodes_are_ready() -> anyhow::Result<()> {
    scripted(the_api_knows_that_nodes_are_ready)
}

#[test]
fn real_api_knows_that_nodes_are_ready() -> anyhow::Result<()> {
    real(the_api_knows_that_nodes_are_ready)
}

#[test]
fn scripted_outage_harms_nothing() -> anyhow::Result<()> {
    scripted(an_outage_harms_nothing)
}

#[test]
fn real_outage_harms_nothing() -> anyhow::Result<()> {
    real(an_outage_harms_nothing)
}

#[test]
fn real_account_has_its_rights_and_no_others() -> anyhow::Result<()> {
    real(the_account_has_its_rights_and_no_others)
}
