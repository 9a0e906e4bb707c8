//! Attaching `xdp_from_wire` to uplinks, by pinned links.

use std::{fmt, io, path::Path, str::FromStr};

use anyhow::{Context as _, anyhow, bail};
use aya::{
    programs::{
        ProgramError, Xdp,
        links::{FdLink, LinkError, PinnedLink},
        xdp::{self, XdpLink},
    },
    sys::SyscallError,
};
use dataplane_common::Hook;
use serde::{Deserialize, Serialize};

use super::{
    attach::runs_by,
    pins::{self, Pins},
};
use crate::failpoint::step;

/// XDP at the uplinks: the setting `xdp`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// None.
    #[default]
    Off,
    /// By the kernel's generic hook, on any device.
    Generic,
    /// By the device's driver.
    Native,
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Generic => "generic",
            Self::Native => "native",
        })
    }
}

impl FromStr for XdpMode {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text {
            "off" => Ok(Self::Off),
            "generic" => Ok(Self::Generic),
            "native" => Ok(Self::Native),
            _ => bail!("\"{text}\" is not an XDP mode: use \"off\", \"generic\" or \"native\""),
        }
    }
}

/// Attaches the program in this mode, or swaps it where it is attached in this mode already.
pub(super) fn attach(program: &mut Xdp, uplink: &str, mode: XdpMode, pins: &Pins) -> anyhow::Result<()> {
    for other in [XdpMode::Generic, XdpMode::Native] {
        if other != mode {
            pins.remove(&name(uplink, other))?;
        }
    }
    let driver_mode = match mode {
        XdpMode::Off => return Ok(()),
        XdpMode::Generic => xdp::XdpMode::Skb,
        XdpMode::Native => xdp::XdpMode::Driver,
    };
    attach_link(program, uplink, driver_mode, &name(uplink, mode), pins)
        .with_context(|| format!("attaching {} to {uplink}, {mode}", Hook::XdpFromWire.name()))
}

/// Detaches the program, in whichever mode it is attached.
pub(super) fn detach(uplink: &str, pins: &Pins) -> anyhow::Result<()> {
    pins.remove(&name(uplink, XdpMode::Generic))?;
    pins.remove(&name(uplink, XdpMode::Native))
}

/// Whether this very program runs at the uplink.
pub(super) fn is_attached(program: &Xdp, uplink: &str, mode: XdpMode, pins: &Pins) -> anyhow::Result<bool> {
    runs_by(program.info()?.id(), uplink, &pins.place(&name(uplink, mode)))
}

/// The mode is part of the name: another one means another link.
fn name(uplink: &str, mode: XdpMode) -> String {
    format!("{}:{mode}", pins::name(Hook::XdpFromWire, uplink))
}

fn attach_link(
    program: &mut Xdp,
    uplink: &str,
    driver_mode: xdp::XdpMode,
    name: &str,
    pins: &Pins,
) -> anyhow::Result<()> {
    let own = pins.place(name);
    for place in pins.places(name) {
        let Some(link) = open_pin(&place)? else { continue };
        match program.attach_to_link(link) {
            Ok(id) => {
                // The pin keeps the link; only our descriptor of it is closed here.
                drop(program.take_link(id)?);
                if place != own {
                    step("XDP program swapped on a link of another layout");
                    fs_err::rename(&place, &own).context("pinning a link of another layout anew")?;
                }
                return Ok(());
            }
            // The link's device is gone (a new one may have its name).
            Err(ProgramError::SyscallError(SyscallError { io_error, .. }))
                if matches!(io_error.raw_os_error(), Some(libc::ENOLINK | libc::EINVAL)) => {}
            Err(error) => return Err(error).context("replacing the program of the pinned link"),
        }
        pins::remove_pin(&place)?;
    }
    let id = program.attach(uplink, driver_mode)?;
    // aya falls back to netlink in silence, and such a program would vanish with the agent.
    let link: FdLink = program.take_link(id)?.try_into().map_err(|error| {
        anyhow!("the kernel gives no link for it ({error}): another XDP program may be attached, see `ip link show {uplink}`")
    })?;
    link.pin(&own).with_context(|| format!("pinning the link to {}", own.display()))?;
    Ok(())
}

fn open_pin(pin: &Path) -> anyhow::Result<Option<XdpLink>> {
    match PinnedLink::from_pin(pin) {
        Ok(link) => Ok(Some(FdLink::from(link).try_into().map_err(|error| {
            anyhow!("{} is not an XDP link ({error}): remove it or run `podlane cleanup`", pin.display())
        })?)),
        Err(LinkError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("opening the pinned link {}", pin.display())),
    }
}
