//! `podlane bench` between pods.

use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use podlane_tests::lab::Pod;
use podlane_tests::{Binaries, Finished, Lab};
use serde_json::Value;

const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/bench.md");
const METRICS: [&str; 12] = [
    "tcp-rtt-p50",
    "tcp-rtt-p99",
    "udp-rtt-p50",
    "udp-rtt-p99",
    "udp-rtt-lost",
    "tcp-connections",
    "udp-64-pps",
    "udp-64-lost",
    "udp-1400-pps",
    "udp-1400-lost",
    "tcp-1-throughput",
    "tcp-8-throughput",
];

/// `podlane bench server` in a pod, until it is dropped.
struct Server(Child);

impl Server {
    fn start(pod: &Pod) -> anyhow::Result<Self> {
        let child = Command::new("nsenter")
            .arg(format!("--net={}", pod.namespace().path().display()))
            .arg("--")
            .arg(Binaries::find()?.podlane)
            .args(["bench", "server"])
            .stdout(Stdio::null())
            .spawn()?;
        let server = Self(child);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !pod.exec(["ss", "-Hltn", "sport = :5301"])?.contains("5301") {
            ensure!(Instant::now() < deadline, "the server does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn client(pod: &Pod, server: IpAddr, more: &[&str]) -> anyhow::Result<Finished> {
    let podlane = Binaries::find()?.podlane;
    let run = pod.command([podlane.as_os_str()]).args(["bench", "client", &server.to_string()]);
    run.args(["--seconds", "1"]).args(more).timeout(Duration::from_secs(120)).finish()
}

fn row<'a>(report: &'a Value, metric: &str) -> anyhow::Result<&'a Value> {
    let mut rows = report["rows"].as_array().into_iter().flatten();
    rows.find(|row| row["metric"] == metric).with_context(|| format!("no {metric} in {report}"))
}

fn check(report: &Value, by: &str) -> anyhow::Result<()> {
    let value = |metric: &str| row(report, metric)?["value"].as_f64().context(metric.to_owned());
    let rows = report["rows"].as_array().context("rows")?;
    assert_eq!(rows.iter().filter_map(|row| row["metric"].as_str()).collect::<Vec<_>>(), METRICS);
    for metric in METRICS.iter().filter(|metric| !metric.ends_with("-lost")) {
        ensure!(value(metric)? > 0.0, "{report}");
    }
    for protocol in ["tcp", "udp"] {
        ensure!(value(&format!("{protocol}-rtt-p50"))? <= value(&format!("{protocol}-rtt-p99"))?, "{report}");
    }
    for lost in ["udp-64-lost", "udp-1400-lost"] {
        ensure!((0.0..100.0).contains(&value(lost)?), "{report}");
    }
    ensure!(
        row(report, "tcp-8-throughput")?["tool"] == by && row(report, "udp-64-pps")?["tool"] == "podlane"
    );
    Ok(())
}

#[test]
fn pods_measure_each_other_in_both_families_with_and_without_iperf3() -> anyhow::Result<()> {
    let lab = Lab::builder().nodes(2).ipv6(true).podlane(Binaries::find()?).build()?;
    let [server] = lab.node(2).ready_pods(["server"])?;
    let [pod] = lab.node(1).ready_pods(["client"])?;
    let before = counted(&lab)?;
    let _server = Server::start(&server)?;
    for address in server.addresses() {
        let report = client(&pod, address, &["-o", "json", "--no-iperf3"])?.success()?;
        let report: Value = serde_json::from_str(&report)?;
        check(&report, "podlane")?;
        ensure!(report["server"] == address.to_string() && report["seconds"] == 1, "{report}");
    }
    // It was this network that was measured: more packets than round trips and counted datagrams came by.
    ensure!(counted(&lab)? > before + 1000);
    let report = client(&pod, server.address(), &["-o", "json"])?.success()?;
    check(&serde_json::from_str(&report)?, "iperf3")?;

    let table = client(&pod, server.address(), &["--no-iperf3"])?.success()?;
    let docs = fs_err::read_to_string(DOCS)?;
    for metric in METRICS {
        ensure!(table.lines().any(|line| line.trim_start().starts_with(metric)), "{table}");
        ensure!(docs.contains(&format!("`{metric}`")), "{metric} is not documented");
    }
    Ok(())
}

/// Packets that the client's node has sent to its peer by the fast path.
fn counted(lab: &Lab) -> anyhow::Result<u64> {
    let (status, _) = lab.node(1).agent()?.status()?;
    let counters = status["counters"].as_array().context("counters")?;
    let forwarded = counters.iter().filter(|counter| counter["verdict"] == "to-peer");
    Ok(forwarded.filter_map(|counter| counter["packets"].as_u64()).sum())
}

#[test]
fn a_client_without_a_server_says_so() -> anyhow::Result<()> {
    let lab = Lab::builder().podlane(Binaries::find()?).build()?;
    let [one, two] = lab.node(1).ready_pods(["a", "b"])?;
    let done = client(&one, two.address(), &[])?;
    ensure!(
        done.code == Some(1) && done.stderr.contains("does `podlane bench server` run there?"),
        "{done:?}"
    );
    // Somebody else's server.
    let other = two.namespace().run(|| std::net::TcpListener::bind("0.0.0.0:5301"))??;
    let answering = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = other.accept()?;
        std::io::Write::write_all(&mut stream, b"220 mail\r\n")
    });
    let done = client(&one, two.address(), &[])?;
    let _ = answering.join();
    ensure!(done.code == Some(1) && done.stderr.contains("is no answer of a bench server"), "{done:?}");
    Ok(())
}
