//! What differs between kernels, told by probing, or by the version where a difference cannot be probed.

use anyhow::{Context as _, anyhow, bail};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use serde::Serialize;

use super::{AttachMode, AttachSetting, XdpMode, kernel_types::KernelTypes};

/// What this kernel has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Features {
    /// Its release, as `uname -r` says it.
    pub kernel: String,
    /// tcx links (Linux 6.6, commit e420bed02507); probed.
    pub tcx: bool,
    /// XDP with multi-buffer frames and `bpf_xdp_get_buff_len` (Linux 5.18, commit 0165cc817075); told by the kernel's
    /// types.
    pub xdp: bool,
    /// `bpf_redirect_peer` scrubs the packet and addresses it to the pod (Linux 6.15, commit 8ec42e69eab4); by version.
    /// The programs rewrite the MAC address themselves, so both behaviours do.
    pub redirect_peer_scrubs: bool,
    /// Programs put the overlay's headers around packets (`BPF_F_ADJ_ROOM_ENCAP_L2_ETH`, Linux 5.13, commit
    /// d01b59c9ae94); told by the kernel's types. Without it packets go through the overlay device.
    pub tunnel_wrap: bool,
    /// Programs take the overlay's headers off a packet of another family too (`BPF_F_ADJ_ROOM_DECAP_L3_IPV4`, Linux 6.3,
    /// commit d219df60a70e); told by the kernel's types. Without it the overlay device does.
    pub tunnel_unwrap_mixed: bool,
    /// Programs at netfilter's hooks (Linux 6.4, commit 84601d6ee68a, with `CONFIG_NETFILTER_BPF_LINK`); told by the
    /// kernel's types. Without them flows of the stack are noted at the egress of each device.
    pub netfilter: bool,
}

impl Features {
    /// Asks the kernel.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn probe() -> anyhow::Result<Self> {
        Self::of(&KernelTypes::read()?)
    }

    /// The same, where the kernel's types are read already.
    pub(super) fn of(types: &KernelTypes) -> anyhow::Result<Self> {
        let uname = nix::sys::utsname::uname().context("asking for the kernel's version")?;
        let kernel = uname.release().to_string_lossy().into_owned();
        let version = version(&kernel)
            .ok_or_else(|| anyhow!("the kernel's version \"{kernel}\" does not start with two numbers"))?;
        Ok(Self {
            netfilter: types.mention("bpf_nf_link"),
            tunnel_wrap: types.mention("BPF_F_ADJ_ROOM_ENCAP_L2_ETH"),
            tunnel_unwrap_mixed: types.mention("BPF_F_ADJ_ROOM_DECAP_L3_IPV4"),
            kernel,
            tcx: has_tcx()?,
            xdp: types.mention("BPF_FUNC_xdp_get_buff_len"),
            redirect_peer_scrubs: version >= (6, 15),
        })
    }

    /// How programs are attached: as the operator says, else tcx where the kernel has it.
    ///
    /// # Errors
    /// Where tcx is asked for and the kernel has none.
    pub(super) fn attach_mode(&self, setting: AttachSetting) -> anyhow::Result<AttachMode> {
        match setting {
            AttachSetting::Auto if self.tcx => Ok(AttachMode::Tcx),
            AttachSetting::Auto | AttachSetting::Clsact => Ok(AttachMode::Clsact),
            AttachSetting::Tcx if self.tcx => Ok(AttachMode::Tcx),
            AttachSetting::Tcx => bail!(
                "attach is \"tcx\", but this kernel ({}) has no tcx (6.6 brought it): use \"auto\" or \"clsact\"",
                self.kernel
            ),
        }
    }

    /// # Errors
    /// Where XDP is asked for and the kernel is too old for the program.
    pub(super) fn check_xdp(&self, setting: XdpMode) -> anyhow::Result<()> {
        if setting != XdpMode::Off && !self.xdp {
            bail!(
                "xdp is \"{setting}\", but this kernel ({}) is older than 5.18, which the program needs: use \"off\"",
                self.kernel
            );
        }
        Ok(())
    }
}

/// The first two numbers of a release such as `6.1.0-13-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Whether the kernel answers a query for tcx programs.
fn has_tcx() -> anyhow::Result<bool> {
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => Ok(true),
        Err(ProgramError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EINVAL) => {
            Ok(false)
        }
        Err(error) => Err(error).context("asking the kernel whether it has tcx"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn old() -> Features {
        Features {
            kernel: "5.15.0-91-generic".into(),
            tcx: false,
            xdp: false,
            redirect_peer_scrubs: false,
            tunnel_wrap: true,
            tunnel_unwrap_mixed: false,
            netfilter: false,
        }
    }

    #[test]
    fn versions_are_read_from_every_form_of_release() {
        for (release, expected) in [
            ("6.18.5", Some((6, 18))),
            ("5.15.0-91-generic", Some((5, 15))),
            ("6.1-rc3", Some((6, 1))),
            ("linux", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
    }

    #[test]
    fn what_the_kernel_lacks_is_refused_with_the_way_out() {
        assert_eq!(old().attach_mode(AttachSetting::Auto).unwrap(), AttachMode::Clsact);
        let error = old().attach_mode(AttachSetting::Tcx).unwrap_err().to_string();
        assert!(error.contains("(5.15.0-91-generic) has no tcx") && error.contains("\"clsact\""), "{error}");
        let error = old().check_xdp(XdpMode::Native).unwrap_err().to_string();
        assert!(error.contains("xdp is \"native\"") && error.contains("use \"off\""), "{error}");
        old().check_xdp(XdpMode::Off).unwrap();
    }
}
