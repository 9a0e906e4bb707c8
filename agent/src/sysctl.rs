//! Kernel settings under `/proc/sys/net`: those of the calling thread's network namespace.

use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::Context as _;

/// No value that we read is longer.
const LONGEST: usize = 256;

/// Where they are, if not at `/proc/sys`: in a container that is read-only, and the node's own is mounted elsewhere.
static DIR: OnceLock<PathBuf> = OnceLock::new();

/// Says where they are, for the whole process; the first call counts.
pub(crate) fn use_dir(dir: PathBuf) {
    DIR.get_or_init(|| dir);
}

fn path(key: &str) -> PathBuf {
    DIR.get().map_or_else(|| PathBuf::from("/proc/sys"), PathBuf::clone).join(key)
}

/// Sets a key, such as `net/ipv4/ip_forward`, where it differs. A key that does not exist (a kernel without IPv6) is
/// left alone.
pub(crate) fn ensure(key: &str, value: &str) -> anyhow::Result<()> {
    if differs(key, value)?.is_some() { set(key, value) } else { Ok(()) }
}

/// What a key is set to, where it exists and is set to something else.
pub(crate) fn differs(key: &str, value: &str) -> anyhow::Result<Option<String>> {
    Ok(read(key)?.filter(|now| now != value))
}

/// What a key is set to; `None` where it does not exist.
pub(crate) fn read(key: &str) -> anyhow::Result<Option<String>> {
    // One call reads a value: such a file has no size to ask for.
    let text = fs_err::File::open(path(key)).and_then(|mut file| {
        let mut text = vec![0; LONGEST];
        let length = file.read(&mut text)?;
        text.truncate(length);
        String::from_utf8(text).map_err(io::Error::other)
    });
    match text {
        Ok(value) => Ok(Some(value.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", name(key))),
    }
}

/// Sets a key.
pub(crate) fn set(key: &str, value: &str) -> anyhow::Result<()> {
    let write = || fs_err::OpenOptions::new().write(true).open(path(key))?.write_all(value.as_bytes());
    write().with_context(|| format!("setting {}={value}", name(key)))
}

/// A key as the command `sysctl` writes it: dots in a device's name stand as slashes there.
pub(crate) fn name(key: &str) -> String {
    key.chars()
        .map(|c| match c {
            '/' => '.',
            '.' => '/',
            other => other,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::testing::in_own_namespace;

    #[test]
    fn settings_are_those_of_the_threads_namespace() {
        in_own_namespace(|| async {
            const KEY: &str = "net/ipv4/conf/lo/rp_filter";
            ensure(KEY, "2").unwrap();
            assert_eq!(read(KEY).unwrap().as_deref(), Some("2"));
            ensure("net/ipv4/conf/nowhere/rp_filter", "2").expect("nothing to set");
            assert_eq!(read("net/ipv4/conf/nowhere/rp_filter").unwrap(), None);
        });
    }

    #[test]
    fn names_are_written_as_sysctl_does() {
        assert_eq!(name("net/ipv4/conf/podlane.vxlan/rp_filter"), "net.ipv4.conf.podlane/vxlan.rp_filter");
    }
}
