//! Links the CNI plugin statically, and to a fixed place: a runtime starts it for every pod, and a third of what the
//! start took was spent on looking for libraries and on relocations. Most of the rest was the C library's own start, so
//! the plugin begins before that, in `podlane-cni-start`.
//!
//! Cargo has no such setting for a single binary (`crt-static` is the whole build's), so the linker is told. Where the
//! C library has no static form the plugin is linked as everything else is.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

const PLUGIN: &str = "podlane-cni";
/// Where it begins: a function of `podlane-cni-start`.
const ENTRY: &str = "podlane_cni_start";

/// Tells cargo what the linker needs to know.
pub(super) fn prepare(out_dir: &Path) -> anyhow::Result<()> {
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    // musl is static anyway; for a foreign target this machine's linker is not asked.
    if variable("CARGO_CFG_TARGET_ENV") != "gnu" || variable("HOST") != variable("TARGET") {
        return Ok(());
    }
    let linker = std::env::var_os("RUSTC_LINKER").map_or_else(|| PathBuf::from("cc"), PathBuf::from);
    let (Some(libc), Some(libm), Some(_)) =
        (archive(&linker, "libc.a"), archive(&linker, "libm.a"), archive(&linker, "libgcc_eh.a"))
    else {
        return Ok(());
    };
    let folder = out_dir.join("static");
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    // rustc asks for shared libraries by name. These scripts, found first, name archives instead.
    for (name, inputs) in [
        ("libgcc_s.a", "-lgcc_eh -lgcc".to_owned()),
        ("libc.so", libc.display().to_string()),
        ("libm.so", libm.display().to_string()),
    ] {
        let path = folder.join(name);
        std::fs::write(&path, format!("GROUP ( {inputs} )\n"))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    for argument in [
        "-static".to_owned(),
        "-no-pie".to_owned(),
        format!("-L{}", folder.display()),
        // The three need each other.
        "-Wl,--start-group".to_owned(),
        "-lc".to_owned(),
        "-lgcc_eh".to_owned(),
        "-lgcc".to_owned(),
        "-Wl,--end-group".to_owned(),
    ] {
        println!("cargo::rustc-link-arg-bin={PLUGIN}={argument}");
    }
    if variable("CARGO_CFG_TARGET_ARCH") == "x86_64" {
        println!("cargo::rustc-link-arg-bin={PLUGIN}=-Wl,--entry={ENTRY}");
    }
    Ok(())
}

/// Where the linker finds an archive, if it does.
fn archive(linker: &Path, name: &str) -> Option<PathBuf> {
    let output = Command::new(linker).arg(format!("-print-file-name={name}")).output().ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    // A file that is not found is named as it was asked for.
    (output.status.success() && path.is_absolute() && path.exists()).then_some(path)
}
