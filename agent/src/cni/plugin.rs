//! The plugin: one command from the environment and stdin, one answer for stdout. All work is the agent's; a
//! runtime starts this for every pod, so it does as little as possible itself.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::config::Config;
use super::delegate::Delegate;
use super::environment::Command;
use super::error::{Error, code};
use super::result;
use super::version::Version;
use crate::api::client::{Client, Health};
use crate::pods::{AttachRequest, Key, PendingDeletes, Record};

/// How often, and how far apart, a DEL is offered to an agent that is starting.
const START_ATTEMPTS: u32 = 20;
const START_INTERVAL: Duration = Duration::from_millis(100);

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
    let outcome = Command::parse(&variable).and_then(|command| {
        stdin.read_to_string(&mut text).map_err(|error| {
            Error::new(code::IO, "reading the network configuration from stdin failed")
                .details(error.to_string())
        })?;
        execute(&command, &text, &variable)
    });
    match outcome {
        Ok(None) => Outcome { stdout: String::new(), error: None },
        Ok(Some(value)) => Outcome { stdout: value.to_string(), error: None },
        Err(mut error) => {
            // The difference is the plugin's own business.
            if error.code == code::AGENT_ABSENT {
                error.code = code::TRY_AGAIN_LATER;
            }
            Outcome {
                stdout: result::failure(&error, Config::version_or_fallback(&text)).to_string(),
                error: Some(error),
            }
        }
    }
}

