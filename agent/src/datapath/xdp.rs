//! Attaching `xdp_from_wire` to uplinks, by pinned links.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
};

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

use super::attach::{pin_path, remove_pin};

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
pub(super) fn attach(program: &mut Xdp, uplink: &str, mode: XdpMode, links: &Path) -> anyhow::Result<()> {
    for other in [XdpMode::Generic, XdpMode::Native] {
        if other != mode {
            remove_pin(&pin(links, uplink, other))?;
        }
    }
    let driver_mode = match mode {
        XdpMode::Off => return Ok(()),
        XdpMode::Generic => xdp::XdpMode::Skb,
        XdpMode::Native => xdp::XdpMode::Driver,
    };
    attach_link(program, uplink, driver_mode, &pin(links, uplink, mode))
        .with_context(|| format!("attaching {} to {uplink}, {mode}", Hook::XdpFromWire.name()))
}

/// Detaches the program, in whichever mode it is attached.
pub(super) fn detach(uplink: &str, links: &Path) -> anyhow::Result<()> {
    remove_pin(&pin(links, uplink, XdpMode::Generic))?;
    remove_pin(&pin(links, uplink, XdpMode::Native))
}

/// The mode is part of the name: another one means another link.
fn pin(links: &Path, uplink: &str, mode: XdpMode) -> PathBuf {
    let path = pin_path(links, Hook::XdpFromWire, uplink);
    path.with_file_name(format!("{}:{mode}", path.file_name().unwrap_or_default().display()))
}

fn attach_link(program: &mut Xdp, uplink: &str, driver_mode: xdp::XdpMode, pin: &Path) -> anyhow::Result<()> {
    if let Some(link) = open_pin(pin)? {
        match program.attach_to_link(link) {
            Ok(id) => {
                // The pin keeps the link; only our descriptor of it is closed here.
                drop(program.take_link(id)?);
                return Ok(());
            }
            // The link's device is gone (a new one may have its name).
            Err(ProgramError::SyscallError(SyscallError { io_error, .. }))
                if matches!(io_error.raw_os_error(), Some(libc::ENOLINK | libc::EINVAL)) => {}
            Err(error) => return Err(error).context("replacing the program of the pinned link"),
        }
        remove_pin(pin)?;
    }
    let id = program.attach(uplink, driver_mode)?;
    // aya falls back to netlink in silence, and such a program would vanish with the agent.
    let link: FdLink = program.take_link(id)?.try_into().map_err(|error| {
        anyhow!("the kernel gives no link for it ({error}): another XDP program may be attached, see `ip link show {uplink}`")
    })?;
    link.pin(pin).with_context(|| format!("pinning the link to {}", pin.display()))?;
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
