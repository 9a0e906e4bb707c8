//! A network configuration list, run as container runtimes run it: plugin by plugin, each with the result of the one
//! before, DEL in reverse.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use super::cni::{Answer, Call};
use super::{Node, Sandbox};

/// Where Debian's containernetworking-plugins are.
pub const DEBIAN_PLUGINS: &str = "/usr/lib/cni";

/// A list of plugins and what the runtime wants of them.
#[derive(Debug)]
pub struct Chain<'a> {
    node: &'a Node,
    version: String,
    plugins: Vec<Value>,
    /// Values by capability; each plugin gets those that it declares.
    pub capabilities: Map<String, Value>,
    /// What ADD returned.
    result: Mutex<Option<Value>>,
}

impl<'a> Chain<'a> {
    /// Podlane first, then others.
    pub fn new(node: &'a Node, version: &str, more: impl IntoIterator<Item = Value>) -> anyhow::Result<Self> {
        let mut first = node.plugin()?.config.clone();
        first["capabilities"] = json!({ "ips": true, "mac": true, "dns": true, "ipRanges": true });
        let plugins = std::iter::once(first).chain(more).collect();
        let version = version.to_owned();
        Ok(Self { node, version, plugins, capabilities: Map::new(), result: Mutex::default() })
    }

    /// Podlane's own entry, to be changed.
    pub fn podlane(&mut self) -> &mut Value {
        &mut self.plugins[0]
    }

    /// The last result of ADD.
    pub fn result(&self) -> Value {
        self.result.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
    }

    /// One plugin's call, as a runtime derives it from the list.
    pub fn call(&self, index: usize, command: &str, sandbox: &Sandbox) -> anyhow::Result<Call> {
        let mut config = self.plugins[index].clone();
        let kind = config["type"].as_str().context("a plugin without type")?.to_owned();
        config["cniVersion"] = self.version.as_str().into();
        config["name"] = "podlane".into();
        let declared = config["capabilities"].take();
        let runtime_config: Map<String, Value> = self
            .capabilities
            .iter()
            .filter(|(key, _)| declared[key.as_str()] == json!(true))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if !runtime_config.is_empty() {
            config["runtimeConfig"] = runtime_config.into();
        }
        let own = self.node.plugin()?.path.clone();
        let own_dir = own.parent().map(PathBuf::from).unwrap_or_default();
        let mut call = self.node.call(command, "chained", sandbox)?;
        if kind != "podlane-cni" {
            call.plugin = PathBuf::from(DEBIAN_PLUGINS).join(kind);
        }
        Ok(call
            .with("CNI_PATH", format!("{}:{DEBIAN_PLUGINS}", own_dir.display()))
            .with_stdin(config.to_string()))
    }

    /// ADD of all plugins, up to the first that fails.
    pub fn add(&self, sandbox: &Sandbox) -> anyhow::Result<Answer> {
        let mut previous: Option<Value> = None;
        let mut index = 0;
        loop {
            let answer = with_previous(self.call(index, "ADD", sandbox)?, previous.as_ref())?.make()?;
            if answer.0.code != Some(0) {
                return Ok(answer);
            }
            previous = Some(serde_json::from_str(&answer.0.stdout)?);
            index += 1;
            if index == self.plugins.len() {
                *self.result.lock().unwrap_or_else(PoisonError::into_inner) = previous;
                return Ok(answer);
            }
        }
    }

    /// CHECK of all plugins, or DEL in reverse, with what ADD returned.
    pub fn run(&self, command: &str, sandbox: &Sandbox) -> anyhow::Result<()> {
        let mut order: Vec<usize> = (0..self.plugins.len()).collect();
        if command == "DEL" {
            order.reverse();
        }
        self.run_at(&order, command, sandbox)
    }

    /// The same for some of the plugins, in this order.
    pub fn run_at(&self, order: &[usize], command: &str, sandbox: &Sandbox) -> anyhow::Result<()> {
        let previous = Some(self.result()).filter(|result| !result.is_null());
        for &index in order {
            let call = with_previous(self.call(index, command, sandbox)?, previous.as_ref())?;
            call.make()?.success()?;
        }
        Ok(())
    }
}

fn with_previous(call: Call, previous: Option<&Value>) -> anyhow::Result<Call> {
    let Some(previous) = previous else { return Ok(call) };
    let mut config: Value = serde_json::from_str(&call.stdin)?;
    config["prevResult"] = previous.clone();
    Ok(call.with_stdin(config.to_string()))
}
