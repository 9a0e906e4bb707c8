//! The unit of deploy/systemd under a real systemd.

use anyhow::{Context as _, ensure};
use podlane_tests::lab::cni::Answer;
use podlane_tests::lab::systemd::Systemd;
use podlane_tests::lab::{Node, Sandbox};
use podlane_tests::{Binaries, Lab};
use serde_json::Value;

const UNIT: &str = include_str!("../../deploy/systemd/podlane.service");
const NAME: &str = "podlane.service";
/// As the unit's, but sooner.
const WATCHDOG: &str = "[Service]\nWatchdogSec=5\n";

/// What a runtime does: with what `podlane install-cni`, of the unit as well, has put into its folders.
fn call(
    systemd: &Systemd,
    node: &Node,
    command: &str,
    (pod, sandbox): (&str, &Sandbox),
    previous: Option<&str>,
) -> anyhow::Result<Answer> {
    let list = systemd.command(["cat", "/etc/cni/net.d/10-podlane.conflist"]).read()?;
    let list: Value = serde_json::from_str(&list)?;
    let mut config = list["plugins"][0].clone();
    config["name"] = list["name"].clone();
    config["cniVersion"] = list["cniVersion"].clone();
    if let Some(previous) = previous {
        config["prevResult"] = serde_json::from_str(previous)?;
    }
    let mut environment = node.call(command, pod, sandbox)?.environment;
    environment.insert("PATH".to_owned(), "/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    let plugin = systemd.command(["/opt/cni/bin/podlane-cni"]);
    Ok(Answer(plugin.environment(environment).stdin(config.to_string()).finish()?))
}

#[test]
fn systemd_starts_restarts_watches_and_stops_the_agent_and_traffic_goes_on() -> anyhow::Result<()> {
    let binaries = Binaries::find()?;
    let lab = Lab::builder().podlane_stopped(binaries.clone()).build()?;
    let node = lab.node(1);
    let cluster = fs_err::read_to_string(lab.cluster_file())?;
    let systemd = Systemd::boot(
        node,
        &binaries,
        &[
            ("/etc/systemd/system/podlane.service", UNIT),
            ("/etc/systemd/system/podlane.service.d/lab.conf", WATCHDOG),
            ("/etc/podlane/config.yaml", &format!("nodeName: {}\n", node.name())),
            ("/etc/podlane/cluster.yaml", &cluster),
        ],
    )?;
    // Type=notify: it is ready. The unit's ExecStartPost has installed the plugin.
    systemd.wait_for(NAME, "ActiveState", "active")?;
    ensure!(systemd.property(NAME, "ExecStartPost")?.contains("status=0"));
    for (what, wanted) in [("NoNewPrivileges", "yes"), ("RestrictNamespaces", "net"), ("NRestarts", "0")] {
        assert_eq!(systemd.property(NAME, what)?, wanted, "{what}");
    }

    let sandboxes = [("a", node.make_sandbox("a")?), ("b", node.make_sandbox("b")?)];
    let pods = sandboxes.each_ref().map(|(name, sandbox)| (*name, sandbox));
    let (mut results, mut addresses) = (Vec::new(), Vec::new());
    for pod in pods {
        let answer = call(&systemd, node, "ADD", pod, None)?;
        addresses.push(answer.clone().result()?.ips.first().context("no address")?.address.ip());
        results.push(answer.success()?);
    }
    let each = |command| -> anyhow::Result<()> {
        for (pod, result) in pods.iter().zip(&results) {
            call(&systemd, node, command, *pod, Some(result))?.success()?;
        }
        Ok(())
    };
    let talk = || -> anyhow::Result<()> {
        for (from, to) in [(0, 1), (1, 0)] {
            let ping = pods[from].1.namespace.command(["ping", "-q", "-c", "3", "-i", "0.1", "-w", "10"]);
            ping.arg(addresses[to].to_string()).read()?;
        }
        Ok(())
    };
    talk()?;
    each("CHECK")?;

    let main = || systemd.property(NAME, "MainPID");
    let signal = |name: &str| {
        systemd.command(["systemctl", "kill", "--kill-whom=main", "--signal", name, NAME]).read()
    };
    let mut before = main()?;
    for (number, name) in ["KILL", "STOP"].iter().enumerate() {
        // A hung agent is the watchdog's business.
        signal(name)?;
        systemd.wait_for(NAME, "NRestarts", &(number + 1).to_string())?;
        systemd.wait_for(NAME, "ActiveState", "active")?;
        let now = main()?;
        ensure!(now != before && now != "0", "SIG{name}: process {before}, then {now}");
        before = now;
        talk()?;
        each("CHECK")?;
    }

    systemd.command(["systemctl", "stop", NAME]).read()?;
    assert_eq!(systemd.property(NAME, "ActiveState")?, "inactive", "{}", systemd.said());
    assert_eq!(systemd.property(NAME, "Result")?, "success");
    talk()?;
    systemd.command(["systemctl", "start", NAME]).read()?;
    each("CHECK")?;
    each("DEL")
}
