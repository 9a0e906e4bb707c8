//! Attachment records: one JSON file each under `<runDir>/attachments`. They are the only memory of what was
//! attached; everything else can be rebuilt from them.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

use super::foreign::Foreign;
use super::mac::Mac;
use crate::failpoint;

/// The folder of the records in the run directory.
pub const RECORDS_DIR: &str = "attachments";

/// The version of the records that this agent writes. It reads older ones as well.
const VERSION: u32 = if cfg!(feature = "other-version") { 2 } else { 1 };

/// The oldest version that it reads.
const OLDEST: u32 = 1;

/// What makes an attachment: a container and the name of the interface in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub if_name: String,
}

impl Key {
    /// From its parts.
    pub fn new(container_id: &str, if_name: &str) -> Self {
        Self { container_id: container_id.to_owned(), if_name: if_name.to_owned() }
    }
}

/// How far an attachment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Written before the first change to the system: whoever finds it undoes the attachment.
    Creating,
    /// Complete.
    Ready,
}

/// One pod interface and everything that was made for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The form of the record.
    pub version: u32,
    /// How far it has come.
    pub state: State,
    /// The container.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The path of its network namespace.
    pub netns: String,
    /// The interface in the pod.
    pub if_name: String,
    /// The pod's Kubernetes namespace, if there is one.
    #[serde(default)]
    pub namespace: Option<String>,
    /// The pod's name, if there is one.
    #[serde(default)]
    pub pod: Option<String>,
    /// The pod's UID, if there is one.
    #[serde(default)]
    pub uid: Option<String>,
    /// The host side's name.
    pub host_interface: String,
    /// The host side's index; 0 while creating.
    pub host_if_index: u32,
    /// The pod's Ethernet address.
    pub mac: Mac,
    /// The host side's Ethernet address.
    #[serde(rename = "hostMAC")]
    pub host_mac: Mac,
    /// The pod's addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// The gateways, in the order of the addresses.
    pub gateways: Vec<IpAddr>,
    /// The MTU of both sides.
    pub mtu: u32,
    /// The IPAM plugin that gave the addresses; none for our own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipam: Option<String>,
}

impl Record {
    /// The version to write.
    pub(super) const VERSION: u32 = VERSION;

    /// Its identity.
    pub fn key(&self) -> Key {
        Key::new(&self.container_id, &self.if_name)
    }

    /// The host side's alias: what people see in `ip link`.
    pub fn alias(&self) -> String {
        match (&self.namespace, &self.pod) {
            (Some(namespace), Some(pod)) => format!("{namespace}/{pod}"),
            (None, Some(pod)) => pod.clone(),
            _ => self.container_id.clone(),
        }
    }

    /// The addresses with their gateways.
    pub fn leases(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        self.addresses.iter().copied().zip(self.gateways.iter().copied())
    }

    fn validate(&self) -> anyhow::Result<()> {
        crate::cni::identifiers::container_id(&self.container_id)?;
        crate::cni::identifiers::interface_name(&self.if_name)?;
        ensure!(
            self.host_interface == super::names::host_interface(&self.key()),
            "its hostInterface {} is not this attachment's {}",
            self.host_interface,
            super::names::host_interface(&self.key())
        );
        ensure!(
            self.addresses.len() == self.gateways.len(),
            "it has {} addresses but {} gateways",
            self.addresses.len(),
            self.gateways.len()
        );
        Ok(())
    }
}

/// What the folder holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Loaded {
    pub(super) records: Vec<Record>,
    /// Those of a newer agent.
    pub(super) foreign: Vec<Foreign>,
    /// What is wrong with the other files.
    pub(super) problems: Vec<String>,
}

/// What a file is.
enum Found {
    Record(Box<Record>),
    Foreign(Foreign),
}

/// The folder of the records.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
}

