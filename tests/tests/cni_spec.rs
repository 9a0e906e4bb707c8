//! The CNI specification 1.1.0, section by section. Each test's name starts with the section's number.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use podlane_tests::lab::cni::{Call, Failure};
use podlane_tests::lab::{Node, Sandbox, chain::Chain};
use podlane_tests::probe::{ping, source, state};
use podlane_tests::{Binaries, Lab};
use serde_json::{Value, json};

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

fn one_node() -> anyhow::Result<Lab> {
    Lab::builder().ipv6(true).podlane(Binaries::find()?).build()
}

/// A change to the configuration that a call passes on.
fn with_config(call: Call, change: impl FnOnce(&mut Value)) -> anyhow::Result<Call> {
    let mut config = serde_json::from_str(&call.stdin)?;
    change(&mut config);
    Ok(call.with_stdin(config.to_string()))
}

fn refused(call: Call, code: u32) -> anyhow::Result<Failure> {
    let failure = call.make()?.failure()?;
    ensure!(failure.code == code, "{code} expected: {failure:?}");
    ensure!(failure.cni_version.is_some() && !failure.msg.is_empty(), "{failure:?}");
    Ok(failure)
}

fn json_of(call: &Call) -> anyhow::Result<Value> {
    let text = call.make()?.success()?;
    serde_json::from_str(&text).with_context(|| text)
}

