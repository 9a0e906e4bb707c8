//! The CNI plugin, called as runtimes call it and as they should not.

use podlane_tests::lab::cni::Call;
use podlane_tests::probe::{ping, state};
use podlane_tests::{Binaries, Lab};
use serde_json::Value;

fn one_node() -> anyhow::Result<Lab> {
    Lab::builder().podlane(Binaries::find()?).build()
}

#[test]
fn an_added_pod_is_configured_as_its_result_says() -> anyhow::Result<()> {
    let lab = one_node()?;
    let pod = lab.node(1).add_pod("a")?;
    let result = pod.result();
    assert_eq!(result.cni_version, "1.0.0");
    let [ip] = &result.ips[..] else { panic!("{result:?}") };
    assert_eq!(ip.address.to_string(), "10.244.1.2/32");
    assert_eq!(pod.gateway().to_string(), "10.244.1.1");

    let own =
        ip.interface.and_then(|index| result.interfaces.get(index)).expect("the address names its interface");
    assert_eq!(own.name, "eth0");
    assert_eq!(own.sandbox.as_deref(), pod.namespace().path().to_str());
    let link = pod.exec(["ip", "link", "show", "eth0"])?;
    assert!(link.contains(&own.mac.to_lowercase()) && link.contains("mtu 1500"), "{link}");
    assert!(pod.exec(["ip", "address", "show", "eth0"])?.contains("inet 10.244.1.2/32"));
    let routes = pod.exec(["ip", "route"])?;
    assert!(routes.contains("default via 10.244.1.1 dev eth0"), "{routes}");
    assert!(pod.exec(["ip", "neighbour"])?.contains("PERMANENT"));

    let host = pod.host_interface().expect("the result names the host's interface");
    assert!(host.starts_with("pl") && host.len() == 13, "{host}");
    // An operator sees whose it is.
    assert!(lab.node(1).exec(["ip", "link", "show", host])?.contains("alias default/a"));
    Ok(())
}

#[test]
fn deleting_twice_and_deleting_the_unknown_succeed() -> anyhow::Result<()> {
    let lab = one_node()?;
    let node = lab.node(1);
    let before = state::of(node)?;
    let pod = node.add_pod("a")?;
    let delete = node.pod_call("DEL", &pod)?;
    delete.make()?.success()?;
    assert_eq!(state::of(node)?, before);
    // Runtimes call again later, when the namespace is gone.
    delete.clone().with("CNI_NETNS", "").make()?.success()?;
    delete.without("CNI_NETNS").with("CNI_CONTAINERID", "never-seen").make()?.success()?;
    assert_eq!(state::of(node)?, before);
    Ok(())
}

#[test]
fn a_pod_whose_namespace_vanished_can_be_deleted() -> anyhow::Result<()> {
    let lab = one_node()?;
    let node = lab.node(1);
    let before = state::of(node)?;
    let pod = node.add_pod("a")?;
    pod.namespace().delete()?;
    node.pod_call("DEL", &pod)?.make()?.success()?;
    assert_eq!(state::of(node)?, before);
    Ok(())
}

#[test]
fn an_add_repeated_as_its_answer_was_lost_gives_the_same_answer() -> anyhow::Result<()> {
    let lab = one_node()?;
    let node = lab.node(1);
    let pod = node.add_pod("a")?;
    let before = state::of(node)?;
    let again = node.pod_call("ADD", &pod)?.make()?.result()?;
    assert_eq!(again.ips[0].address, pod.result().ips[0].address);
    assert_eq!(state::of(node)?, before);
    ping::ping(pod.namespace(), pod.gateway())?;
    // But not if the pod is another one.
    let other = node.make_sandbox("other")?;
    let netns = other.namespace.path();
    let failure = node.pod_call("ADD", &pod)?.with("CNI_NETNS", netns.to_string_lossy()).make()?.failure()?;
    assert!(failure.text().contains("attached already"), "{failure:?}");
    assert_eq!(state::of(node)?, before);
    Ok(())
}

#[test]
fn check_names_what_is_damaged() -> anyhow::Result<()> {
    let lab = one_node()?;
    let node = lab.node(1);
    let pod = node.add_pod("a")?;
    let check = |pod| -> anyhow::Result<Call> {
        let call = node.pod_call("CHECK", pod)?;
        let mut config: Value = serde_json::from_str(&call.stdin)?;
        config["prevResult"] = serde_json::json!({
            "cniVersion": "1.0.0",
            "interfaces": [],
            "ips": [{ "address": pod.result().ips[0].address }],
        });
        Ok(call.with_stdin(config.to_string()))
    };
    check(&pod)?.make()?.success()?;
    pod.exec(["ip", "route", "delete", "default"])?;
    let failure = check(&pod)?.make()?.failure()?;
    assert!(failure.text().contains("default") || failure.text().contains("route"), "{failure:?}");
    Ok(())
}

