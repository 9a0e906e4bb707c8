//! Traffic that goes on through a service, and `ping`s.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::path::Path;
use super::steady::{Seen, Steady};
use super::tcp;
use crate::lab::Pod;
use crate::services::Service;

/// Between two connections.
const INTERVAL: Duration = Duration::from_millis(10);

impl Steady {
    /// A TCP connection to a service's cluster IP, whose backend echoes all.
    pub fn service(client: &Pod, service: &Service, backend: &Pod) -> anyhow::Result<Self> {
        let path =
            Path::by_service(client.namespace(), service.cluster_ip(), backend.namespace(), service.listen());
        let tcp::Connection { accepted, outgoing, .. } = tcp::connect(&path)?;
        Self::over_tcp(
            format!("TCP {} -> the service of {}", client.label(), backend.label()),
            outgoing,
            accepted,
        )
    }

    /// A new connection to a service every few milliseconds, each with a message and its answer.
    pub fn connections(client: &Pod, service: &Service, backend: &Pod) -> anyhow::Result<Self> {
        let label = format!("connections {} -> the service of {}", client.label(), backend.label());
        let (from, to) = (client.namespace().clone(), backend.namespace().clone());
        let (known_as, listen) = (service.cluster_ip(), service.listen());
        let listener = to.run(|| tcp::listen_at(listen))??;
        Self::start(label, move |stop| {
            let mut seen = Seen::default();
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                let path = Path::by_service(&from, known_as, &to, listen);
                let tcp::Connection { mut accepted, mut outgoing, .. } = tcp::connect_to(&path, &listener)?;
                outgoing.write_all(b"question").context("asking")?;
                let mut heard = [0; 8];
                accepted.read_exact(&mut heard).context("hearing the question")?;
                accepted.write_all(b"response").context("answering")?;
                outgoing.read_exact(&mut heard).context("hearing the answer")?;
                seen.sent += 1;
                seen.slowest = seen.slowest.max(start.elapsed());
                std::thread::sleep(INTERVAL);
            }
            Ok(seen)
        })
    }

    /// `ping -i 0.001`, the one that everybody has.
    pub fn ping(client: &Pod, server: &Pod) -> anyhow::Result<Self> {
        let target = server.address().to_string();
        let child = Command::new("nsenter")
            .arg(format!("--net={}", client.namespace().path().display()))
            .args(["--", "ping", "-n", "-q", "-i", "0.001", &target])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting ping")?;
        Self::start(format!("ping {} -> {}", client.label(), server.label()), move |stop| {
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(10));
            }
            // It ends with a summary.
            kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGINT)?;
            let output = child.wait_with_output()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let numbers: Vec<usize> = text
                .lines()
                .find(|line| line.contains("packets transmitted"))
                .into_iter()
                .flat_map(|line| line.split(' '))
                .filter_map(|word| word.parse().ok())
                .collect();
            let [sent, received, ..] = numbers[..] else { anyhow::bail!("ping printed no summary: {text}") };
            // The last one may be on its way.
            ensure!(!text.contains("errors"), "{text}");
            Ok(Seen { sent, lost: sent.saturating_sub(received + 1), slowest: Duration::ZERO })
        })
    }
}
