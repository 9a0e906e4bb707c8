//! ADD and DEL as the plugin hands them to the agent before it has looked at them (`podlane-cni-start`): the agent knows
//! how to read them as well, and is running already.

use std::str;

use serde_json::Value;

use super::config::Config;
use super::environment::Command;
use super::error::{Error, code};
use super::result;
use super::version::Version;
use crate::pods::{AttachRequest, Key, Record};

/// A runtime's request.
#[derive(Debug)]
pub struct Direct {
    /// What to do.
    pub work: Work,
    version: Version,
    dns: Option<Value>,
}

/// What to do.
#[derive(Debug)]
pub enum Work {
    /// ADD, with the agent's own addresses.
    Attach(Box<AttachRequest>),
    /// DEL.
    Detach(Key),
}

/// What the plugin is to do with the agent's answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Print this and succeed.
    Done(String),
    /// Print this and fail.
    Refused(String),
    /// See for itself: it knows how to be patient, and other plugins.
    Yourself,
}

impl Direct {
    /// Reads the body of a request: `NAME=value` with a zero byte behind each, one more zero byte, and the network
    /// configuration.
    ///
    /// # Errors
    /// The answer where the agent cannot do it.
    pub fn parse(body: &[u8]) -> Result<Self, Answer> {
        let Some((environment, config)) = split(body) else { return Err(Answer::Yourself) };
        let variable = |name: &str| {
            let value = |variable: &&str| variable.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
            environment.split('\0').find_map(|variable| value(&variable))
        };
        let read = || {
            let command = Command::parse(variable)?;
            let parsed = Config::parse(config)?;
            let work = match command {
                _ if parsed.ipam.is_some() => return Ok(None),
                Command::Add(add) => {
                    parsed.ensure_first()?;
                    Work::Attach(Box::new(parsed.request(&add)))
                }
                Command::Del(key) => Work::Detach(key),
                _ => return Ok(None),
            };
            let dns = parsed.dns().cloned();
            Ok(Some(Self { work, version: parsed.version, dns }))
        };
        match read() {
            Ok(Some(direct)) => Ok(direct),
            Ok(None) => Err(Answer::Yourself),
            Err(error) => Err(refused(&error, Config::version_or_fallback(config))),
        }
    }

    /// What came of it: of an ADD the attachment.
    pub fn answer(&self, result: Result<Option<&Record>, Error>) -> Answer {
        match result {
            Ok(Some(record)) => {
                Answer::Done(result::add(record, self.version, self.dns.as_ref()).to_string())
            }
            Ok(None) => Answer::Done(String::new()),
            Err(error) => refused(&error, self.version),
        }
    }
}

/// The environment and the network configuration.
fn split(body: &[u8]) -> Option<(&str, &str)> {
    str::from_utf8(body).ok()?.split_once("\0\0")
}

fn refused(error: &Error, version: Version) -> Answer {
    match error.code {
        // DEL has its own way with an agent that is starting.
        code::TRY_AGAIN_LATER => Answer::Yourself,
        _ => Answer::Refused(result::failure(error, version).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"cniVersion":"1.0.0","name":"podlane","dns":{"nameservers":["10.96.0.10"]}}"#;
    const ADD: &str = "CNI_COMMAND=ADD\0CNI_CONTAINERID=a1\0CNI_NETNS=/run/netns/x\0CNI_IFNAME=eth0\0";

    fn parse(environment: &str, config: &str) -> Result<Direct, Answer> {
        Direct::parse(format!("{environment}\0{config}").as_bytes())
    }

    #[test]
    fn an_add_is_what_the_plugin_would_ask_for() {
        let arguments = "CNI_ARGS=K8S_POD_NAME=cart;MAC=02:00:00:00:00:07\0";
        let direct = parse(&format!("{ADD}{arguments}"), CONFIG).unwrap();
        let Work::Attach(request) = &direct.work else { panic!("{direct:?}") };
        assert_eq!((request.pod.as_deref(), request.netns.as_str()), (Some("cart"), "/run/netns/x"));
        assert_eq!(request.mac.unwrap().0, [2, 0, 0, 0, 0, 7]);
        let record: Record = serde_json::from_value(serde_json::json!({
            "version": 1, "state": "ready", "containerID": "a1", "netns": "/run/netns/x", "ifName": "eth0",
            "hostInterface": "pl0", "hostIfIndex": 7, "mac": "02:00:00:00:00:07", "hostMAC": "02:00:00:00:00:02",
            "addresses": ["10.244.1.2"], "gateways": ["10.244.1.1"], "mtu": 1450,
        }))
        .unwrap();
        let Answer::Done(result) = direct.answer(Ok(Some(&record))) else { panic!("it is refused") };
        assert!(result.contains(r#""address":"10.244.1.2/32""#) && result.contains("10.96.0.10"), "{result}");
        let refusal = Error::new(code::ADDRESSES_EXHAUSTED, "none left");
        let Answer::Refused(text) = direct.answer(Err(refusal)) else { panic!("it is not refused") };
        assert_eq!(text, r#"{"cniVersion":"1.0.0","code":101,"msg":"none left"}"#);
        let starting = Error::new(code::TRY_AGAIN_LATER, "starting");
        assert_eq!(direct.answer(Err(starting)), Answer::Yourself);
    }

    #[test]
    fn a_del_needs_no_namespace_and_says_nothing() {
        let direct = parse("CNI_COMMAND=DEL\0CNI_CONTAINERID=a1\0CNI_IFNAME=eth0\0", CONFIG).unwrap();
        assert!(matches!(&direct.work, Work::Detach(key) if *key == Key::new("a1", "eth0")), "{direct:?}");
        assert_eq!(direct.answer(Ok(None)), Answer::Done(String::new()));
    }

    #[test]
    fn what_is_wrong_is_refused_and_what_is_not_the_agents_is_left() {
        let refusal = |environment: &str, config: &str| match parse(environment, config) {
            Err(Answer::Refused(text)) => text,
            other => panic!("{other:?}"),
        };
        assert!(refusal("CNI_COMMAND=ADD\0CNI_IFNAME=eth0\0", CONFIG).contains("CNI_CONTAINERID, CNI_NETNS"));
        assert!(refusal(ADD, "{").contains("not valid JSON"));
        let chained = CONFIG.replace("{\"cniVersion\"", "{\"prevResult\":{},\"cniVersion\"");
        assert!(refusal(ADD, &chained).contains("must be the first plugin"));
        let delegated =
            CONFIG.replace("{\"cniVersion\"", "{\"ipam\":{\"type\":\"host-local\"},\"cniVersion\"");
        assert_eq!(parse(ADD, &delegated).unwrap_err(), Answer::Yourself);
        assert_eq!(parse("CNI_COMMAND=VERSION\0", CONFIG).unwrap_err(), Answer::Yourself);
        assert_eq!(Direct::parse(b"CNI_COMMAND=ADD\0").unwrap_err(), Answer::Yourself);
        assert_eq!(Direct::parse(b"\xff\0\0{}").unwrap_err(), Answer::Yourself);
    }
}
