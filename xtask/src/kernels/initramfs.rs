//! The user space of a booted kernel: busybox, `ip`, the tests, the kernel's modules, and an init that runs the tests.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use fs_err as fs;

use super::AttachMode;
use super::console::{BEGIN, END, RELEASE};
use super::package::Package;
use super::programs::{self, SUITES};
use crate::command::find;

/// Modules of the tests' interfaces, each after those it depends on.
const INTERFACES: [&str; 4] = ["udp_tunnel", "ip6_udp_tunnel", "vxlan", "veth"];

/// What clsact is made of.
const CLSACT: [&str; 2] = ["sch_ingress", "cls_bpf"];

/// Modules for a way to attach. With tcx there is no clsact to fall back to: the tests attach by tcx or fail.
fn modules(attach: AttachMode) -> Vec<&'static str> {
    match attach {
        AttachMode::Tcx => INTERFACES.to_vec(),
        AttachMode::Clsact => [&INTERFACES[..], &CLSACT].concat(),
    }
}

/// Writes the archive that this kernel boots from, with the suites' programs.
pub(super) fn write(
    archive: &Path,
    package: &Package,
    attach: AttachMode,
    tests: &[PathBuf],
    work: &Path,
) -> Result<()> {
    let root = work.join("root");
    for folder in ["bin", "tests", "modules", "proc", "sys", "dev", "tmp", "run"] {
        fs::create_dir_all(root.join(folder))?;
    }
    let busybox = tool("busybox")?;
    let ip = tool("ip")?;
    fs::copy(&busybox, root.join("bin/busybox"))?;
    std::os::unix::fs::symlink("busybox", root.join("bin/sh")).context("linking sh to busybox")?;
    fs::copy(&ip, root.join("bin/ip"))?;
    for (suite, test) in SUITES.iter().zip(tests) {
        fs::copy(test, root.join("tests").join(suite.name))?;
    }

    let mut programs: Vec<&Path> = vec![&busybox, &ip];
    programs.extend(tests.iter().map(PathBuf::as_path));
    let mut library_folders = Vec::new();
    for library in programs::libraries(&programs)? {
        // In its own place, where the loader looks for it.
        let copy = root.join(library.strip_prefix("/").unwrap_or(&library));
        if let (Some(folder), Some(in_root)) = (library.parent(), copy.parent()) {
            fs::create_dir_all(in_root)?;
            library_folders.push(folder.display().to_string());
        }
        fs::copy(&library, &copy)?;
    }
    library_folders.sort_unstable();
    library_folders.dedup();

    let mut inserted = Vec::new();
    for module in modules(attach) {
        if copy_module(module, package, &root.join("modules"))? {
            inserted.push(module);
        }
    }
    let init = root.join("init");
    fs::write(&init, script(&inserted, &library_folders.join(":")))?;
    fs::set_permissions(&init, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    pack(&busybox, &root, archive)
}

/// What runs as process 1. Its marks are read back from the console.
fn script(modules: &[&str], library_path: &str) -> String {
    let mut script = format!(
        "#!/bin/sh\n\
         export PATH=/bin LD_LIBRARY_PATH={library_path} RUST_BACKTRACE=0\n\
         busybox mount -t proc proc /proc\n\
         busybox mount -t sysfs sys /sys\n\
         busybox mount -t devtmpfs dev /dev\n\
         echo; echo \"{RELEASE} $(busybox uname -r)\"\n"
    );
    for module in modules {
        _ = writeln!(script, "busybox insmod /modules/{module}.ko");
    }
    for suite in SUITES {
        let name = suite.name;
        // One at a time: the lines of the results stay whole. Standard output of all tests: it says what was skipped.
        _ = write!(
            script,
            "echo {BEGIN} {name}\n\
             /tests/{name} {} --test-threads=1 --show-output 2>&1\n\
             echo {END} {name} $?\n",
            suite.filter
        );
    }
    script + "busybox poweroff -f\n"
}

/// Returns whether there was something to copy: what is built into the kernel need not be inserted.
fn copy_module(name: &str, package: &Package, to: &Path) -> Result<bool> {
    let places = ["lib/modules", "usr/lib/modules"].map(|place| package.folder.join(place));
    let Some(folder) = places.iter().map(|place| place.join(&package.release)).find(|place| place.is_dir())
    else {
        bail!("{} contains no lib/modules/{}", package.folder.display(), package.release);
    };
    let plain = format!("{name}.ko");
    let compressed = format!("{name}.ko.xz");
    if let Some(module) = search(&folder, &plain)? {
        fs::copy(module, to.join(plain))?;
        return Ok(true);
    }
    if let Some(module) = search(&folder, &compressed)? {
        let output = fs::File::create(to.join(plain))?;
        let mut xz = Command::new("xz");
        xz.arg("-dc").arg(&module).stdout(output.into_parts().0);
        let status = xz.status().context("starting xz")?;
        if !status.success() {
            bail!("xz cannot unpack {} ({status})", module.display());
        }
        return Ok(true);
    }
    let builtin = fs::read_to_string(folder.join("modules.builtin"))?;
    if builtin.lines().any(|line| line.ends_with(&format!("/{plain}"))) {
        return Ok(false);
    }
    bail!("kernel {} has no module {name} in {}", package.release, folder.display())
}

fn search(folder: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            if let Some(found) = search(&entry.path(), name)? {
                return Ok(Some(found));
            }
        } else if entry.file_name() == name {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

/// Packs a folder as the kernel wants it. Uncompressed: unpacking under emulation takes longer than reading.
fn pack(busybox: &Path, root: &Path, archive: &Path) -> Result<()> {
    let mut find = Command::new(busybox);
    let mut list = find.args(["find", "."]).current_dir(root).stdout(Stdio::piped()).spawn()?;
    let mut cpio = Command::new(busybox);
    cpio.args(["cpio", "-o", "-H", "newc"]).current_dir(root).stderr(Stdio::null());
    if let Some(names) = list.stdout.take() {
        cpio.stdin(names);
    }
    let packed = cpio.stdout(fs::File::create(archive)?.into_parts().0).status();
    let listed = list.wait()?;
    let packed = packed.context("starting busybox cpio")?;
    if !listed.success() || !packed.success() {
        bail!("busybox cannot pack {} (find: {listed}, cpio: {packed})", root.display());
    }
    Ok(())
}

fn tool(name: &str) -> Result<PathBuf> {
    find(name).with_context(|| format!("{name} is missing: install it, or put its folder on PATH"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_with_tcx_gets_nothing_to_fall_back_to() {
        assert!(modules(AttachMode::Clsact).ends_with(&CLSACT));
        assert_eq!(modules(AttachMode::Tcx), INTERFACES);
    }

    #[test]
    fn init_marks_the_release_and_each_suite() {
        let script = script(&["veth"], "/lib");
        for line in [
            "busybox insmod /modules/veth.ko",
            "/tests/packets  --test-threads=1 --show-output 2>&1",
            "echo podlane-end packets $?",
            "/tests/budget programs_ --test-threads=1 --show-output 2>&1",
        ] {
            assert!(script.lines().any(|found| found == line), "{line} is not in\n{script}");
        }
    }
}
