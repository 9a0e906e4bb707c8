//! An IPAM plugin that the configuration names under `ipam.type`: run as the specification asks, from `CNI_PATH`, with the
//! same environment and the same configuration.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ipnetwork::IpNetwork;
use serde_json::Value;

use super::error::{Error, code};

/// What is passed on besides the command.
const VARIABLES: [&str; 5] = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"];

/// A plugin, found and ready to be called.
#[derive(Debug)]
pub(super) struct Delegate {
    kind: String,
    path: PathBuf,
    environment: Vec<(&'static str, String)>,
    stdin: String,
}

/// What an IPAM plugin gave.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) dns: Option<Value>,
}

impl Delegate {
    /// Looks for the plugin in `CNI_PATH`.
    pub(super) fn find(
        kind: &str,
        variable: &dyn Fn(&str) -> Option<String>,
        stdin: &str,
    ) -> Result<Self, Error> {
        let folders = variable("CNI_PATH").unwrap_or_default();
        // A type with a slash would name a program outside of CNI_PATH.
        let plain = !kind.contains('/') && kind != "." && kind != "..";
        let path = folders
            .split(':')
            .filter(|folder| plain && !folder.is_empty())
            .map(|folder| Path::new(folder).join(kind))
            .find(|path| path.is_file());
        let Some(path) = path else {
            let msg = format!("IPAM plugin {kind:?} is not in CNI_PATH {folders:?}: install it there");
            return Err(Error::new(code::INVALID_CONFIG, msg));
        };
        let environment = VARIABLES.iter().filter_map(|name| Some((*name, variable(name)?))).collect();
        Ok(Self { kind: kind.to_owned(), path, environment, stdin: stdin.to_owned() })
    }

    /// Its name.
    pub(super) fn kind(&self) -> &str {
        &self.kind
    }

    /// Reserves addresses.
    pub(super) fn add(&self) -> Result<Given, Error> {
        let answer = self.call("ADD")?;
        let odd = |fault: String| {
            Error::new(code::DECODE, format!("the result of IPAM plugin {} is odd", self.kind)).details(fault)
        };
        let result: Value = serde_json::from_str(&answer).map_err(|error| odd(error.to_string()))?;
        let ips = result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
        let addresses = ips
            .iter()
            .map(|ip| {
                let text = ip["address"].as_str().unwrap_or_default();
                text.parse().map(|network: IpNetwork| network.ip()).map_err(|_| odd(format!("address {ip}")))
            })
            .collect::<Result<_, _>>()?;
        let dns = result.get("dns").filter(|dns| dns.as_object().is_some_and(|dns| !dns.is_empty())).cloned();
        Ok(Given { addresses, dns })
    }

    /// Passes a command on; what it prints does not matter.
    pub(super) fn pass(&self, command: &str) -> Result<(), Error> {
        self.call(command).map(drop)
    }

    fn call(&self, command: &str) -> Result<String, Error> {
        let failed = |details: String| {
            Error::new(code::IO, format!("running IPAM plugin {} failed", self.path.display()))
                .details(details)
        };
        let mut child = Command::new(&self.path)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("CNI_COMMAND", command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // The runtime's log has it all.
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        if let Some(mut stdin) = child.stdin.take() {
            // It may have refused before it read anything: then its answer says why.
            let _ = stdin.write_all(self.stdin.as_bytes());
        }
        let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(stdout);
        }
        let Ok(error) = serde_json::from_str::<Error>(&stdout) else {
            return Err(failed(format!("{}: {}", output.status, stdout.trim())));
        };
        Err(Error { msg: format!("IPAM plugin {}: {}", self.kind, error.msg), ..error })
    }
}
