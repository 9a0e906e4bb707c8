//! Attaching programs to interfaces: by pinned tcx links, or by clsact filters on kernels before 6.6.

use std::{fmt, io, mem, path::Path, str::FromStr};

use anyhow::{Context as _, anyhow, bail};
use aya::{
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        links::{FdLink, LinkError, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
    },
    sys::SyscallError,
};
use dataplane_common::Hook;
use serde::{Deserialize, Serialize};

use super::{
    pins::{self, Pins},
    sys,
};
use crate::failpoint::step;

/// How programs are attached on this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// tcx links: several tools' programs side by side, atomic replacement (Linux 6.6).
    Tcx,
    /// Filters on a clsact qdisc.
    Clsact,
}

/// The setting `attach`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachSetting {
    /// tcx where the kernel has it, else clsact.
    #[default]
    Auto,
    /// tcx or an error.
    Tcx,
    /// clsact even where there is tcx.
    Clsact,
}

impl fmt::Display for AttachMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

impl FromStr for AttachSetting {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "tcx" => Ok(Self::Tcx),
            "clsact" => Ok(Self::Clsact),
            _ => bail!("\"{text}\" is not a way to attach: use \"auto\", \"tcx\" or \"clsact\""),
        }
    }
}

/// A kind of device that programs are attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// A pod's host-side interface.
    Pod,
    /// An uplink.
    Uplink,
    /// The overlay device.
    Overlay,
}

impl Device {
    /// Its hooks at tc, egress first: no packet may be forwarded past flows that nobody has noted.
    pub(super) const fn hooks(self) -> [Hook; 2] {
        match self {
            Self::Pod => [Hook::ToPod, Hook::FromPod],
            Self::Uplink => [Hook::ToWire, Hook::FromWire],
            Self::Overlay => [Hook::ToWire, Hook::FromOverlay],
        }
    }
}

/// Which side of an interface a tc hook is on.
pub(super) const fn side(hook: Hook) -> TcAttachType {
    match hook {
        // At no device, but where packets leave the stack.
        Hook::PostRouting | Hook::ToPod | Hook::ToWire => TcAttachType::Egress,
        Hook::FromPod | Hook::FromWire | Hook::FromOverlay | Hook::XdpFromWire => TcAttachType::Ingress,
    }
}

/// Priority and handle of our clsact filters: fixed, so that a restarted agent replaces its own.
const PRIORITY: u16 = 50;
const HANDLE: TcHandle = TcHandle::new(0, 1);

pub(super) fn attach(
    program: &mut SchedClassifier,
    hook: Hook,
    interface: &str,
    mode: AttachMode,
    pins: &Pins,
) -> anyhow::Result<()> {
    match mode {
        AttachMode::Tcx => attach_tcx(program, hook, interface, pins),
        AttachMode::Clsact => attach_clsact(program, hook, interface),
    }
    .with_context(|| format!("attaching {} to {interface} by {mode}", hook.name()))
}

/// Detaches what an agent with another `attach` has left there, or one that had no `post_routing`: once ours runs, never
/// before.
pub(super) fn detach_other(
    hook: Hook,
    interface: &str,
    mode: AttachMode,
    post_routing: bool,
    pins: &Pins,
) -> anyhow::Result<()> {
    let other = match mode {
        AttachMode::Tcx => AttachMode::Clsact,
        AttachMode::Clsact => AttachMode::Tcx,
    };
    detach(hook, interface, other, pins)?;
    let egress = match hook {
        Hook::FromPod => Hook::ToPod,
        Hook::FromWire | Hook::FromOverlay => Hook::ToWire,
        Hook::XdpFromWire | Hook::ToPod | Hook::ToWire | Hook::PostRouting => return Ok(()),
    };
    if post_routing {
        detach(egress, interface, mode, pins)?;
        detach(egress, interface, other, pins)?;
    }
    Ok(())
}

pub(super) fn detach(hook: Hook, interface: &str, mode: AttachMode, pins: &Pins) -> anyhow::Result<()> {
    match mode {
        AttachMode::Tcx => pins.remove(&pins::name(hook, interface)),
        AttachMode::Clsact => detach_clsact(hook, interface),
    }
    .with_context(|| format!("detaching {} from {interface}", hook.name()))
}

