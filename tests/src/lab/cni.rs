//! Calls a CNI plugin as a container runtime does: parameters in the environment, the network configuration on
//! standard input, the result or the error on standard output.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_json::Value;

use super::Namespace;
use crate::{Finished, Run};

/// A plugin and the configuration of its network on one node.
#[derive(Debug, Clone)]
pub struct Plugin {
    /// The executable.
    pub path: PathBuf,
    /// The network configuration.
    pub config: Value,
}

/// One call, to be changed at will before it is made.
#[derive(Debug, Clone)]
pub struct Call {
    /// The node's namespace, where the runtime lives.
    pub namespace: Namespace,
    /// The executable.
    pub plugin: PathBuf,
    /// `CNI_…` and nothing else but `PATH`.
    pub environment: BTreeMap<String, String>,
    /// What the plugin reads: the network configuration.
    pub stdin: String,
}

impl Call {
    /// Sets a variable.
    #[must_use]
    pub fn with(mut self, variable: &str, value: impl Into<String>) -> Self {
        self.environment.insert(variable.to_owned(), value.into());
        self
    }

    /// Leaves a variable out.
    #[must_use]
    pub fn without(mut self, variable: &str) -> Self {
        self.environment.remove(variable);
        self
    }

    /// Gives the plugin something else to read.
    #[must_use]
    pub fn with_stdin(mut self, stdin: impl Into<String>) -> Self {
        self.stdin = stdin.into();
        self
    }

    /// Makes the call; the plugin's failure is a value here, not an error.
    pub fn make(&self) -> anyhow::Result<Answer> {
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
        // `nsenter` needs a PATH; runtimes pass theirs on as well.
        let environment =
            self.environment.iter().map(|(k, v)| (k.clone(), v.clone())).chain([("PATH".to_owned(), path)]);
        let plugin: Run = self.namespace.command([&self.plugin]);
        Ok(Answer(plugin.environment(environment).stdin(self.stdin.clone()).finish()?))
    }
}

/// What a plugin answered.
#[derive(Debug, Clone)]
pub struct Answer(pub Finished);

impl Answer {
    /// Standard output of a call that succeeded.
    pub fn success(self) -> anyhow::Result<String> {
        self.0.success()
    }

    /// The result of an ADD that succeeded.
    pub fn result(self) -> anyhow::Result<Success> {
        let text = self.0.success()?;
        serde_json::from_str(&text).with_context(|| format!("the plugin's result is not one: {text}"))
    }

    /// The error of a call that failed as the specification asks: error on standard output, exit status not 0.
    pub fn failure(self) -> anyhow::Result<Failure> {
        let Finished { line, code, stdout, stderr } = self.0;
        match code {
            Some(0) => bail!("`{line}` succeeded: {stdout}"),
            None => bail!("`{line}` was killed by a signal: {stderr}"),
            Some(_) => serde_json::from_str(&stdout).with_context(|| {
                format!("`{line}` failed without a CNI error on stdout: {stdout:?}, stderr {stderr}")
            }),
        }
    }
}

/// The result of an ADD; fields that no test looks at are left out.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Success {
    /// The version the result is written in.
    pub cni_version: String,
    /// Devices that were made.
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    /// Addresses that were given.
    #[serde(default)]
    pub ips: Vec<Ip>,
}

/// A device of a result.
#[derive(Debug, Clone, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    #[serde(default)]
    pub mac: String,
    /// The namespace it is in; none for the node's.
    #[serde(default)]
    pub sandbox: Option<String>,
}

/// An address of a result.
#[derive(Debug, Clone, Deserialize)]
pub struct Ip {
    /// With the prefix length.
    pub address: IpNetwork,
    /// The next hop of the default route.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// Which of the interfaces has it.
    #[serde(default)]
    pub interface: Option<usize>,
}

/// A CNI error.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The version the error is written in.
    #[serde(default)]
    pub cni_version: Option<String>,
    /// The specification's number for it.
    pub code: u32,
    /// One line.
    pub msg: String,
    /// More.
    #[serde(default)]
    pub details: String,
}

impl Failure {
    /// Message and details, to look for words in.
    pub fn text(&self) -> String {
        format!("{} {}", self.msg, self.details)
    }
}