fn execute(
    command: &Command,
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<Value>, Error> {
    if *command == Command::Version {
        // Answers whatever the runtime speaks, without an agent.
        let version = Config::version_or_fallback(text);
        let supported: Vec<_> = Version::ALL.iter().map(|version| version.as_str()).collect();
        return Ok(Some(json!({ "cniVersion": version.as_str(), "supportedVersions": supported })));
    }
    let config = Config::parse(text)?;
    command.ensure_in(config.version)?;
    let ipam = config.ipam.as_ref().map(|kind| Delegate::find(kind, variable, text)).transpose()?;
    ask_agent(command, &config, ipam.as_ref())
}

fn ask_agent(command: &Command, config: &Config, ipam: Option<&Delegate>) -> Result<Option<Value>, Error> {
    let agent = Client::new(&config.socket);
    match command {
        Command::Add(add) => {
            config.ensure_first()?;
            let request = config.request(add);
            let (record, dns) = match ipam {
                None => (agent.attach(&request)?, None),
                Some(ipam) => attach(&agent, request, ipam)?,
            };
            return Ok(Some(result::add(&record, config.version, config.dns().or(dns.as_ref()))));
        }
        Command::Del(key) => {
            detach(&agent, &config.socket, key)?;
            // Afterwards: an address that another pod could get must not be the old one's any more.
            pass(ipam, "DEL")?;
        }
        Command::Check { key, netns } => {
            let previous = config.previous_addresses()?;
            let record = agent.check(key)?;
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
            pass(ipam, "CHECK")?;
        }
        Command::Status => {
            status(&agent)?;
            pass(ipam, "STATUS")?;
        }
        Command::Gc => {
            collect_garbage(&agent, config)?;
            pass(ipam, "GC")?;
        }
        Command::Version => {}
    }
    Ok(None)
}

fn pass(ipam: Option<&Delegate>, command: &str) -> Result<(), Error> {
    ipam.map_or(Ok(()), |ipam| ipam.pass(command))
}

/// ADD, with addresses from the IPAM plugin. Also returns the DNS settings that it gave.
fn attach(
    agent: &Client,
    mut request: AttachRequest,
    ipam: &Delegate,
) -> Result<(Record, Option<Value>), Error> {
    // An attachment that is there already has its addresses: the agent decides, and the plugin is not asked again.
    match agent.check(&request.key()) {
        Err(Error { code: code::UNKNOWN_CONTAINER, .. }) => {}
        Ok(_) | Err(Error { code: code::DAMAGED, .. }) => return Ok((agent.attach(&request)?, None)),
        Err(error) => return Err(error),
    }
    let given = ipam.add()?;
    request.wanted.ipam = Some(ipam.kind().to_owned());
    request.wanted.addresses = given.addresses;
    match agent.attach(&request) {
        Ok(record) => Ok((record, given.dns)),
        Err(error) => Err(match ipam.pass("DEL") {
            Ok(()) => error,
            Err(release) => {
                let details =
                    format!("{}; and giving its addresses back failed too: {release}", error.details);
                error.details(details)
            }
        }),
    }
}

fn status(agent: &Client) -> Result<(), Error> {
    let unavailable =
        |details| Error::new(code::NOT_AVAILABLE, "podlane cannot attach pods now").details(details);
    match agent.health() {
        Ok(Health { problems, .. }) if problems.is_empty() => Ok(()),
        Ok(Health { problems, ready: false }) => Err(unavailable(problems.join("; "))),
        Ok(Health { problems, ready: true }) => {
            Err(Error::new(code::LIMITED_CONNECTIVITY, "podlane works, but not as it should")
                .details(problems.join("; ")))
        }
        // The programs and the kernel's routes forward without an agent: what is there stays connected.
        Err(error) => Err(unavailable(error.to_string())),
    }
}

/// DEL. Where no agent answers it is left to the next one, and has succeeded: the runtime may forget the pod.
fn detach(agent: &Client, socket: &Path, key: &Key) -> Result<(), Error> {
    let absent = match detach_patiently(agent, key) {
        Err(Error { code: code::AGENT_ABSENT, msg, details }) => {
            Error { code: code::TRY_AGAIN_LATER, msg, details }
        }
        other => return other,
    };
    let pending = PendingDeletes::of(socket.parent().unwrap_or(Path::new("/")));
    if let Err(error) = pending.remember(key) {
        let details =
            format!("{}; and the DEL could not be left to the next agent: {error:#}", absent.details);
        return Err(absent.details(details));
    }
    // An agent that started meanwhile may have looked before the file was there.
    match agent.detach(key) {
        Ok(()) => pending.forget(key).map_err(|error| {
            Error::new(code::DETACH_FAILED, "the pod is detached, but a remembered DEL of it is left")
                .details(format!("{error:#}"))
        }),
        // Still none, or it has yet to look.
        Err(Error { code: code::AGENT_ABSENT | code::TRY_AGAIN_LATER, .. }) => Ok(()),
        // It stays remembered as well; the runtime will repeat it anyway.
        Err(error) => Err(error),
    }
}

/// An agent that is starting needs a moment: runtimes repeat a DEL much later.
fn detach_patiently(agent: &Client, key: &Key) -> Result<(), Error> {
    for _ in 0..START_ATTEMPTS {
        match agent.detach(key) {
            Err(Error { code: code::TRY_AGAIN_LATER, .. }) => std::thread::sleep(START_INTERVAL),
            other => return other,
        }
    }
    agent.detach(key)
}

/// Removes every attachment that the runtime does not know any more; tries all, reports all failures.
fn collect_garbage(agent: &Client, config: &Config) -> Result<(), Error> {
    // Taking a missing list for an empty one would cut off every pod of the node.
    let Some(valid) = &config.valid_attachments else {
        return Err(Error::new(code::INVALID_CONFIG, "GC needs cni.dev/valid-attachments"));
    };
    let valid: BTreeSet<_> = valid.iter().collect();
    let mut failures = Vec::new();
    for key in agent.list()?.iter().map(Record::key).filter(|key| !valid.contains(key)) {
        if let Err(error) = agent.detach(&key) {
            failures.push(error.to_string());
        }
    }
    if failures.is_empty() {
        return Ok(());
    }
    Err(Error::new(code::DETACH_FAILED, "removing stale attachments is incomplete")
        .details(failures.join("; ")))
}
