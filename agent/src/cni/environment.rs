//! The parameters that a runtime passes in the environment.

use super::error::{Error, code};
use super::identifiers::{container_id, interface_name, invalid};
use super::version::Version;
use super::wishes::Wishes;
use crate::pods::{AttachRequest, Key, Wanted};

/// What to do, with what it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// The request lacks what the configuration has to say about it.
    Add(Box<(AttachRequest, Wishes)>),
    Del(Key),
    Check {
        key: Key,
        netns: String,
    },
    Status,
    Gc,
    Version,
}

impl Command {
    /// Reads the environment through `variable`. Every missing variable is named at once.
    pub(super) fn parse(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let Some(command) = variable("CNI_COMMAND") else {
            let msg = "CNI_COMMAND is missing: podlane-cni is called by a container runtime";
            return Err(Error::new(code::INVALID_ENVIRONMENT, msg));
        };
        let require = |names: &[&str]| {
            let missing: Vec<&str> = names.iter().copied().filter(|name| variable(name).is_none()).collect();
            if missing.is_empty() {
                return Ok(());
            }
            let msg = format!("CNI_COMMAND {command} needs {}", missing.join(", "));
            Err(Error::new(code::INVALID_ENVIRONMENT, msg))
        };
        let text = |name: &str| variable(name).unwrap_or_default();
        let key = || {
            let key = Key { container_id: text("CNI_CONTAINERID"), if_name: text("CNI_IFNAME") };
            container_id(&key.container_id)?;
            interface_name(&key.if_name)?;
            Ok(key)
        };
        match command.as_str() {
            "ADD" => {
                require(&["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"])?;
                let Key { container_id, if_name } = key()?;
                let arguments = Arguments::parse(&text("CNI_ARGS"))?;
                let Arguments { namespace, pod, uid, ip, mac } = arguments;
                let wishes = Wishes::from_arguments(ip.as_deref(), mac.as_deref())?;
                let request = AttachRequest {
                    container_id,
                    netns: text("CNI_NETNS"),
                    if_name,
                    namespace,
                    pod,
                    uid,
                    mac: None,
                    wanted: Wanted::default(),
                };
                Ok(Self::Add(Box::new((request, wishes))))
            }
            // Without a network namespace as well: it may be gone, and runtimes say so by leaving it empty.
            "DEL" => {
                require(&["CNI_CONTAINERID", "CNI_IFNAME"])?;
                Ok(Self::Del(key()?))
            }
            "CHECK" => {
                require(&["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"])?;
                Ok(Self::Check { key: key()?, netns: text("CNI_NETNS") })
            }
            "STATUS" => Ok(Self::Status),
            "GC" => Ok(Self::Gc),
            "VERSION" => Ok(Self::Version),
            other => Err(invalid("CNI_COMMAND", other, "ADD, DEL, CHECK, STATUS, GC and VERSION are known")),
        }
    }

    /// Refuses commands that a version of the specification does not have yet.
    pub(super) fn ensure_in(&self, version: Version) -> Result<(), Error> {
        let (name, since) = match self {
            Self::Check { .. } => ("CHECK", Version::V0_4_0),
            Self::Status => ("STATUS", Version::V1_1_0),
            Self::Gc => ("GC", Version::V1_1_0),
            Self::Add(..) | Self::Del(_) | Self::Version => return Ok(()),
        };
        if version >= since {
            return Ok(());
        }
        let msg = format!("cniVersion {version} has no {name}: it came with {since}");
        Err(Error::new(code::INCOMPATIBLE_VERSION, msg))
    }
}

/// What Kubernetes says about the pod in `CNI_ARGS`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Arguments {
    namespace: Option<String>,
    pod: Option<String>,
    uid: Option<String>,
    ip: Option<String>,
    mac: Option<String>,
}

impl Arguments {
    /// `KEY=value;KEY=value` in any order; unknown keys are none of our business.
    fn parse(text: &str) -> Result<Self, Error> {
        let mut arguments = Self::default();
        for pair in text.split(';').filter(|pair| !pair.trim().is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| invalid("CNI_ARGS", text, "it must be KEY=value;KEY=value"))?;
            let value = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
            match key.trim() {
                "K8S_POD_NAMESPACE" => arguments.namespace = value,
                "K8S_POD_NAME" => arguments.pod = value,
                "K8S_POD_UID" => arguments.uid = value,
                "IP" => arguments.ip = value,
                "MAC" => arguments.mac = value,
                _ => {}
            }
        }
        Ok(arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(variables: &[(&str, &str)]) -> Result<Command, Error> {
        let value =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Command::parse(value)
    }

    #[test]
    fn an_add_has_everything() {
        let command = parse(&[
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "a1"),
            ("CNI_NETNS", "/run/netns/x"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_UID=u;K8S_POD_NAME=cart;K8S_POD_NAMESPACE=shop;OTHER=a=b;"),
        ]);
        let expected = AttachRequest {
            container_id: "a1".to_owned(),
            netns: "/run/netns/x".to_owned(),
            if_name: "eth0".to_owned(),
            namespace: Some("shop".to_owned()),
            pod: Some("cart".to_owned()),
            uid: Some("u".to_owned()),
            mac: None,
            wanted: Wanted::default(),
        };
        assert_eq!(command, Ok(Command::Add(Box::new((expected, Wishes::default())))));
    }

    #[test]
    fn a_del_does_without_a_namespace() {
        let variables =
            [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "a1"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "")];
        assert_eq!(parse(&variables), Ok(Command::Del(Key::new("a1", "eth0"))));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let fault = |variables: &[(&str, &str)]| {
            let error = parse(variables).unwrap_err();
            assert_eq!(error.code, code::INVALID_ENVIRONMENT);
            error.msg
        };
        assert!(fault(&[]).contains("CNI_COMMAND"));
        assert!(fault(&[("CNI_COMMAND", "add")]).contains("CNI_COMMAND \"add\""));
        assert_eq!(
            fault(&[("CNI_COMMAND", "ADD"), ("CNI_IFNAME", "eth0")]),
            "CNI_COMMAND ADD needs CNI_CONTAINERID, CNI_NETNS"
        );
        let bad_name = [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "a1"), ("CNI_IFNAME", "a/b")];
        assert!(fault(&bad_name).contains("CNI_IFNAME"));
        let bad_arguments = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "a1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", "/x"),
            ("CNI_ARGS", "no pairs"),
        ];
        assert!(fault(&bad_arguments).contains("CNI_ARGS"));
    }

    #[test]
    fn newer_commands_need_newer_versions() {
        let check = Command::Check { key: Key::new("a1", "eth0"), netns: String::new() };
        assert_eq!(check.ensure_in(Version::V0_3_1).unwrap_err().code, code::INCOMPATIBLE_VERSION);
        assert_eq!(check.ensure_in(Version::V0_4_0), Ok(()));
        assert!(Command::Gc.ensure_in(Version::V1_0_0).is_err());
        assert!(Command::Status.ensure_in(Version::V1_1_0).is_ok());
    }
}
