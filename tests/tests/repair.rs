//! What others break while the agent runs is mended, and said once: in the log and in `podlane status`.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use dataplane_common::{Ip4, PodSlot, Settings, pod_slot};
use podlane_tests::lab::{Agent, Node, Pod};
use podlane_tests::probe::{counters, failures, ping, pins, state};
use podlane_tests::{Binaries, Lab, Run, Topology};
use serde_json::Value;

/// A busy machine's patience.
const PATIENCE: Duration = Duration::from_secs(30);

fn repairs(agent: &Agent) -> anyhow::Result<Vec<Value>> {
    let (status, _) = agent.status()?;
    Ok(status["repairs"].as_array().context("no list of repairs")?.clone())
}

/// The repair that tells of `word`; each is told once in the log.
fn told(agent: &Agent, word: &str) -> anyhow::Result<Value> {
    let repairs = repairs(agent)?;
    let found: Vec<_> =
        repairs.iter().filter(|repair| repair["what"].as_str().is_some_and(|w| w.contains(word))).collect();
    ensure!(
        found.len() == 1,
        "\"{word}\" is told {} times: {repairs:?}; the log:\n{}",
        found.len(),
        agent.log()
    );
    let what = found[0]["what"].as_str().unwrap_or_default();
    let said = agent.log().lines().filter(|line| line.contains("repaired") && line.contains(what)).count();
    ensure!(said == 1, "the log says {said} times: {what}\n{}", agent.log());
    ensure!(found[0]["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{}", found[0]);
    ensure!(found[0]["done"].as_str().is_some_and(|done| !done.is_empty()), "{}", found[0]);
    Ok(found[0].clone())
}

/// Waits for what the kernel's announcements set off.
fn wait_for(
    agent: &Agent,
    what: &str,
    mut happened: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !happened()? {
        ensure!(
            Instant::now() < deadline,
            "{what} is not mended after {PATIENCE:?}; the log:\n{}",
            agent.log()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Two nodes with two pods each, and how they were when all was well.
struct Scene {
    lab: Lab,
    before: std::collections::BTreeSet<String>,
}

impl Scene {
    fn set(topology: Topology, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let mut builder = topology.lab()?;
        for (key, value) in settings {
            builder = builder.agent_setting(key, *value);
        }
        let lab = builder.build()?;
        for node in lab.nodes() {
            node.ready_pods(["a", "b"])?;
        }
        let before = state::of(lab.node(1))?;
        // Nothing is broken, nothing is mended.
        lab.node(1).agent()?.reconcile()?;
        let found = repairs(lab.node(1).agent()?)?;
        ensure!(found.is_empty(), "{found:?}");
        Ok(Self { lab, before })
    }

    fn node(&self) -> &Node {
        self.lab.node(1)
    }

    fn agent(&self) -> anyhow::Result<&Agent> {
        self.node().agent()
    }

    fn pod(&self) -> Pod {
        self.node().pods()[0].clone()
    }

    /// The device of the first pod.
    fn device(&self) -> anyhow::Result<String> {
        Ok(self.pod().host_interface().context("the pod has no device on its node")?.to_owned())
    }

    /// Breaks something that the kernel announces, and waits.
    fn broken(&self, words: &[&str], told_as: &str) -> anyhow::Result<()> {
        self.node().exec(words)?;
        self.mended(told_as)
    }

    /// Waits until all is as before, and looks how that was told.
    fn mended(&self, told_as: &str) -> anyhow::Result<()> {
        let agent = self.agent()?;
        wait_for(agent, told_as, || Ok(state::of(self.node())? == self.before))?;
        let is_told = |repair: &Value| repair["what"].as_str().is_some_and(|what| what.contains(told_as));
        wait_for(agent, told_as, || Ok(repairs(agent)?.iter().any(is_told)))?;
        told(agent, told_as)?;
        self.is_well()
    }

    /// Asks for a pass, and then all is as before.
    fn mended_on_request(&self, told_as: &str) -> anyhow::Result<()> {
        let agent = self.agent()?;
        agent.reconcile()?;
        let after = state::of(self.node())?;
        ensure!(after == self.before, "{:?}", after.symmetric_difference(&self.before).collect::<Vec<_>>());
        told(agent, told_as)?;
        self.is_well()
    }

    /// Every pod reaches every pod on the fast path, and the agent has nothing to complain of.
    fn is_well(&self) -> anyhow::Result<()> {
        let before = counters::forwarded_by(self.lab.nodes())?;
        let problems = failures(&ping::ping_pairs(&self.lab.pod_pairs(), || {}));
        ensure!(problems.is_empty(), "{}", problems.join("\n"));
        let after = counters::forwarded_by(self.lab.nodes())?;
        ensure!(before == after, "the kernels forwarded: {before:?} before, {after:?} after");
        let (status, code) = self.agent()?.status()?;
        ensure!(code == Some(0) && status["warnings"] == serde_json::json!([]), "{status}");
        Ok(())
    }
}

fn plain() -> anyhow::Result<Scene> {
    Scene::set(Topology::Direct, &[])
}

/// The pin of a program's link.
fn pin(agent: &Agent, name: &str) -> anyhow::Result<String> {
    let links = pins::links(agent)?;
    let found = links.iter().find(|link| link.file_name().is_some_and(|file| file.to_string_lossy() == name));
    Ok(found.with_context(|| format!("no link {name} is pinned: {links:?}"))?.display().to_string())
}

fn detach(agent: &Agent, name: &str) -> anyhow::Result<()> {
    Run::new("bpftool").args(["link", "detach", "pinned", &pin(agent, name)?]).read().map(|_| ())
}

/// A map's pin.
fn map(agent: &Agent, name: &str) -> anyhow::Result<String> {
    let maps = pins::maps(agent)?;
    let found = maps.iter().find(|map| map.ends_with(name));
    Ok(found.with_context(|| format!("no map {name} is pinned: {maps:?}"))?.display().to_string())
}

/// Words for bpftool: the bytes of the first key in the map, from a plain listing.
fn first_key(agent: &Agent, name: &str) -> anyhow::Result<Vec<String>> {
    let text = Run::new("bpftool").args(["--json", "map", "dump", "pinned", &map(agent, name)?]).read()?;
    let entries: Value = serde_json::from_str(&text)?;
    let key = entries[0]["key"].as_array().with_context(|| format!("{name} is empty: {text}"))?;
    Ok(key.iter().filter_map(|byte| byte.as_str().map(str::to_owned)).collect())
}

#[test]
fn a_detached_program_of_a_pod_is_attached_again() -> anyhow::Result<()> {
    let scene = plain()?;
    detach(scene.agent()?, &format!("from_pod-{}", scene.device()?))?;
    scene.mended_on_request("the program from_pod is not attached")
}

#[test]
fn a_detached_program_of_netfilter_is_attached_again() -> anyhow::Result<()> {
    let scene = plain()?;
    detach(scene.agent()?, "post_routing-ipv4")?;
    scene.mended_on_request("the program post_routing")?;
    // Also by removing the pin.
    fs_err::remove_file(pin(scene.agent()?, "post_routing-ipv6")?)?;
    scene.agent()?.reconcile()?;
    scene.is_well()?;
    pin(scene.agent()?, "post_routing-ipv6").map(drop)
}

#[test]
fn a_detached_program_of_an_uplink_is_attached_again() -> anyhow::Result<()> {
    let scene = plain()?;
    detach(scene.agent()?, "from_wire-uplink")?;
    scene.mended_on_request("the program from_wire on uplink")?;
    // Also by removing the pin, which is what lets the link live.
    fs_err::remove_file(pin(scene.agent()?, "from_wire-uplink")?)?;
    // The kernel detaches it a little later.
    let gone = ("from_wire".to_owned(), "uplink".to_owned());
    wait_for(scene.agent()?, "the pin", || Ok(!state::attached(scene.node())?.contains(&gone)))?;
    scene.agent()?.reconcile()?;
    scene.is_well()?;
    let twice = repairs(scene.agent()?)?;
    let times = |word: &str| {
        twice
            .iter()
            .find(|r| r["what"].to_string().contains(word))
            .map(|r| r["times"].clone())
            .unwrap_or_default()
    };
    ensure!(times("from_wire on uplink") == 2, "{twice:?}");
    Ok(())
}

#[test]
fn removed_filters_are_added_again() -> anyhow::Result<()> {
    let scene = Scene::set(Topology::Direct, &[("attach", "clsact")])?;
    let device = scene.device()?;
    scene.node().exec(["tc", "filter", "delete", "dev", &device, "ingress"])?;
    scene.mended_on_request(&format!("the program from_pod is not attached to {device}"))?;
    scene.node().exec(["tc", "filter", "delete", "dev", "uplink", "egress"])?;
    scene.mended_on_request("the program to_wire on uplink")?;
    // The whole qdisc, with both.
    scene.node().exec(["tc", "qdisc", "delete", "dev", &device, "clsact"])?;
    scene.agent()?.reconcile()?;
    told(scene.agent()?, &format!("the program to_pod is not attached to {device}"))?;
    scene.is_well()
}

#[test]
fn a_detached_xdp_program_is_attached_again() -> anyhow::Result<()> {
    let scene = Scene::set(Topology::Direct, &[("xdp", "native")])?;
    detach(scene.agent()?, "xdp_from_wire-uplink:native")?;
    let is_there = || anyhow::Ok(scene.node().exec(["ip", "link", "show", "uplink"])?.contains("xdp"));
    ensure!(!is_there()?, "it was not detached");
    scene.mended_on_request("the XDP program on uplink")?;
    ensure!(is_there()?, "it is not attached");
    Ok(())
}

#[test]
fn a_pods_map_entry_is_entered_again() -> anyhow::Result<()> {
    let scene = plain()?;
    let pods = map(scene.agent()?, "pods4")?;
    let key = first_key(scene.agent()?, "pods4")?;
    let bpftool = |words: &[&str], key: &[String]| {
        Run::new("bpftool").args(["map", words[0], "pinned", &pods, "key"]).args(key).args(&words[1..]).read()
    };
    bpftool(&["delete"], &key)?;
    scene.mended_on_request("is missing in the pod map")?;
    let mut update = vec!["update", "value"];
    update.extend(["0"; 16]);
    bpftool(&update, &key)?;
    scene.mended_on_request("is different in the pod map")?;

    // The same pod's slot, where the programs look first.
    let slot = Ip4::from("10.244.1.2".parse::<Ipv4Addr>()?);
    let slot = pod_slot(slot).to_ne_bytes().map(|byte| byte.to_string());
    let slots = map(scene.agent()?, "pod_slots4")?;
    let mut zeros = vec!["value"];
    zeros.extend(["0"; size_of::<PodSlot<Ip4>>()]);
    Run::new("bpftool").args(["map", "update", "pinned", &slots, "key"]).args(slot).args(&zeros).read()?;
    scene.mended_on_request("a slot of pods or routes was changed")
}

#[test]
fn a_routes_map_entry_and_the_settings_are_written_again() -> anyhow::Result<()> {
    let scene = plain()?;
    let agent = scene.agent()?;
    let key = first_key(agent, "routes4")?;
    let routes = map(agent, "routes4")?;
    Run::new("bpftool").args(["map", "delete", "pinned", &routes, "key"]).args(&key).read()?;
    scene.mended_on_request("the entry for 10.244.2.0/24 in the route map was removed")?;
    let mut zeros = vec!["value"];
    zeros.extend(["0"; 32]);
    Run::new("bpftool").args(["map", "update", "pinned", &routes, "key"]).args(&key).args(&zeros).read()?;
    scene.mended_on_request("the entry for 10.244.2.0/24 in the route map was changed")?;

    let mut zeros = vec!["key", "0", "0", "0", "0", "value"];
    zeros.extend(["0"; size_of::<Settings>()]);
    Run::new("bpftool").args(["map", "update", "pinned", &map(agent, "settings")?]).args(&zeros).read()?;
    scene.mended_on_request("the map settings was changed")?;
    let node = first_key(agent, "nodes4")?;
    Run::new("bpftool")
        .args(["map", "delete", "pinned", &map(agent, "nodes4")?, "key"])
        .args(&node)
        .read()?;
    scene.mended_on_request("the entry for 192.168.1.12 in the node map was removed")
}

#[test]
fn the_kernels_routes_are_entered_again() -> anyhow::Result<()> {
    let scene = plain()?;
    let address = scene.pod().address().to_string();
    scene.broken(&["ip", "route", "delete", "10.244.2.0/24"], "the kernel's route 10.244.2.0/24")?;
    scene.broken(
        &["ip", "route", "delete", "unreachable", "10.244.1.0/24"],
        "the kernel's route unreachable",
    )?;
    scene
        .broken(&["ip", "-6", "route", "delete", "fd00:244:2::/64"], "the kernel's route fd00:244:2::/64")?;
    scene.broken(&["ip", "route", "delete", &address], &format!("the node's route to {address}/32"))
}

#[test]
fn a_pods_neighbour_entry_is_entered_again() -> anyhow::Result<()> {
    let scene = plain()?;
    let (address, device) = (scene.pod().address().to_string(), scene.device()?);
    let told_as = format!("the node's neighbour entry for {address}");
    scene.broken(&["ip", "neighbour", "delete", &address, "dev", &device], &told_as)
}

#[test]
fn the_gateways_address_is_added_again() -> anyhow::Result<()> {
    let scene = plain()?;
    // The kernel takes the pods' routes along, whose source it is.
    scene.broken(&["ip", "address", "delete", "10.244.1.1/32", "dev", "lo"], "the gateway address 10.244.1.1")
}

#[test]
fn a_pods_device_is_set_up_again() -> anyhow::Result<()> {
    let scene = plain()?;
    let device = scene.device()?;
    scene.broken(&["ip", "link", "set", &device, "down"], &format!("{device} is down"))?;
    scene.broken(&["ip", "link", "set", &device, "mtu", "1300"], &format!("{device} has MTU 1300"))?;
    scene.broken(
        &["ip", "link", "set", &device, "address", "02:00:00:00:00:09"],
        &format!("the Ethernet address of {device} was changed"),
    )
}

#[test]
fn kernel_settings_are_set_again() -> anyhow::Result<()> {
    let scene = plain()?;
    let namespace = scene.node().namespace();
    let device = scene.device()?;
    let is = |key: &str, value: &str| -> anyhow::Result<()> {
        let now = namespace.run(|| fs_err::read_to_string(format!("/proc/sys/{key}")))??;
        ensure!(now.trim() == value, "{key} is {now}");
        Ok(())
    };
    namespace.sysctl("net/ipv4/ip_forward", "0")?;
    scene.mended_on_request("the setting net.ipv4.ip_forward=1")?;
    is("net/ipv4/ip_forward", "1")?;
    namespace.sysctl("net/ipv6/conf/all/forwarding", "0")?;
    scene.mended_on_request("the setting net.ipv6.conf.all.forwarding=1")?;
    let key = format!("net/ipv6/conf/{device}/accept_ra");
    namespace.sysctl(&key, "2")?;
    scene.mended_on_request(&format!("net.ipv6.conf.{device}.accept_ra is 2 instead of 0"))?;
    is(&key, "0")
}

#[test]
fn the_overlay_device_is_made_again() -> anyhow::Result<()> {
    let scene = Scene::set(Topology::Vxlan, &[])?;
    let agent = scene.agent()?;
    scene.node().exec(["ip", "link", "delete", "podlane.vxlan"])?;
    wait_for(agent, "the overlay", || {
        Ok(scene.node().exec(["ip", "link", "show"])?.contains("podlane.vxlan")
            && !repairs(agent)?.is_empty())
    })?;
    agent.reconcile()?;
    told(agent, "the device podlane.vxlan")?;
    scene.is_well()?;
    // Of its parts.
    scene.node().exec(["ip", "rule", "delete", "from", "10.244.1.0/24"])?;
    wait_for(agent, "the rule", || Ok(scene.node().exec(["ip", "rule", "show"])?.contains("10.244.1.0/24")))?;
    agent.reconcile()?;
    told(agent, "the routing rule from 10.244.1.0/24")?;
    let neighbour = ["ip", "neighbour", "delete", "192.168.2.12", "dev", "podlane.vxlan"];
    scene.node().exec(neighbour)?;
    wait_for(agent, "the neighbour", || {
        Ok(repairs(agent)?
            .iter()
            .any(|repair| repair["what"].to_string().contains("the neighbour 192.168.2.12")))
    })?;
    scene.node().exec(["ip", "address", "delete", "10.244.1.1/32", "dev", "podlane.vxlan"])?;
    wait_for(agent, "the address", || {
        Ok(scene.node().exec(["ip", "address", "show", "dev", "podlane.vxlan"])?.contains("10.244.1.1"))
    })?;
    agent.reconcile()?;
    told(agent, "the address 10.244.1.1 on podlane.vxlan")?;
    scene.is_well()
}

#[test]
fn the_nftables_table_is_written_again() -> anyhow::Result<()> {
    let scene = plain()?;
    scene.node().exec(["nft", "delete", "table", "inet", "podlane"])?;
    scene.mended_on_request("the nftables table inet podlane")?;
    ensure!(scene.node().exec(["nft", "list", "tables"])?.contains("podlane"), "it is not there");
    Ok(())
}

#[test]
fn an_address_that_leaves_the_uplink_is_a_problem_until_it_is_back() -> anyhow::Result<()> {
    let scene = plain()?;
    let agent = scene.agent()?;
    for address in ["192.168.1.11/24", "fd00:1::11/64"] {
        scene.node().exec(["ip", "address", "delete", address, "dev", "uplink"])?;
    }
    scene.node().exec(["ip", "address", "add", "192.168.1.111/24", "dev", "uplink"])?;
    wait_for(agent, "the status", || {
        let (status, code) = agent.status()?;
        Ok(status["problems"].to_string().contains("192.168.1.11") && code == Some(1))
    })?;
    // Pods of this node reach each other all the same.
    let [a, b] = [&scene.node().pods()[0], &scene.node().pods()[1]];
    ping::ping(a.namespace(), b.address())?;
    scene.node().exec(["ip", "address", "delete", "192.168.1.111/24", "dev", "uplink"])?;
    for address in ["192.168.1.11/24", "fd00:1::11/64"] {
        scene.node().exec(["ip", "address", "add", address, "dev", "uplink", "nodad"])?;
    }
    wait_for(agent, "the node", || {
        Ok(agent.status()?.0["healthy"] == true && state::of(scene.node())? == scene.before)
    })?;
    scene.is_well()
}

#[test]
fn a_pod_whose_device_is_deleted_is_cleaned_up_and_keeps_its_address_until_its_del() -> anyhow::Result<()> {
    let lab = Lab::builder().pod_cidrs(1, ["10.244.1.0/29".parse()?]).podlane(Binaries::find()?).build()?;
    let (node, agent) = (lab.node(1), lab.node(1).agent()?);
    let before = state::of(node)?;
    let [pod] = node.ready_pods(["pod"])?;
    let device = pod.host_interface().context("no device")?.to_owned();
    node.exec(["ip", "link", "delete", &device])?;
    wait_for(agent, "the pod", || Ok(!repairs(agent)?.is_empty()))?;
    let repair = told(agent, &format!("pod default/pod: its interface ({device} on the node) was deleted"))?;
    ensure!(repair["done"].to_string().contains("kept until its DEL"), "{repair}");
    let (status, code) = agent.status()?;
    ensure!(
        code == Some(0) && status["warnings"][0].to_string().contains("default/pod has lost"),
        "{status}"
    );
    // Nothing is left but the record.
    let record = format!("{}-eth0.json", pod.container_id());
    let left: Vec<_> = state::of(node)?.difference(&before).cloned().collect();
    ensure!(left.len() == 1 && left[0].ends_with(&record), "{left:?}");
    let (code, body) = agent.get(&format!("/v1/attachments/{}/eth0/check", pod.container_id()))?;
    ensure!(code == 409 && body.contains("was deleted"), "{code} {body}");
    // Nobody else gets its address, also after a restart.
    agent.restart()?;
    let names = ["v", "w", "x", "y"];
    node.add_pods(&names)?;
    ensure!(node.pods().iter().filter(|other| other.address() == pod.address()).count() == 1);
    let sandbox = node.make_sandbox("full")?;
    ensure!(node.call("ADD", "full", &sandbox)?.make()?.failure()?.code == 101);
    node.del_pod("pod")?;
    ensure!(agent.status()?.0["warnings"] == serde_json::json!([]));
    let full = node.attach("full", sandbox)?;
    ensure!(full.address() == pod.address(), "{}", full.address());
    node.del_pods(&["v", "w", "x", "y", "full"])?;
    assert_eq!(state::of(node)?, before);
    Ok(())
}

#[test]
fn a_pod_whose_namespace_is_gone_without_a_del_is_forgotten() -> anyhow::Result<()> {
    let lab = Lab::builder().pod_cidrs(1, ["10.244.1.0/29".parse()?]).podlane(Binaries::find()?).build()?;
    let (node, agent) = (lab.node(1), lab.node(1).agent()?);
    let [stays] = node.ready_pods(["stays"])?;
    let before = state::of(node)?;
    let [pod] = node.ready_pods(["pod"])?;
    let del = node.pod_call("DEL", &pod)?;
    pod.namespace().delete()?;
    wait_for(agent, "the pod", || Ok(!repairs(agent)?.is_empty()))?;
    let repair = told(agent, "pod default/pod: its network namespace")?;
    ensure!(repair["done"].to_string().contains(&format!("{} are free", pod.address())), "{repair}");
    assert_eq!(state::of(node)?, before);
    ensure!(agent.status()?.0["warnings"] == serde_json::json!([]));
    // A DEL that comes all the same has nothing to do.
    del.with("CNI_NETNS", "").make()?.success()?;
    // Every address but the other pod's can be given.
    let others = node.add_pods(&["v", "w", "x", "y"])?;
    ensure!(others.iter().any(|other| other.address() == pod.address()), "the address leaked");
    ping::ping(stays.namespace(), others[0].address())
}

#[test]
fn a_person_sees_the_repairs() -> anyhow::Result<()> {
    let scene = plain()?;
    scene.broken(&["ip", "route", "delete", "10.244.2.0/24"], "the kernel's route 10.244.2.0/24")?;
    let text = scene.agent()?.cli(["status"])?.success()?;
    ensure!(
        text.contains("REPAIRED") && text.contains("10.244.2.0/24") && text.contains("entered again"),
        "{text}"
    );
    Ok(())
}
