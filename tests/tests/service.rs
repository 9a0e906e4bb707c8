//! The agent as a service, and its installation.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use podlane_tests::lab::Namespace;
use podlane_tests::probe::{failures, ping};
use podlane_tests::{Binaries, Lab, Run};
use serde_json::Value;

const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/systemd/podlane.service");
const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/install.md");

/// A folder that goes with the test.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("podlane-{name}-{}", std::process::id()));
        fs_err::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The binaries, the agent under a wrapper: what a service manager would do before it executes the agent.
fn wrapped(folder: &Folder, before: &str) -> anyhow::Result<Binaries> {
    let real = Binaries::find()?;
    let podlane = folder.0.join("podlane");
    fs_err::write(&podlane, format!("#!/bin/sh\n{before} {} \"$@\"\n", real.podlane.display()))?;
    fs_err::set_permissions(&podlane, std::fs::Permissions::from_mode(0o755))?;
    Ok(Binaries { podlane, ..real })
}

/// `CAP_NET_ADMIN …` as the unit has it.
fn capabilities() -> anyhow::Result<Vec<String>> {
    let unit = fs_err::read_to_string(UNIT)?;
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    Ok(line.context("CapabilityBoundingSet")?.split(' ').map(|cap| cap.to_lowercase()).collect())
}

#[test]
fn the_units_capabilities_are_enough_and_documented() -> anyhow::Result<()> {
    let folder = Folder::new("caps")?;
    let capabilities = capabilities()?;
    let docs = fs_err::read_to_string(DOCS)?;
    for capability in &capabilities {
        ensure!(docs.contains(&format!("`{}`", capability.to_uppercase())), "{capability} is not documented");
    }
    let set: String = capabilities.iter().map(|cap| format!(",+{}", cap.replace("cap_", ""))).collect();
    let before = format!("exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all{set} --");
    let binaries = wrapped(&folder, &before)?;
    let lab = Lab::builder().nodes(2).ipv6(true).podlane(binaries).build()?;
    for node in lab.nodes() {
        node.add_pods(&["a", "b"])?;
        let pid = node.agent()?.pid().context("no agent")?;
        let status = fs_err::read_to_string(format!("/proc/{pid}/status"))?;
        let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("CapEff")?;
        let count = u64::from_str_radix(bits.trim(), 16)?.count_ones();
        ensure!(usize::try_from(count)? == capabilities.len(), "the agent has {bits}");
    }
    assert_eq!(failures(&ping::ping_pairs(&lab.pod_pairs(), || {})), Vec::<String>::new());
    let node = lab.node(1);
    node.agent()?.restart()?;
    for list in ["problems", "warnings"] {
        ensure!(node.agent()?.status()?.0[list] == serde_json::json!([]));
    }
    node.del_pods(&["a", "b"])
}

#[test]
fn the_service_manager_hears_ready_alive_and_stopping() -> anyhow::Result<()> {
    let folder = Folder::new("notify")?;
    let socket = folder.0.join("notify");
    let manager = UnixDatagram::bind(&socket)?;
    manager.set_read_timeout(Some(Duration::from_secs(10)))?;
    let before = format!("export NOTIFY_SOCKET={} WATCHDOG_USEC=300000\nexec", socket.display());
    let lab = Lab::builder().podlane_stopped(wrapped(&folder, &before)?).build()?;
    let agent = lab.node(1).agent()?;
    let hear = || -> anyhow::Result<String> {
        let mut buffer = [0; 512];
        let length = manager.recv(&mut buffer).context("the agent says nothing")?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    let cluster = fs_err::read_to_string(lab.cluster_file())?;
    lab.write_cluster_text("nodes: [")?;
    agent.start()?;
    // Not before it can work.
    manager.set_read_timeout(Some(Duration::from_millis(500)))?;
    ensure!(hear().is_err());
    manager.set_read_timeout(Some(Duration::from_secs(10)))?;
    lab.write_cluster_text(&cluster)?;
    let first = hear()?;
    ensure!(first.lines().any(|line| line == "READY=1"), "{first}");
    for _ in 0..3 {
        ensure!(hear()?.contains("WATCHDOG=1"));
    }
    agent.stop()?;
    loop {
        let said = hear()?;
        if said.contains("STOPPING=1") {
            return Ok(());
        }
        ensure!(said.contains("WATCHDOG=1"), "{said}");
    }
}

#[test]
fn install_cni_waits_for_the_agent_writes_both_and_takes_both_away() -> anyhow::Result<()> {
    let folder = Folder::new("install")?;
    let (bin, conf) = (folder.0.join("opt/bin"), folder.0.join("net.d"));
    let lab = Lab::builder().podlane_stopped(Binaries::find()?).build()?;
    let node = lab.node(1);
    let agent = node.agent()?;
    let install = |more: &[&str]| -> anyhow::Result<Run> {
        let run = node.command([&Binaries::find()?.podlane]).arg("install-cni");
        let run = run.arg("--bin-dir").arg(&bin).arg("--conf-dir").arg(&conf);
        Ok(run.arg("--run-dir").arg(agent.run_dir()).args(more))
    };
    let early = install(&["--wait", "1"])?.finish()?;
    ensure!(early.code == Some(1) && early.stderr.contains("nothing was installed"), "{early:?}");
    ensure!(!bin.exists() && !conf.exists());

    agent.start_and_wait()?;
    ensure!(install(&[])?.read()?.matches("wrote").count() == 2);
    let (plugin, conflist) = (bin.join("podlane-cni"), conf.join("10-podlane.conflist"));
    ensure!(fs_err::metadata(&plugin)?.permissions().mode() & 0o777 == 0o755);
    let list: Value = serde_json::from_str(&fs_err::read_to_string(&conflist)?)?;
    ensure!(list["cniVersion"] == "1.0.0" && list["plugins"][0]["type"] == "podlane-cni", "{list}");
    // What was installed works.
    let sandbox = node.make_sandbox("a")?;
    let mut call = node.call("ADD", "a", &sandbox)?;
    call.plugin = plugin.clone();
    let mut config = list["plugins"][0].clone();
    config["name"] = list["name"].clone();
    config["cniVersion"] = list["cniVersion"].clone();
    call.with_stdin(config.to_string()).make()?.result()?;

    // Again: nothing changes; an older plugin is replaced.
    ensure!(install(&[])?.read()?.matches("up to date").count() == 2);
    fs_err::write(&plugin, "old")?;
    ensure!(install(&[])?.read()?.matches("wrote").count() == 1);
    let names = |dir: &Path| -> anyhow::Result<usize> { Ok(fs_err::read_dir(dir)?.count()) };
    ensure!((names(&bin)?, names(&conf)?) == (1, 1), "nothing else is left there");

    agent.stop()?;
    for removed in [2, 0] {
        ensure!(install(&["--remove"])?.read()?.matches("removed").count() == removed);
    }
    ensure!((names(&bin)?, names(&conf)?) == (0, 0));
    // The namespace goes with the lab.
    ensure!(Namespace::exists(&sandbox.namespace));
    Ok(())
}