fn same(node: &Node, before: &std::collections::BTreeSet<String>, what: &str) -> anyhow::Result<()> {
    let after = state::of(node)?;
    ensure!(after == *before, "{what}: {:?}", after.symmetric_difference(before).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn section_1_unknown_keys_are_ignored_and_required_ones_are_required() -> anyhow::Result<()> {
    let lab = one_node()?;
    let node = lab.node(1);
    let sandbox = node.make_sandbox("a")?;
    let add = node.call("ADD", "a", &sandbox)?;
    refused(with_config(add.clone(), |config| config["cniVersion"] = "1.2.0".into())?, 1)?;
    refused(with_config(add.clone(), |config| config["name"] = "with blank".into())?, 7)?;
    refused(with_config(add.clone(), |config| config["ipMasq"] = true.into())?, 2)?;
    let add = with_config(add, |config| {
        config["capabilities"] = json!({ "ips": true });
        config["com.example/unknown"] = json!({ "x": 1 });
        config["runtimeConfig"] = json!({ "portMappings": [], "x": [1] });
        config["args"] = json!({ "com.example": { "y": 2 } });
        config["dns"] = json!({ "nameservers": ["10.0.0.10"], "search": ["svc"] });
    })?;
    ensure!(json_of(&add)?["dns"] == json!({ "nameservers": ["10.0.0.10"], "search": ["svc"] }));
    Ok(())
}

#[test]
fn section_2_parameters_come_in_the_environment() -> anyhow::Result<()> {
    let lab = one_node()?;
    let node = lab.node(1);
    let sandbox = node.make_sandbox("a")?;
    let before = state::of(node)?;
    for (command, needed) in [
        ("ADD", vec!["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
        ("DEL", vec!["CNI_CONTAINERID", "CNI_IFNAME"]),
        ("CHECK", vec!["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
    ] {
        for variable in needed {
            let failure = refused(node.call(command, "a", &sandbox)?.without(variable), 4)?;
            ensure!(failure.msg.contains(variable), "{failure:?}");
        }
    }
    same(node, &before, "refused calls")?;
    // In any order, with others in between.
    let args = "K8S_POD_UID=u-1;X=y;K8S_POD_NAME=cart;IgnoreUnknown=1;K8S_POD_NAMESPACE=shop";
    node.call("ADD", "a", &sandbox)?.with("CNI_ARGS", args).make()?.success()?;
    let links = node.exec(["ip", "link"])?;
    ensure!(links.contains("alias shop/cart"), "{links}");
    node.call("DEL", "a", &sandbox)?.without("CNI_NETNS").make()?.success()?;
    same(node, &before, "DEL")
}

#[test]
fn section_2_add_makes_what_it_says_and_nothing_when_it_fails() -> anyhow::Result<()> {
    let lab = one_node()?;
    let node = lab.node(1);
    let before = state::of(node)?;
    let sandbox = node.make_sandbox("a")?;
    refused(node.call("ADD", "a", &sandbox)?.with("CNI_NETNS", "/run/netns/none"), 4)?;
    same(node, &before, "a failed ADD")?;
    let result = json_of(&node.call("ADD", "a", &sandbox)?)?;
    // "must error if an interface of that name exists": of another attachment; the same ADD is answered again.
    let other = Sandbox { container_id: "other".to_owned(), ..sandbox.clone() };
    refused(node.call("ADD", "a", &other)?, 102)?;
    ensure!(json_of(&node.call("ADD", "a", &sandbox)?)? == result, "ADD, ADD");
    // A second interface of the same container is another attachment.
    node.call("ADD", "a", &sandbox)?.with("CNI_IFNAME", "net1").make()?.success()?;
    for interface in ["eth0", "net1"] {
        node.call("DEL", "a", &sandbox)?.with("CNI_IFNAME", interface).make()?.success()?;
    }
    same(node, &before, "DEL")
}

#[test]
fn section_2_del_is_generous() -> anyhow::Result<()> {
    let lab = one_node()?;
    let node = lab.node(1);
    let before = state::of(node)?;
    let sandbox = node.make_sandbox("a")?;
    let del = node.call("DEL", "a", &sandbox)?;
    del.make()?.success().context("DEL before ADD")?;
    let result = json_of(&node.call("ADD", "a", &sandbox)?)?;
    let full = with_config(del.clone(), |config| config["prevResult"] = result)?;
    full.make()?.success()?;
    full.make()?.success().context("DEL, DEL")?;
    same(node, &before, "DEL")?;
    // As containerd does: once whole, once with neither namespace nor previous result; the namespace is gone.
    node.call("ADD", "a", &sandbox)?.make()?.success()?;
    sandbox.namespace.delete()?;
    full.make()?.success().context("DEL with the namespace gone")?;
    del.with("CNI_NETNS", "").make()?.success().context("DEL with CNI_NETNS empty")?;
    same(node, &before, "DEL without namespace")
}

#[test]
fn section_2_check_finds_every_kind_of_damage() -> anyhow::Result<()> {
    let lab = one_node()?;
    let node = lab.node(1);
    let sandbox = node.make_sandbox("a")?;
    let check = node.call("CHECK", "a", &sandbox)?;
    refused(check.clone(), 7).context("prevResult is required")?;
    let damages: [(&str, bool, &str); 9] = [
        ("ip addr del 10.244.1.X/32 dev eth0", true, "address 10.244.1."),
        ("ip route del default", true, "route to 0.0.0.0/0"),
        ("ip -6 route del default", true, "route to ::/0"),
        ("ip neigh del 10.244.1.1 dev eth0", true, "neighbour entry for 10.244.1.1"),
        ("ip link set eth0 down", true, "eth0 is down"),
        ("ip link set eth0 mtu 1400", true, "MTU 1400"),
        ("ip route del 10.244.1.X", false, "route to 10.244.1."),
        ("ip neigh del 10.244.1.X dev HOST", false, "neighbour entry for 10.244.1."),
        ("ip link del HOST", false, "missing"),
    ];
    for (damage, in_pod, word) in damages {
        let result = json_of(&node.call("ADD", "a", &sandbox)?)?;
        let check = with_config(check.clone(), |config| config["prevResult"] = result.clone())?;
        check.make()?.success().context("CHECK of what is whole")?;
        let address = result["ips"][0]["address"].as_str().unwrap_or_default().replace("/32", "");
        let host = result["interfaces"][0]["name"].as_str().unwrap_or_default();
        let line = damage.replace("10.244.1.X", &address).replace("HOST", host);
        let namespace = if in_pod { &sandbox.namespace } else { node.namespace() };
        namespace.command(line.split(' ')).read()?;
        let answer = check.clone().make()?;
        if answer.0.code == Some(0) && !in_pod {
            // Mended by then: the agent looks after the node's side.
            let repairs = node.agent()?.status()?.0["repairs"].to_string();
            ensure!(repairs.contains(word), "{damage} was neither found nor mended: {repairs}");
        } else {
            let failure = answer.failure().context(line)?;
            ensure!(failure.code == 103 && failure.text().contains(word), "{damage}: {failure:?}");
        }
        node.call("DEL", "a", &sandbox)?.make()?.success()?;
    }
    // What the runtime believes is compared too.
    let mut result = json_of(&node.call("ADD", "a", &sandbox)?)?;
    result["ips"][0]["address"] = "10.244.1.200/32".into();
    refused(with_config(check, |config| config["prevResult"] = result)?, 103)?;
    Ok(())
}

#[test]
fn section_2_status_and_gc_exist_since_1_1_0() -> anyhow::Result<()> {
    let lab = one_node()?;
    let node = lab.node(1);
    node.add_pods(&["a", "b", "c"])?;
    let pods = node.pods();
    let bare = |command: &str, version: &str| {
        let call = node.call(command, "none", &pods[0].sandbox())?.with_stdin("");
        let call = call.without("CNI_CONTAINERID").without("CNI_NETNS").without("CNI_IFNAME");
        let config = node.plugin()?.config.clone();
        with_config(call.with_stdin(config.to_string()), |config| config["cniVersion"] = version.into())
    };
    for command in ["STATUS", "GC"] {
        refused(bare(command, "1.0.0")?, 1)?;
    }
    bare("STATUS", "1.1.0")?.make()?.success()?;
    let before = state::of(node)?;
    refused(bare("GC", "1.1.0")?, 7).context("GC without a list must not delete everything")?;
    same(node, &before, "GC without a list")?;
    let valid = json!([
        { "containerID": pods[1].container_id(), "ifname": "eth0" },
        { "containerID": "of-another-network", "ifname": "eth0" },
    ]);
    let gc = with_config(bare("GC", "1.1.0")?, |config| config["cni.dev/valid-attachments"] = valid)?;
    gc.make()?.success()?;
    gc.make()?.success()?;
    let (_, body) = node.agent()?.get("/v1/attachments")?;
    let left: Value = serde_json::from_str(&body)?;
    ensure!(left.as_array().is_some_and(|left| left.len() == 1), "{left}");
    ensure!(left[0]["containerID"] == pods[1].container_id(), "{left}");
    ping::ping(node.namespace(), pods[1].address())
}

#[test]
fn section_2_version_needs_nothing() -> anyhow::Result<()> {
    let lab = Lab::builder().podlane_stopped(Binaries::find()?).build()?;
    let node = lab.node(1);
    let sandbox = node.make_sandbox("a")?;
    let call = node.call("VERSION", "a", &sandbox)?.with_stdin(r#"{"cniVersion":"1.1.0"}"#);
    let bare = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"];
    let answer = json_of(&bare.iter().fold(call, |call, variable| call.without(variable)))?;
    ensure!(answer == json!({ "cniVersion": "1.1.0", "supportedVersions": VERSIONS }), "{answer}");
    Ok(())
}

#[test]
fn section_3_runtime_config_is_heard_and_requested_addresses_are_honoured() -> anyhow::Result<()> {
    let lab = one_node()?;
    let node = lab.node(1);
    let sandbox = node.make_sandbox("a")?;
    let mut chain = Chain::new(node, "1.1.0", [])?;
    chain.capabilities.extend([
        ("ips".to_owned(), json!(["10.244.1.77/24"])),
        ("mac".to_owned(), json!("02:00:5e:00:00:77")),
        ("dns".to_owned(), json!({ "servers": ["10.0.0.53"], "searches": ["svc"] })),
    ]);
    chain.add(&sandbox)?.success()?;
    let result = chain.result();
    ensure!(result["ips"][0]["address"] == "10.244.1.77/32", "{result}");
    ensure!(result["ips"][1]["address"].as_str().is_some_and(|a| a.starts_with("fd00:244:1::")), "{result}");
    ensure!(result["interfaces"][1]["mac"] == "02:00:5e:00:00:77", "{result}");
    ensure!(result["dns"] == json!({ "nameservers": ["10.0.0.53"], "search": ["svc"] }), "{result}");
    let link = sandbox.namespace.command(["ip", "link", "show", "eth0"]).read()?;
    ensure!(link.contains("02:00:5e:00:00:77"), "{link}");
    ping::ping(&sandbox.namespace, "10.244.1.1".parse()?)?;
    chain.run("CHECK", &sandbox)?;

    // Nobody else gets it, by any way of asking.
    let other = node.make_sandbox("b")?;
    let taken = chain.add(&other)?.failure()?;
    ensure!(taken.code == 102 && taken.text().contains("10.244.1.77"), "{taken:?}");
    let by_args = node.call("ADD", "b", &other)?.with("CNI_ARGS", "IP=10.244.1.77");
    refused(by_args.clone(), 102)?;
    refused(by_args.clone().with("CNI_ARGS", "IP=10.9.9.9"), 7)?;
    let given = json_of(&by_args.with("CNI_ARGS", "MAC=02:00:5e:00:00:78;IP=10.244.1.78"))?;
    ensure!(given["ips"][0]["address"] == "10.244.1.78/32", "{given}");
    ensure!(given["interfaces"][1]["mac"] == "02:00:5e:00:00:78", "{given}");

    let third = node.make_sandbox("c")?;
    let by_config = with_config(node.call("ADD", "c", &third)?, |config| {
        config["args"] = json!({ "cni": { "ips": ["10.244.1.79"] } });
    })?;
    ensure!(json_of(&by_config)?["ips"][0]["address"] == "10.244.1.79/32");

    let fourth = node.make_sandbox("d")?;
    let ranges =
        json!([[{ "subnet": "10.244.1.0/24", "rangeStart": "10.244.1.77", "rangeEnd": "10.244.1.80" }]]);
    let ranged = with_config(node.call("ADD", "d", &fourth)?, |config| {
        config["runtimeConfig"] = json!({ "IPRanges": ranges });
    })?;
    ensure!(json_of(&ranged)?["ips"][0]["address"] == "10.244.1.80/32", "the one that is left");
    Ok(())
}

#[test]
fn section_3_later_plugins_of_a_chain_get_our_result() -> anyhow::Result<()> {
    let lab = Lab::builder().nodes(2).ipv6(true).podlane(Binaries::find()?).build()?;
    let node = lab.node(1);
    let mut chain = Chain::new(
        node,
        "1.0.0",
        [
            json!({ "type": "portmap", "capabilities": { "portMappings": true }, "snat": true }),
            json!({ "type": "tuning", "sysctl": { "net.core.somaxconn": "500" } }),
            json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } }),
        ],
    )?;
    chain.capabilities.extend([
        ("portMappings".to_owned(), json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }])),
        ("bandwidth".to_owned(), json!({ "ingressRate": 800_000_000, "ingressBurst": 80_000_000 })),
    ]);
    let before = state::of(node)?;
    let sandbox = node.make_sandbox("web")?;
    chain.add(&sandbox)?.success()?;
    let result = chain.result();
    ensure!(result["ips"][0]["address"] == "10.244.1.2/32", "{result}");
    // But for portmap: CHECK of its release 1.1 looks for IPv4's rules among IPv6's, and never succeeds.
    chain.run_at(&[0, 2, 3], "CHECK", &sandbox)?;
    let somaxconn = sandbox.namespace.run(|| fs_err::read_to_string("/proc/sys/net/core/somaxconn"))??;
    ensure!(somaxconn.trim() == "500");

    // The hostPort answers a pod and a node elsewhere: both directions pass portmap's rules.
    let client = lab.node(2).add_pod("client")?;
    let listener =
        sandbox.namespace.run(|| std::net::TcpListener::bind(("10.244.1.2", 80)))?.context("listening")?;
    let target = std::net::SocketAddr::new(node.addresses().next().context("an address")?, 8080);
    for from in [client.namespace(), lab.node(2).namespace()] {
        let stream = from.run(|| std::net::TcpStream::connect_timeout(&target, Duration::from_secs(3)))?;
        let stream = stream.with_context(|| format!("connecting from {}", from.name()))?;
        let (_, _) = listener.accept()?;
        drop(stream);
    }
    // Without NAT, and with its own address, beside it.
    let seen = source::seen_by(client.namespace(), &sandbox.namespace, "10.244.1.2".parse()?)?;
    ensure!(seen == client.address(), "{seen}");

    chain.run("DEL", &sandbox)?;
    chain.run("DEL", &sandbox)?;
    lab.node(2).del_pod("client")?;
    same(node, &before, "DEL of the chain")
}

#[test]
fn section_4_ipam_is_delegated_to_the_plugin_that_is_named() -> anyhow::Result<()> {
    let lab = Lab::builder().nodes(2).podlane(Binaries::find()?).build()?;
    let node = lab.node(1);
    let before = state::of(node)?;
    let leases = lab.dir().join("leases");
    let ipam = |subnet: &str| {
        json!({
            "type": "host-local",
            "dataDir": leases,
            "ranges": [[{ "subnet": subnet, "rangeStart": subnet.replace("0/24", "100") }]],
        })
    };
    let reserved = || -> anyhow::Result<Vec<String>> {
        let names = fs_err::read_dir(leases.join("podlane"))?.map(|entry| Ok(entry?.file_name()));
        let names = names.collect::<std::io::Result<Vec<_>>>()?;
        let names = names.into_iter().map(|name| name.to_string_lossy().into_owned());
        Ok(names.filter(|name| name.starts_with("10.")).collect())
    };
    let mut chain = Chain::new(node, "1.0.0", [])?;
    chain.podlane()["ipam"] = ipam("10.244.1.0/24");
    let (a, b) = (node.make_sandbox("a")?, node.make_sandbox("b")?);
    chain.add(&a)?.success()?;
    let first = chain.result();
    ensure!(
        first["ips"] == json!([{ "address": "10.244.1.100/32", "gateway": "10.244.1.1", "interface": 1 }]),
        "{first}"
    );
    chain.run("CHECK", &a)?;
    ensure!(reserved()? == ["10.244.1.100"]);
    // The same ADD again asks nobody.
    chain.add(&a)?.success()?;
    ensure!(chain.result() == first);
    // A failed ADD gives the address back: b's eth0 exists already.
    b.namespace.ip(&["link add eth0 type bridge".to_owned()])?;
    ensure!(chain.add(&b)?.failure()?.code == 102);
    ensure!(reserved()? == ["10.244.1.100"], "{:?}", reserved()?);
    b.namespace.ip(&["link delete eth0".to_owned()])?;
    chain.add(&b)?.success()?;
    // They are pods like others.
    let remote = lab.node(2).add_pod("remote")?;
    ping::ping(&a.namespace, remote.address())?;
    ping::ping(remote.namespace(), "10.244.1.100".parse()?)?;
    // Our own choice avoids them.
    let own = node.add_pod("own")?;
    ensure!(own.address().to_string() != "10.244.1.100", "{own:?}");
    node.del_pod("own")?;
    for sandbox in [&a, &b] {
        chain.run("DEL", sandbox)?;
        chain.run("DEL", sandbox)?;
    }
    ensure!(reserved()?.is_empty(), "{:?}", reserved()?);

    // Addresses that other nodes could not find are refused, and given back; so is a plugin that is not there.
    chain.podlane()["ipam"] = ipam("10.99.0.0/24");
    let failure = chain.add(&a)?.failure()?;
    ensure!(failure.code == 7 && failure.text().contains("podCIDRs"), "{failure:?}");
    ensure!(reserved()?.is_empty(), "{:?}", reserved()?);
    for kind in ["no-such-plugin", "../cni/host-local"] {
        chain.podlane()["ipam"] = json!({ "type": kind });
        let failure = chain.add(&a)?.failure()?;
        ensure!(failure.code == 7 && failure.text().contains(kind), "{failure:?}");
    }
    // The plugin's own errors come through.
    chain.podlane()["ipam"] = json!({ "type": "host-local", "dataDir": leases });
    let failure = chain.add(&a)?.failure()?;
    ensure!(failure.text().contains("IPAM plugin host-local"), "{failure:?}");
    same(node, &before, "delegation")
}

#[test]
fn section_5_results_are_in_the_version_that_was_asked_for() -> anyhow::Result<()> {
    let lab = one_node()?;
    let node = lab.node(1);
    for version in VERSIONS {
        let sandbox = node.make_sandbox(&format!("v{}", version.replace('.', "-")))?;
        let add =
            with_config(node.call("ADD", "a", &sandbox)?, |config| config["cniVersion"] = version.into())?;
        let result = json_of(&add)?;
        ensure!(result["cniVersion"] == version, "{result}");
        let [host, pod] = [&result["interfaces"][0], &result["interfaces"][1]];
        ensure!(pod["name"] == "eth0" && pod["sandbox"] == *sandbox.namespace.path().to_string_lossy());
        ensure!(host.get("sandbox").is_none() && host["mac"].is_string() && pod["mac"].is_string());
        ensure!((pod["mtu"] == 1500) == (version == "1.1.0"), "{result}");
        let ips = result["ips"].as_array().context("ips")?;
        ensure!(ips.len() == 2 && ips.iter().all(|ip| ip["interface"] == 1 && ip["gateway"].is_string()));
        ensure!((ips[1]["version"] == "6") == version.starts_with("0."), "{result}");
        let routes = result["routes"].as_array().context("routes")?;
        ensure!(routes.iter().map(|route| &route["dst"]).eq(["0.0.0.0/0", "::/0"]), "{result}");
        // Errors too.
        let error = with_config(add.with("CNI_NETNS", "/none"), |_| {})?.make()?.failure()?;
        ensure!(error.cni_version.as_deref() == Some(version), "{error:?}");
    }
    Ok(())
}
