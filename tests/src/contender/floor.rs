//! The least that programs at tc can do: the devices of routed veths, and programs that redirect by the last bits of the
//! destination and do nothing else. No pod network, but what each that sits at tc takes at the least.

use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Endpoint, routed};
use crate::Binaries;
use crate::lab::{Builder, Lab};

/// The processes that keep the programs attached, a node each. They end with their standard input: here, or with this
/// process.
#[derive(Debug)]
pub(super) struct Floor {
    program: PathBuf,
    arguments: [Vec<String>; 2],
    holders: Mutex<Vec<Holder>>,
}

impl Floor {
    pub(super) fn build(lab: Builder, binaries: &Binaries) -> Result<(Self, (Lab, [Endpoint; 3]))> {
        let (lab, pods) = routed::host_gw(lab)?;
        let [Some(client), Some(server), Some(far)] = pods.each_ref().map(|pod| pod.address(false)) else {
            bail!("a pod has no IPv4 address");
        };
        let node = |number| lab.node(number).namespace().name().to_owned();
        let own = |address: IpAddr, name: &str| format!("{address}={}", routed::interface(name));
        let other = |address: IpAddr| address.to_string();
        let first = vec![node(1), node(2), own(client, "client"), own(server, "server"), other(far)];
        let second = vec![node(2), node(1), own(far, "server"), other(client), other(server)];
        let floor = Self {
            program: binaries.programs_bench()?,
            arguments: [first, second],
            holders: Mutex::default(),
        };
        floor.reload()?;
        Ok((floor, (lab, pods)))
    }

    /// Loads and attaches the programs, anew where they are there already.
    pub(super) fn reload(&self) -> Result<()> {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        holders.clear();
        for arguments in &self.arguments {
            holders.push(Holder::start(&self.program, arguments)?);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Holder(Child);

impl Holder {
    fn start(program: &Path, arguments: &[String]) -> Result<Self> {
        let child = Command::new(program)
            .arg("floor")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let mut holder = Self(child);
        let mut said = String::new();
        let output = holder.0.stdout.take().context("no standard output")?;
        BufReader::new(output).read_line(&mut said)?;
        ensure!(
            said.trim() == "attached",
            "{} floor {} said {said:?}",
            program.display(),
            arguments.join(" ")
        );
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
