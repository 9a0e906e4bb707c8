//! The least that programs at tc can do: the devices of routed veths, and programs that redirect by the last bits of the
//! destination and do nothing else. No pod network, but what each that sits at tc takes at the least.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};

use super::{Endpoint, routed};
use crate::Binaries;
use crate::lab::{Builder, Lab};

/// The processes that keep the programs attached, a node each. They end with their standard input: here, or with this
/// process.
#[derive(Debug)]
pub(super) struct Floor {
    commands: Vec<Vec<String>>,
    holders: Mutex<Vec<Holder>>,
}

impl Floor {
    pub(super) fn build(lab: Builder, binaries: &Binaries) -> Result<(Self, (Lab, [Endpoint; 3]))> {
        let (lab, pods) = routed::host_gw(lab)?;
        let ipv4 = |pod: &Endpoint| pod.address(false).map(|address| address.to_string());
        let addresses: Option<Vec<String>> = pods.iter().map(ipv4).collect();
        let addresses = addresses.context("a pod has no IPv4 address")?;
        let [client, server, far] = &addresses[..] else { unreachable!("three pods") };
        let program = binaries.programs_bench()?.display().to_string();
        let [first, second] = [1, 2].map(|number| lab.node(number).namespace().name().to_owned());
        let own = |address: &String, name: &str| format!("{address}={}", routed::interface(name));
        let command = |node: &String, peer: &String, pods: Vec<String>| {
            let words = [program.clone(), "floor".to_owned(), node.clone(), peer.clone()];
            words.into_iter().chain(pods).collect()
        };
        let commands = vec![
            command(&first, &second, vec![own(client, "client"), own(server, "server"), far.clone()]),
            command(&second, &first, vec![own(far, "server"), client.clone(), server.clone()]),
        ];
        let floor = Self { commands, holders: Mutex::default() };
        floor.reload()?;
        Ok((floor, (lab, pods)))
    }

    /// Loads and attaches the programs, anew where they are there already.
    pub(super) fn reload(&self) -> Result<()> {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        holders.clear();
        for words in &self.commands {
            holders.push(Holder::start(words)?);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Holder(Child);

impl Holder {
    fn start(words: &[String]) -> Result<Self> {
        let [program, arguments @ ..] = words else { unreachable!("a command has a program") };
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        let mut holder = Self(child);
        let mut said = String::new();
        let output = holder.0.stdout.take().context("no standard output")?;
        BufReader::new(output).read_line(&mut said)?;
        ensure!(said.trim() == "attached", "`{}` said {said:?}", words.join(" "));
        Ok(holder)
    }
}

impl Drop for Holder {
    /// Waits, so that the programs are gone.
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        if let Err(error) = self.0.wait() {
            eprintln!("waiting for a process of the floor's: {error}");
        }
    }
}
