//! Records of a newer agent, which this one does not understand: it leaves the files alone, hands out none of their
//! addresses, and keeps the pods' traffic going by what it can make out.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::mac::Mac;
use super::record::Key;
use super::{Inner, PodEndpoint, lock, names};

/// What can be made out of a record that is too new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    path: PathBuf,
    version: u64,
    known: u32,
    /// Whose it is, if that is where it always was.
    pub(super) key: Option<Key>,
    /// The host side's name.
    pub(super) host_interface: Option<String>,
    pub(super) addresses: Vec<IpAddr>,
    mac: Option<Mac>,
    host_mac: Option<Mac>,
}

impl Foreign {
    /// Reads what is there under the names that it has had so far.
    pub(super) fn of(path: &Path, record: &Value, version: u64, known: u32) -> Self {
        fn field<T: serde::de::DeserializeOwned>(record: &Value, name: &str) -> Option<T> {
            serde_json::from_value(record.get(name)?.clone()).ok()
        }
        let part = |name| field::<String>(record, name);
        let key = part("containerID").zip(part("ifName")).map(|(id, name)| Key::new(&id, &name));
        Self {
            path: path.to_owned(),
            version,
            known,
            host_interface: part("hostInterface").or(key.as_ref().map(names::host_interface)),
            key,
            // One by one: an address in a new form does not hide the others.
            addresses: field::<Vec<Value>>(record, "addresses")
                .into_iter()
                .flatten()
                .filter_map(|address| serde_json::from_value(address).ok())
                .collect(),
            mac: field(record, "mac"),
            host_mac: field(record, "hostMAC"),
        }
    }

    /// For the log and the status.
    pub(super) fn problem(&self) -> String {
        let addresses: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        let kept = if addresses.is_empty() {
            "which addresses its pod has is unknown".to_owned()
        } else {
            format!("its pod keeps {}", addresses.join(", "))
        };
        format!(
            "attachment record {} is of version {}, this agent reads up to {}: it is left alone, and {kept}; run the newer agent again, or delete the pod",
            self.path.display(),
            self.version,
            self.known
        )
    }

    /// Whether everything is known that other pods' safety needs: which addresses are taken, which device is in use.
    pub(super) fn is_understood(&self) -> bool {
        !self.addresses.is_empty() && self.host_interface.is_some()
    }
}

impl Inner {
    /// Enters such a pod into the fast path, as far as that is possible.
    pub(super) async fn keep_foreign(&self, foreign: &Foreign) -> anyhow::Result<()> {
        let Foreign { host_interface: Some(name), mac: Some(mac), host_mac: Some(host_mac), .. } = foreign
        else {
            return Ok(());
        };
        let Some(device) = self.netlink.link_by_name(name).await? else { return Ok(()) };
        let pod = PodEndpoint { ifindex: device.index, mac: mac.0, host_mac: host_mac.0 };
        self.fast_path.attach_pod(name, device.index)?;
        foreign.addresses.iter().try_for_each(|address| self.fast_path.set_pod(*address, pod))
    }

    /// The newer record of an attachment, if that is what it has.
    pub(super) fn foreign(&self, key: &Key) -> Option<Foreign> {
        lock(&self.foreign).iter().find(|foreign| foreign.key.as_ref() == Some(key)).cloned()
    }

    /// The attachment is gone: so is its record, whatever else was in it.
    pub(super) fn forget_foreign(&self, foreign: &Foreign) -> anyhow::Result<()> {
        match fs_err::remove_file(&foreign.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        lock(&self.foreign).retain(|other| other != foreign);
        let mut ipam = lock(&self.ipam);
        foreign.addresses.iter().for_each(|address| ipam.release(*address));
        Ok(())
    }
}