#[test]
fn version_names_what_is_supported() -> anyhow::Result<()> {
    let lab = Lab::builder().podlane_stopped(Binaries::find()?).build()?;
    let node = lab.node(1);
    let call = node.call("VERSION", "a", &node.make_sandbox("a")?)?;
    let bare = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"];
    let answer = bare.iter().fold(call, |call, variable| call.without(variable)).make()?.success()?;
    let answer: Value = serde_json::from_str(&answer)?;
    let versions = answer["supportedVersions"].as_array().cloned().unwrap_or_default();
    assert!(versions.contains(&"1.0.0".into()) && versions.contains(&"0.4.0".into()), "{answer}");
    Ok(())
}

#[test]
fn without_an_agent_the_runtime_is_told_to_try_again_later() -> anyhow::Result<()> {
    let lab = Lab::builder().podlane_stopped(Binaries::find()?).build()?;
    let node = lab.node(1);
    let failure = node.call("ADD", "a", &node.make_sandbox("a")?)?.make()?.failure()?;
    assert_eq!(failure.code, 11, "{failure:?}");
    assert!(failure.text().contains("agent.sock"), "{failure:?}");
    Ok(())
}

#[test]
fn bad_input_is_answered_by_a_cni_error_that_names_it_and_changes_nothing() -> anyhow::Result<()> {
    let lab = one_node()?;
    let node = lab.node(1);
    let sandbox = node.make_sandbox("a")?;
    let occupied = node.make_sandbox("occupied")?;
    occupied.namespace.ip(&["link add eth0 type bridge".to_owned()])?;
    let before = state::of(node)?;
    let good = node.call("ADD", "a", &sandbox)?;
    let unsupported = good.stdin.replace("1.0.0", "7.0.0");

    // What is wrong, the call, the specification's error code, a word of the message.
    let cases: Vec<(&str, Call, u32, &str)> = vec![
        ("malformed JSON", good.clone().with_stdin("{\"cniVersion\":"), 6, "configuration"),
        ("no JSON at all", good.clone().with_stdin(""), 6, "configuration"),
        ("unsupported version", good.clone().with_stdin(unsupported), 1, "7.0.0"),
        ("no command", good.clone().without("CNI_COMMAND"), 4, "CNI_COMMAND"),
        ("unknown command", good.clone().with("CNI_COMMAND", "FETCH"), 4, "FETCH"),
        ("no container", good.clone().without("CNI_CONTAINERID"), 4, "CNI_CONTAINERID"),
        ("no namespace", good.clone().without("CNI_NETNS"), 4, "CNI_NETNS"),
        ("no interface name", good.clone().without("CNI_IFNAME"), 4, "CNI_IFNAME"),
        (
            "too long an interface name",
            good.clone().with("CNI_IFNAME", "averyverylongname"),
            4,
            "averyverylongname",
        ),
        ("a container id as a path", good.clone().with("CNI_CONTAINERID", "../../etc"), 4, "../../etc"),
        ("unknown namespace", good.clone().with("CNI_NETNS", "/run/netns/nowhere"), 0, "/run/netns/nowhere"),
        ("a namespace that is a file", good.clone().with("CNI_NETNS", "/etc/hostname"), 0, "/etc/hostname"),
        ("eth0 is there already", node.call("ADD", "occupied", &occupied)?, 0, "eth0"),
    ];
    let mut problems = Vec::new();
    for (what, call, code, word) in cases {
        match call.make()?.failure() {
            // Where the specification reserves no number, any does.
            Ok(failure) if code != 0 && failure.code != code => {
                problems.push(format!("{what}: code {}", failure.code))
            }
            Ok(failure) if !failure.text().contains(word) => problems.push(format!("{what}: {failure:?}")),
            Ok(_) => {}
            Err(error) => problems.push(format!("{what}: {error:#}")),
        }
        if state::of(node)? != before {
            problems.push(format!("{what}: something was left behind"));
        }
    }
    assert_eq!(problems, Vec::<String>::new());

    // The same call without its fault works.
    good.make()?.result()?;
    Ok(())
}
