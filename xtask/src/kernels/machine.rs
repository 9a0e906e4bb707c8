//! A virtual machine with one kernel, without disks and network; what it says goes to a file.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::progress::run_quietly;

/// Boots it until it powers off.
pub(super) fn boot(
    label: &str,
    kernel: &Path,
    initramfs: &Path,
    console: &Path,
    limit: Duration,
) -> Result<()> {
    // It ends with us, however we end.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM"]);
    // In the foreground, so that Ctrl-C reaches it too.
    command.args(["timeout", "--foreground", "--kill-after=5", &limit.as_secs().to_string()]);
    command.arg("qemu-system-x86_64");
    // Emulated, so that it runs the same everywhere: without KVM, in containers, in other virtual machines.
    command.args(["-accel", "tcg", "-cpu", "max", "-m", "1024", "-smp", "1"]);
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none"]);
    command.arg("-chardev").arg(console_device(console));
    command.args(["-serial", "chardev:console"]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs);
    // Only emergencies from the kernel: its messages would cut the tests' lines in two. A panic ends the machine.
    command.args(["-append", "console=ttyS0 quiet loglevel=1 panic=-1"]);
    run_quietly(label, &mut command)
        .with_context(|| format!("the machine was to power off within {} s (--timeout)", limit.as_secs()))
}

/// Both to us, as a sign of life, and to a file. Commas separate qemu's options, two of them mean one.
fn console_device(file: &Path) -> String {
    format!("stdio,id=console,signal=off,logfile={}", file.display().to_string().replace(',', ",,"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_paths_do_not_become_options() {
        assert_eq!(console_device(Path::new("/a,b/c")), "stdio,id=console,signal=off,logfile=/a,,b/c");
    }
}
