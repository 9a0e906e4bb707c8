//! Which address was given last, beyond the agent's life: without it a restarted agent would begin behind the highest
//! address in use, and so might give one that was freed a moment ago. A hint, no truth: a file that is lost or makes no
//! sense costs nothing but that.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;

use super::{Ipam, distance, offset, pod_range};

/// The file in the run directory: the address given last, by pod CIDR.
pub const GIVEN_FILE: &str = "addresses-given.json";

/// Where it is kept.
#[derive(Clone, Debug)]
pub struct GivenFile(PathBuf);

impl GivenFile {
    /// That of the agent with this run directory.
    pub fn of(run_dir: &Path) -> Self {
        Self(run_dir.join(GIVEN_FILE))
    }

    /// Lets the search go on where the last agent's was.
    pub fn read_into(&self, ipam: &mut Ipam) {
        // An agent that was killed while it wrote leaves this behind, or, mostly, nothing.
        let _ = std::fs::remove_file(self.temporary());
        let read = std::fs::read(&self.0).and_then(|text| {
            serde_json::from_slice::<BTreeMap<IpNetwork, IpAddr>>(&text).map_err(Into::into)
        });
        match read {
            Ok(given) => ipam.last.extend(given.into_iter().filter_map(|(cidr, address)| {
                let (first, last) = pod_range(&cidr)?;
                let place = distance(&cidr, address);
                (cidr.contains(address) && (first..=last).contains(&place)).then_some((cidr, place))
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(%error, "{} cannot be used: addresses may come back early", self.0.display())
            }
        }
    }

    /// Remembers where the search is.
    pub fn write(&self, given: &BTreeMap<IpNetwork, IpAddr>) {
        let temporary = self.temporary();
        let written = serde_json::to_vec(given)
            .map_err(io::Error::from)
            .and_then(|text| std::fs::write(&temporary, text))
            .and_then(|()| std::fs::rename(&temporary, &self.0));
        if let Err(error) = written {
            tracing::warn!(%error, "{} cannot be written: addresses may come back early", self.0.display());
        }
    }

    fn temporary(&self) -> PathBuf {
        self.0.with_extension("tmp")
    }
}

impl Ipam {
    /// The address given last, by pod CIDR.
    pub fn given(&self) -> BTreeMap<IpNetwork, IpAddr> {
        self.last.iter().map(|(cidr, place)| (*cidr, offset(cidr, *place))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{node, take};
    use super::*;

    #[test]
    fn an_address_just_freed_does_not_come_back_after_a_restart_either() {
        let run_dir = tempfile::tempdir().unwrap();
        let file = GivenFile::of(run_dir.path());
        let node = node(&["10.244.1.0/29", "fd00:244:1::/64"]);
        let mut ipam = Ipam::default();
        file.read_into(&mut ipam);
        assert_eq!(take(&mut ipam, &node), "10.244.1.2 fd00:244:1::2");
        assert_eq!(take(&mut ipam, &node), "10.244.1.3 fd00:244:1::3");
        file.write(&ipam.given());
        // As if the agent had been killed while it wrote again.
        std::fs::write(file.temporary(), "{").unwrap();

        // The second pod went; the first one's record is found.
        let mut ipam = Ipam::default();
        file.read_into(&mut ipam);
        assert!(!file.temporary().exists());
        ipam.claim("10.244.1.2".parse().unwrap());
        ipam.claim("fd00:244:1::2".parse().unwrap());
        assert_eq!(take(&mut ipam, &node), "10.244.1.4 fd00:244:1::4");
    }

    #[test]
    fn a_file_that_makes_no_sense_changes_nothing() {
        let run_dir = tempfile::tempdir().unwrap();
        let file = GivenFile::of(run_dir.path());
        for text in [
            "",
            "{",
            r#"{"10.244.1.0/29":"10.244.1.0"}"#,
            r#"{"10.244.1.0/29":"10.244.9.3"}"#,
            r#"{"10.244.1.0/29":"fd00::3"}"#,
        ] {
            std::fs::write(&file.0, text).unwrap();
            let mut ipam = Ipam::default();
            file.read_into(&mut ipam);
            assert_eq!(take(&mut ipam, &node(&["10.244.1.0/29"])), "10.244.1.2", "{text}");
        }
    }
}
