//! What differs between kernels, told by probing.

use anyhow::{Context as _, bail};
use aya::programs::{SchedClassifier, TcAttachType};

use super::{AttachMode, AttachSetting};

/// How programs are attached: as the operator says, else tcx where the kernel has it.
///
/// # Errors
/// Where tcx is asked for and the kernel has none.
pub(super) fn attach_mode(setting: AttachSetting) -> anyhow::Result<AttachMode> {
    let tcx = has_tcx()?;
    match setting {
        AttachSetting::Auto if tcx => Ok(AttachMode::Tcx),
        AttachSetting::Auto | AttachSetting::Clsact => Ok(AttachMode::Clsact),
        AttachSetting::Tcx if tcx => Ok(AttachMode::Tcx),
        AttachSetting::Tcx => {
            bail!(
                "attach is \"tcx\", but this kernel has no tcx (6.6 brought it): use \"auto\" or \"clsact\""
            )
        }
    }
}

/// Whether the kernel answers a query for tcx programs (Linux 6.6, commit e420bed02507).
fn has_tcx() -> anyhow::Result<bool> {
    use aya::programs::ProgramError;
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => Ok(true),
        Err(ProgramError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EINVAL) => {
            Ok(false)
        }
        Err(error) => Err(error).context("asking the kernel whether it has tcx"),
    }
}
