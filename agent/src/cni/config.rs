//! The network configuration that a runtime writes to the plugin's stdin.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::{Error, code};
use super::version::Version;
use super::wishes::Wishes;
use crate::api::DEFAULT_SOCKET;
use crate::pods::{AttachRequest, Key};

/// A checked configuration.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) version: Version,
    pub(super) socket: PathBuf,
    /// Passed through to results, unless others are wished.
    dns: Option<Value>,
    /// The IPAM plugin; none for our own addresses.
    pub(super) ipam: Option<String>,
    /// What is wished for the pod.
    pub(super) wishes: Wishes,
    /// What ADD returned, for CHECK and DEL.
    pub(super) previous: Option<Value>,
    /// For GC: the attachments that the runtime still knows.
    pub(super) valid_attachments: Option<Vec<Key>>,
}

impl Config {
    /// The version alone, for the error about the rest; where the text has none, one that every runtime knows.
    pub(super) fn version_or_fallback(text: &str) -> Version {
        let version = || {
            let value: Value = serde_json::from_str(text).ok()?;
            Version::parse(value.get("cniVersion")?.as_str()?).ok()
        };
        version().unwrap_or(Version::FALLBACK)
    }

    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let decode = |fault: String| {
            Error::new(code::DECODE, "the network configuration on stdin is not valid JSON").details(fault)
        };
        let value: Value = serde_json::from_str(text).map_err(|error| decode(error.to_string()))?;
        let Value::Object(mut fields) = value else { return Err(decode("it is not an object".to_owned())) };
        // The specification's default, which nobody supports any more.
        let version = string(&fields, "cniVersion")?.unwrap_or("0.1.0");
        let version = Version::parse(version)?;
        let name = string(&fields, "name")?.unwrap_or_default();
        if super::identifiers::container_id(name).is_err() {
            let msg = format!(
                "the network's name {name:?} must start with a letter or digit and have only those, '_', '.' and '-'"
            );
            return Err(Error::new(code::INVALID_CONFIG, msg));
        }
        refuse_unsupported(&fields)?;
        let socket = string(&fields, "socket")?.unwrap_or(DEFAULT_SOCKET);
        if !socket.starts_with('/') {
            let msg = format!("socket {socket:?} must be an absolute path");
            return Err(Error::new(code::INVALID_CONFIG, msg));
        }
        let socket = PathBuf::from(socket);
        let valid_attachments = match fields.remove("cni.dev/valid-attachments") {
            None => None,
            Some(list) => Some(valid_attachments(list)?),
        };
        let ipam = match fields.get("ipam").filter(|ipam| !ipam.is_null()) {
            None => None,
            Some(Value::Object(ipam)) => {
                string(ipam, "type")?.filter(|kind| !kind.is_empty()).map(str::to_owned)
            }
            Some(other) => {
                return Err(Error::new(code::INVALID_CONFIG, format!("ipam must be an object, not {other}")));
            }
        };
        let wishes = Wishes::of(&fields)?;
        let mut given = |field: &str| fields.remove(field).filter(|value| !value.is_null());
        Ok(Self {
            version,
            socket,
            dns: given("dns"),
            ipam,
            wishes,
            previous: given("prevResult"),
            valid_attachments,
        })
    }

    /// ADD makes the pod's interface.
    pub(super) fn ensure_first(&self) -> Result<(), Error> {
        if self.previous.is_none() {
            return Ok(());
        }
        let msg = "prevResult is given: podlane-cni makes the pod's interface and must be the first plugin";
        Err(Error::new(code::INVALID_CONFIG, msg))
    }

    /// What the agent is asked for: the environment's request, with what is wished there or here. Without an IPAM plugin
    /// that includes the addresses.
    pub(super) fn request(&self, (request, wishes): &(AttachRequest, Wishes)) -> AttachRequest {
        let wishes = self.wishes.clone().or(wishes.clone());
        let mut request = AttachRequest { mac: wishes.mac, ..request.clone() };
        if self.ipam.is_none() {
            request.wanted.addresses = wishes.addresses.unwrap_or_default();
            request.wanted.ranges = wishes.ranges.unwrap_or_default();
        }
        request
    }

    /// The DNS settings for the result.
    pub(super) fn dns(&self) -> Option<&Value> {
        self.wishes.dns.as_ref().or(self.dns.as_ref())
    }

    /// The addresses of the previous result.
    pub(super) fn previous_addresses(&self) -> Result<Vec<IpAddr>, Error> {
        let Some(previous) = &self.previous else {
            return Err(Error::new(code::INVALID_CONFIG, "prevResult is missing: CHECK compares with it"));
        };
        let ips = previous.get("ips").and_then(Value::as_array);
        ips.into_iter()
            .flatten()
            .map(|ip| {
                let address = ip.get("address").and_then(Value::as_str).unwrap_or_default();
                address.parse().map(|network: IpNetwork| network.ip()).map_err(|_| {
                    let msg = format!("prevResult has {address:?} where an address with prefix should be");
                    Error::new(code::INVALID_CONFIG, msg)
                })
            })
            .collect()
    }
}

