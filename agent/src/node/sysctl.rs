//! The kernel settings that the slow path needs.

use super::ledger::Ledger;
use crate::sysctl::{differs, name, read, set};

/// Turns forwarding on where it is off, and says so: without it the kernel's routes forward nothing.
pub(super) fn enable_forwarding<'a>(
    v4: bool,
    v6: bool,
    uplinks: impl IntoIterator<Item = &'a str>,
    ledger: &mut Ledger,
) -> anyhow::Result<()> {
    const V4: &str = "net/ipv4/ip_forward";
    const V6: &str = "net/ipv6/conf/all/forwarding";
    let is_off = |key| anyhow::Ok(read(key)?.as_deref() == Some("0"));
    if v4 {
        let off = is_off(V4)?;
        if off {
            set(V4, "1")?;
            tracing::info!("set {}=1: the kernel forwards what the fast path leaves to it", name(V4));
        }
        ledger.keep(format_args!("the setting {}=1", name(V4)), !off, "set again");
    }
    if !v6 {
        return Ok(());
    }
    let off = is_off(V6)?;
    ledger.keep(format_args!("the setting {}=1", name(V6)), !off, "set again");
    if off {
        // A forwarding node ignores router advertisements unless it is told not to: its default route may be from one.
        for uplink in uplinks {
            let accept_ra = format!("net/ipv6/conf/{uplink}/accept_ra");
            if read(&accept_ra)?.as_deref() == Some("1") {
                set(&accept_ra, "2")?;
                tracing::info!(
                    "set {}=2: router advertisements still count on a node that forwards",
                    name(&accept_ra)
                );
            }
        }
        set(V6, "1")?;
        tracing::info!("set {}=1: the kernel forwards what the fast path leaves to it", name(V6));
    }
    Ok(())
}

/// The overlay device: nothing is found out on it, everything on it is told.
pub(super) fn prepare_overlay(device: &str, index: u32, ledger: &mut Ledger) -> anyhow::Result<()> {
    let mut ensure = |key: &str, value: &str| {
        let found = differs(key, value)?.is_none();
        if !found {
            set(key, value)?;
        }
        ledger.keep(format_args!("the setting {}={value} (index {index})", name(key)), found, "set again");
        anyhow::Ok(())
    };
    // A node's own address may be the source of what comes through the overlay, though the way back to it is another.
    ensure(&format!("net/ipv4/conf/{device}/rp_filter"), "2")?;
    ensure(&format!("net/ipv4/conf/{device}/forwarding"), "1")?;
    let v6 = format!("net/ipv6/conf/{device}");
    // 1: no link-local address of its own, hence nothing to be detected or solicited.
    ensure(&format!("{v6}/addr_gen_mode"), "1")?;
    ensure(&format!("{v6}/accept_ra"), "0")?;
    ensure(&format!("{v6}/forwarding"), "1")
}