impl Store {
    /// Opens the folder, and makes it if need be.
    pub(super) fn open(run_dir: &Path) -> anyhow::Result<Self> {
        let dir = run_dir.join(RECORDS_DIR);
        fs_err::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    /// All records. Files that cannot be read are left alone.
    pub(super) fn load(&self) -> anyhow::Result<Loaded> {
        let mut loaded = Loaded::default();
        for entry in fs_err::read_dir(&self.dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with('.') && name.ends_with(".tmp") {
                // Left by an agent that was killed while it wrote; never a record.
                fs_err::remove_file(&path)?;
                continue;
            }
            match self.read(&path) {
                Ok(Found::Record(record)) => loaded.records.push(*record),
                Ok(Found::Foreign(foreign)) => loaded.foreign.push(foreign),
                Err(error) => loaded.problems.push(format!(
                    "attachment record {} cannot be used and is left alone: {error:#}",
                    path.display()
                )),
            }
        }
        Ok(loaded)
    }

    fn read(&self, path: &Path) -> anyhow::Result<Found> {
        let value: serde_json::Value = serde_json::from_slice(&fs_err::read(path)?)?;
        let version = value["version"].as_u64().context("it has no version")?;
        if version > u64::from(VERSION) {
            return Ok(Found::Foreign(Foreign::of(path, &value, version, VERSION)));
        }
        ensure!(
            version >= u64::from(OLDEST),
            "its version is {version}, the oldest that is read is {OLDEST}"
        );
        let mut record: Record = serde_json::from_value(value)?;
        // Whatever an older version lacks has its default; the file is upgraded when it is next written.
        record.version = VERSION;
        record.validate()?;
        ensure!(self.path(&record.key()) == path, "its name does not fit its containerID and ifName");
        Ok(Found::Record(Box::new(record)))
    }

    /// Writes a new record; refuses to replace a file.
    pub(super) fn create(&self, record: &Record) -> anyhow::Result<()> {
        let (temporary, path) = self.write_temporary(record)?;
        // A hard link, unlike a rename, fails where the name is taken: by an unreadable record, or by another pair
        // of container ID and interface that reads the same when joined.
        let linked = fs_err::hard_link(&temporary, &path);
        failpoint::step("record linked");
        fs_err::remove_file(&temporary)?;
        match linked {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                bail!(
                    "{} exists and is not this attachment's record: look at it and remove it",
                    path.display()
                )
            }
            other => other.context("writing an attachment record"),
        }
    }

    /// Replaces a record.
    pub(super) fn update(&self, record: &Record) -> anyhow::Result<()> {
        let (temporary, path) = self.write_temporary(record)?;
        fs_err::rename(temporary, path).context("replacing an attachment record")?;
        failpoint::step("record replaced");
        Ok(())
    }

    /// Removes a record. Fine when it is gone already.
    pub(super) fn remove(&self, key: &Key) -> anyhow::Result<()> {
        match fs_err::remove_file(self.path(key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => {
                failpoint::step("record removed");
                Ok(())
            }
        }
    }

    fn write_temporary(&self, record: &Record) -> anyhow::Result<(PathBuf, PathBuf)> {
        let path = self.path(&record.key());
        let temporary = self.dir.join(format!(".{}.tmp", record.host_interface));
        fs_err::write(&temporary, serde_json::to_vec(record)?)?;
        failpoint::step("temporary record written");
        Ok((temporary, path))
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.dir.join(format!("{}-{}.json", key.container_id, key.if_name))
    }
}

#[cfg(test)]
pub(super) fn sample(container_id: &str) -> Record {
    let key = Key::new(container_id, "eth0");
    Record {
        version: VERSION,
        state: State::Ready,
        container_id: container_id.to_owned(),
        netns: "/run/netns/x".to_owned(),
        if_name: "eth0".to_owned(),
        namespace: Some("shop".to_owned()),
        pod: Some("cart".to_owned()),
        uid: None,
        host_interface: super::names::host_interface(&key),
        host_if_index: 7,
        mac: super::names::pod_mac(&key),
        host_mac: super::names::host_mac(&key),
        addresses: vec!["10.244.1.2".parse().unwrap()],
        gateways: vec!["10.244.1.1".parse().unwrap()],
        mtu: 1500,
        ipam: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_and_have_the_documented_fields() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut record = Record { state: State::Creating, ..sample("a") };
        store.create(&record).unwrap();
        record.state = State::Ready;
        store.update(&record).unwrap();
        let loaded = Loaded { records: vec![record.clone()], ..Loaded::default() };
        assert_eq!(store.load().unwrap(), loaded);
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(dir.path().join("attachments/a-eth0.json")).unwrap())
                .unwrap();
        for field in ["version", "state", "containerID", "netns", "ifName", "namespace", "pod", "uid"] {
            assert!(json.get(field).is_some(), "{field}");
        }
        for field in ["hostInterface", "hostIfIndex", "mac", "hostMAC", "addresses", "gateways", "mtu"] {
            assert!(json.get(field).is_some(), "{field}");
        }
        assert_eq!(json["state"], "ready");
        store.remove(&record.key()).unwrap();
        store.remove(&record.key()).unwrap();
        assert_eq!(store.load().unwrap(), Loaded::default());
    }

