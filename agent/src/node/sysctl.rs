//! The kernel settings that the slow path needs.

use anyhow::Context as _;

/// Turns forwarding on where it is off, and says so: without it the kernel's routes forward nothing.
pub(super) fn enable_forwarding(v4: bool, v6: bool) -> anyhow::Result<()> {
    if v4 {
        set("net/ipv4/ip_forward")?;
    }
    if v6 {
        set("net/ipv6/conf/all/forwarding")?;
    }
    Ok(())
}

fn set(key: &str) -> anyhow::Result<()> {
    let path = format!("/proc/sys/{key}");
    let name = key.replace('/', ".");
    let value = fs_err::read_to_string(&path).with_context(|| format!("reading {name}"))?;
    if value.trim() == "0" {
        fs_err::write(&path, "1").with_context(|| format!("setting {name}=1, which the slow path needs"))?;
        tracing::info!("set {name}=1: the kernel forwards what the fast path leaves to it");
    }
    Ok(())
}
