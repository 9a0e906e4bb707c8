//! Compiles the eBPF programs and leaves them in `OUT_DIR/podlane-ebpf`, to be embedded in the agent.
//!
//! Two worlds are supported, see `cargo xtask setup`: a rustup toolchain called `bpf` (Debian's rustc with its
//! sources, linked by set-up), else rustup's nightly with `rust-src`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, anyhow};
use aya_build::{Package, Toolchain};

/// The rustup toolchain name that `cargo xtask setup` links Debian's rustc under.
const BPF_TOOLCHAIN: &str = "bpf";

fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-env-changed=PODLANE_BPF_TOOLCHAIN");
    let toolchain = match std::env::var("PODLANE_BPF_TOOLCHAIN") {
        Ok(name) => name,
        Err(_) if has_toolchain(BPF_TOOLCHAIN) => BPF_TOOLCHAIN.to_owned(),
        Err(_) => "nightly".to_owned(),
    };
    if toolchain == BPF_TOOLCHAIN {
        // SAFETY: a build script's main runs alone in its process; no other thread reads the environment.
        unsafe {
            // `-Z build-std` on a stable compiler: `core` for the BPF target is built from source.
            std::env::set_var("RUSTC_BOOTSTRAP", "1");
            if let Some(dir) = llvm_dir()? {
                std::env::set_var("LD_LIBRARY_PATH", dir);
            }
        }
    }
    aya_build::build_ebpf(
        [Package { name: "dataplane-ebpf", root_dir: "../dataplane-ebpf", ..Default::default() }],
        Toolchain::Custom(&toolchain),
    )
    .context("building the eBPF programs failed: `cargo xtask setup` installs what that needs")
}

fn has_toolchain(name: &str) -> bool {
    Command::new("rustup")
        .args(["run", name, "rustc", "--version"])
        .output()
        .is_ok_and(|output| output.status.success())
}

/// A folder with a link to the newest LLVM, for bpf-linker: it looks through `LD_LIBRARY_PATH` for a file whose
/// name starts with `libLLVM` and would take an older one from the system's folder.
fn llvm_dir() -> anyhow::Result<Option<PathBuf>> {
    let Some(library) = newest_llvm(Path::new("/usr/lib")) else { return Ok(None) };
    let dir =
        PathBuf::from(std::env::var_os("OUT_DIR").ok_or_else(|| anyhow!("OUT_DIR is not set"))?).join("llvm");
    std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let link = dir.join(library.file_name().unwrap_or_default());
    if link.symlink_metadata().is_err() {
        std::os::unix::fs::symlink(&library, &link).with_context(|| format!("linking {}", link.display()))?;
    }
    Ok(Some(dir))
}

/// `/usr/lib/<triplet>/libLLVM.so.<major>.<minor>` with the highest version.
fn newest_llvm(root: &Path) -> Option<PathBuf> {
    let folders =
        std::fs::read_dir(root).ok()?.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    folders
        .flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten())
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let mut version = name.strip_prefix("libLLVM.so.")?.split('.');
            let major: u32 = version.next()?.parse().ok()?;
            let minor: u32 = version.next()?.parse().ok()?;
            Some(((major, minor), entry.path()))
        })
        .max_by_key(|(version, _)| *version)
        .map(|(_, path)| path)
}