    #[test]
    fn a_file_in_the_way_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        // a-b + c and a + b-c share a file name.
        let at = |container: &str, interface: &str| {
            let key = Key::new(container, interface);
            let name = super::super::names::host_interface(&key);
            Record { if_name: interface.to_owned(), host_interface: name, ..sample(container) }
        };
        store.create(&at("a-b", "c")).unwrap();
        let error = store.create(&at("a", "b-c")).unwrap_err();
        assert!(error.to_string().contains("a-b-c.json"), "{error:#}");
        assert_eq!(store.load().unwrap().records, [at("a-b", "c")]);
    }

    #[test]
    fn foreign_files_are_reported_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let older = serde_json::to_string(&Record { version: 0, ..sample("b") }).unwrap();
        let misnamed = serde_json::to_string(&sample("c")).unwrap();
        let files = [
            ("a-eth0.json", "{"),
            ("b-eth0.json", &older),
            ("d-eth0.json", &misnamed),
            ("notes.txt", "hello"),
        ];
        for (name, text) in files {
            std::fs::write(store.dir.join(name), text).unwrap();
        }
        std::fs::write(store.dir.join(".pl0.tmp"), "half").unwrap();
        let Loaded { records, foreign, mut problems } = store.load().unwrap();
        problems.sort();
        assert_eq!((records.len(), foreign.len(), problems.len()), (0, 0, 4), "{problems:?}");
        assert!(problems[1].contains("its version is 0, the oldest that is read is 1"), "{}", problems[1]);
        assert_eq!(std::fs::read_dir(&store.dir).unwrap().count(), 4, "only the temporary file went");
    }
    #[test]
    fn a_newer_record_is_left_alone_and_as_much_as_possible_is_made_out() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut newer = serde_json::to_value(sample("a")).unwrap();
        newer["version"] = 99.into();
        newer["state"] = "half-open".into();
        newer["addresses"] = serde_json::json!(["10.244.1.2", { "v6": "fd00::2" }]);
        let path = store.dir.join("a-eth0.json");
        std::fs::write(&path, newer.to_string()).unwrap();
        let Loaded { records, foreign, problems } = store.load().unwrap();
        assert_eq!((records.len(), foreign.len(), problems.len()), (0, 1, 0));
        assert_eq!(foreign[0].key, Some(Key::new("a", "eth0")));
        assert_eq!(foreign[0].addresses, sample("a").addresses);
        assert!(foreign[0].is_understood());
        let problem = foreign[0].problem();
        assert!(
            problem.contains("a-eth0.json is of version 99") && problem.contains("keeps 10.244.1.2"),
            "{problem}"
        );
        std::fs::write(&path, r#"{"version":99,"interfaces":{}}"#).unwrap();
        let foreign = store.load().unwrap().foreign;
        assert!(!foreign[0].is_understood() && foreign[0].problem().contains("unknown"), "{foreign:?}");
    }
}