/// Removes our clsact filter; the qdisc stays, others may use it.
pub(super) fn detach_clsact(hook: Hook, interface: &str) -> anyhow::Result<()> {
    match tc::qdisc_detach_program(interface, side(hook), hook.name()) {
        Ok(()) => Ok(()),
        // No such filter, or no such interface any more.
        Err(tc::TcError::IoError(error))
            if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV) =>
        {
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether this very program runs at the hook: its link is pinned, runs it, and hangs on the device.
pub(super) fn is_attached(
    program: &SchedClassifier,
    hook: Hook,
    interface: &str,
    mode: AttachMode,
    pins: &Pins,
) -> anyhow::Result<bool> {
    if mode == AttachMode::Clsact {
        return Ok(false);
    }
    runs_by(program.info()?.id(), interface, &pins.place(&pins::name(hook, interface)))
}

/// Whether the link that is pinned there runs this program at this interface.
pub(super) fn runs_by(program: u32, interface: &str, pin: &Path) -> anyhow::Result<bool> {
    let Some(link) = sys::open(pin)? else { return Ok(false) };
    let link = sys::link_info(&link)?;
    let device = nix::net::if_::if_nametoindex(interface).unwrap_or(0);
    Ok(link.program == program && link.ifindex == device && device != 0)
}

fn attach_tcx(program: &mut SchedClassifier, hook: Hook, interface: &str, pins: &Pins) -> anyhow::Result<()> {
    let name = pins::name(hook, interface);
    let own = pins.place(&name);
    for place in pins.places(&name) {
        let Some(link) = open_pin(&place)? else { continue };
        match program.attach_to_link(link) {
            Ok(id) => {
                // The pin keeps the link; only our descriptor of it is closed here.
                drop(program.take_link(id)?);
                if runs(program, hook, interface)? {
                    if place != own {
                        step("program swapped on a link of another layout");
                        fs_err::rename(&place, &own).context("pinning a link of another layout anew")?;
                    }
                    return Ok(());
                }
            }
            // The link's device is gone (a new one may have its name).
            Err(ProgramError::SyscallError(SyscallError { io_error, .. }))
                if io_error.raw_os_error() == Some(libc::ENOLINK) => {}
            Err(error) => return Err(error).context("replacing the program of the pinned link"),
        }
        pins::remove_pin(&place)?;
    }
    let id = program.attach_with_options(
        interface,
        side(hook),
        TcAttachOptions::TcxOrder(LinkOrder::default()),
    )?;
    let link: FdLink =
        program.take_link(id)?.try_into().map_err(|error| anyhow!("not a tcx link: {error}"))?;
    link.pin(&own).with_context(|| format!("pinning the link to {}", own.display()))?;
    Ok(())
}

fn attach_clsact(program: &mut SchedClassifier, hook: Hook, interface: &str) -> anyhow::Result<()> {
    // Not an error where another tool has added one.
    if let Err(error) = tc::qdisc_add_clsact(interface) {
        tracing::debug!(interface, %error, "clsact qdisc not added");
    }
    let existing = SchedClassifierLink::attached(interface, side(hook), PRIORITY, HANDLE, None)?;
    let id = match program.attach_to_link(existing) {
        Ok(id) => id,
        Err(_not_there) => {
            let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
            program.attach_with_options(interface, side(hook), TcAttachOptions::Netlink(options))?
        }
    };
    // A filter lives with its device; forgetting the link keeps it from being detached when the agent ends.
    mem::forget(program.take_link(id)?);
    Ok(())
}

fn runs(program: &SchedClassifier, hook: Hook, interface: &str) -> anyhow::Result<bool> {
    let own = program.info()?.id();
    let (_, programs) = SchedClassifier::query_tcx(interface, side(hook))
        .with_context(|| format!("listing the tcx programs of {interface}"))?;
    Ok(programs.iter().any(|info| info.id() == own))
}

fn open_pin(pin: &Path) -> anyhow::Result<Option<SchedClassifierLink>> {
    match PinnedLink::from_pin(pin) {
        Ok(link) => Ok(Some(FdLink::from(link).try_into().map_err(|error| {
            anyhow!("{} is not a tcx link ({error}): remove it or run `podlane cleanup`", pin.display())
        })?)),
        Err(LinkError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("opening the pinned link {}", pin.display())),
    }
}
