//! The plugin: one command from the environment and stdin, one answer for stdout. All work is the agent's; a
//! runtime starts this for every pod, so it does as little as possible itself.

use std::collections::BTreeSet;
use std::io::Read;

use serde_json::{Value, json};

use super::config::Config;
use super::environment::Command;
use super::error::{Error, code};
use super::result;
use super::version::Version;
use crate::api::client::Client;

/// What to print and whether it went well.
#[derive(Debug)]
pub struct Outcome {
    /// For stdout; may be empty.
    pub stdout: String,
    /// The error, which is on stdout too.
    pub error: Option<Error>,
}

/// Runs one command.
pub fn run(variable: impl Fn(&str) -> Option<String>, mut stdin: impl Read) -> Outcome {
    let mut text = String::new();
    let outcome = Command::parse(variable).and_then(|command| {
        stdin.read_to_string(&mut text).map_err(|error| {
            Error::new(code::IO, "reading the network configuration from stdin failed")
                .details(error.to_string())
        })?;
        execute(&command, &text)
    });
    match outcome {
        Ok(None) => Outcome { stdout: String::new(), error: None },
        Ok(Some(value)) => Outcome { stdout: value.to_string(), error: None },
        Err(error) => {
            let version = Config::version_of(&text).unwrap_or(Version::FALLBACK);
            let mut body = json!({ "cniVersion": version.as_str(), "code": error.code, "msg": error.msg });
            if !error.details.is_empty() {
                body["details"] = error.details.clone().into();
            }
            Outcome { stdout: body.to_string(), error: Some(error) }
        }
    }
}

fn execute(command: &Command, text: &str) -> Result<Option<Value>, Error> {
    if *command == Command::Version {
        // Answers whatever the runtime speaks, without an agent.
        let version = Config::version_of(text).unwrap_or(Version::FALLBACK);
        let supported: Vec<_> = Version::ALL.iter().map(|version| version.as_str()).collect();
        return Ok(Some(json!({ "cniVersion": version.as_str(), "supportedVersions": supported })));
    }
    let config = Config::parse(text)?;
    command.ensure_in(config.version)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        Error::new(code::IO, "starting the plugin's runtime failed").details(error.to_string())
    })?;
    runtime.block_on(ask_agent(command, &config))
}

async fn ask_agent(command: &Command, config: &Config) -> Result<Option<Value>, Error> {
    let agent = Client::new(&config.socket);
    match command {
        Command::Add(request) => {
            if config.previous.is_some() {
                let msg =
                    "prevResult is given: podlane-cni makes the pod's interface and must be the first plugin";
                return Err(Error::new(code::INVALID_CONFIG, msg));
            }
            let record = agent.attach(request).await?;
            return Ok(Some(result::add(&record, config.version, config.dns.as_ref())));
        }
        Command::Del(key) => agent.detach(key).await?,
        Command::Check { key, netns } => {
            let previous = config.previous_addresses()?;
            let record = agent.check(key).await?;
            let missing: Vec<_> = record
                .addresses
                .iter()
                .filter(|address| !previous.contains(address))
                .map(ToString::to_string)
                .collect();
            if !missing.is_empty() {
                let msg = format!("prevResult does not have the pod's address {}", missing.join(", "));
                return Err(Error::new(code::DAMAGED, msg));
            }
            if record.netns != *netns {
                let msg = format!("CNI_NETNS is {netns}, but the pod was attached in {}", record.netns);
                return Err(Error::new(code::DAMAGED, msg));
            }
        }
        Command::Status => status(&agent).await?,
        Command::Gc => collect_garbage(&agent, config).await?,
        Command::Version => {}
    }
    Ok(None)
}

async fn status(agent: &Client) -> Result<(), Error> {
    let unavailable =
        |details| Error::new(code::NOT_AVAILABLE, "podlane cannot attach pods now").details(details);
    match agent.problems().await {
        Ok(problems) if problems.is_empty() => Ok(()),
        Ok(problems) => Err(unavailable(problems.join("; "))),
        Err(error) => Err(unavailable(error.to_string())),
    }
}

/// Removes every attachment that the runtime does not know any more; tries all, reports all failures.
async fn collect_garbage(agent: &Client, config: &Config) -> Result<(), Error> {
    // Taking a missing list for an empty one would cut off every pod of the node.
    let Some(valid) = &config.valid_attachments else {
        return Err(Error::new(code::INVALID_CONFIG, "GC needs cni.dev/valid-attachments"));
    };
    let valid: BTreeSet<_> = valid.iter().collect();
    let mut failures = Vec::new();
    for key in agent.list().await?.iter().map(crate::pods::Record::key).filter(|key| !valid.contains(key)) {
        if let Err(error) = agent.detach(&key).await {
            failures.push(error.to_string());
        }
    }
    if failures.is_empty() {
        return Ok(());
    }
    Err(Error::new(code::DETACH_FAILED, "removing stale attachments is incomplete")
        .details(failures.join("; ")))
}