fn string<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, Error> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(Error::new(code::INVALID_CONFIG, format!("{name} must be a string, not {other}"))),
    }
}

/// Settings of other plugins that would be ignored in silence otherwise.
fn refuse_unsupported(fields: &Map<String, Value>) -> Result<(), Error> {
    let refuse = |what: String, why: &str| Err(Error::new(code::UNSUPPORTED_FIELD, format!("{what}: {why}")));
    if fields.get("ipMasq") == Some(&Value::Bool(true)) {
        return refuse("ipMasq true is not supported".to_owned(), "podlane does no NAT: remove it");
    }
    Ok(())
}

fn valid_attachments(list: Value) -> Result<Vec<Key>, Error> {
    #[derive(Deserialize)]
    struct Attachment {
        #[serde(rename = "containerID")]
        container_id: String,
        ifname: String,
    }
    let list: Vec<Attachment> = serde_json::from_value(list).map_err(|error| {
        Error::new(code::INVALID_CONFIG, "cni.dev/valid-attachments is malformed").details(error.to_string())
    })?;
    Ok(list.into_iter().map(|a| Key { container_id: a.container_id, if_name: a.ifname }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_needs_little() {
        let config =
            Config::parse(r#"{"cniVersion":"1.0.0","name":"podlane","type":"podlane-cni"}"#).unwrap();
        assert_eq!((config.version, config.socket.to_str()), (Version::V1_0_0, Some(DEFAULT_SOCKET)));
        let config = Config::parse(
            r#"{"cniVersion":"0.4.0","name":"p","socket":"/s","capabilities":{"x":true},"ipam":{},"dns":{"nameservers":["10.0.0.1"]},"prevResult":{"ips":[{"address":"10.244.1.2/32"}]}}"#,
        )
        .unwrap();
        assert_eq!(config.socket.to_str(), Some("/s"));
        assert!(config.dns.is_some());
        assert_eq!(config.previous_addresses().unwrap(), ["10.244.1.2".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn faults_have_the_specifications_codes_and_say_what_is_wrong() {
        for (text, number, why) in [
            ("", code::DECODE, "EOF"),
            ("{", code::DECODE, "EOF"),
            ("[]", code::DECODE, "not an object"),
            (r#"{"name":"p"}"#, code::INCOMPATIBLE_VERSION, "0.1.0"),
            (r#"{"cniVersion":"2.0.0","name":"p"}"#, code::INCOMPATIBLE_VERSION, "2.0.0"),
            (r#"{"cniVersion":1,"name":"p"}"#, code::INVALID_CONFIG, "cniVersion"),
            (r#"{"cniVersion":"1.0.0"}"#, code::INVALID_CONFIG, "name"),
            (r#"{"cniVersion":"1.0.0","name":"a b"}"#, code::INVALID_CONFIG, "a b"),
            (r#"{"cniVersion":"1.0.0","name":"p","socket":"s"}"#, code::INVALID_CONFIG, "absolute"),
            (r#"{"cniVersion":"1.0.0","name":"p","ipMasq":true}"#, code::UNSUPPORTED_FIELD, "ipMasq true"),
            (r#"{"cniVersion":"1.0.0","name":"p","ipam":{"type":5}}"#, code::INVALID_CONFIG, "type"),
            (r#"{"cniVersion":"1.0.0","name":"p","ipam":"x"}"#, code::INVALID_CONFIG, "ipam"),
            (
                r#"{"cniVersion":"1.1.0","name":"p","cni.dev/valid-attachments":[{"containerID":"a"}]}"#,
                code::INVALID_CONFIG,
                "ifname",
            ),
        ] {
            let error = Config::parse(text).unwrap_err();
            assert_eq!(error.code, number, "{text}: {error}");
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
    }
}
