//! Compiles the eBPF programs and leaves them in `OUT_DIR/podlane-ebpf`, to be embedded in the agent.
//!
//! Two worlds are supported, see `cargo xtask setup`: a rustup toolchain called `bpf` (Debian's rustc with its
//! sources, linked by set-up), else rustup's nightly with `rust-src`.

#[path = "build/static_plugin.rs"]
mod static_plugin;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, anyhow, bail};
use aya_build::{Package, Toolchain};

/// The toolchains to choose from, the best first: what `cargo xtask setup` links, what rustup offers.
const CANDIDATES: [&str; 2] = ["bpf", "nightly"];

fn main() {
    if let Err(error) = build() {
        // One line, without the backtrace that RUST_BACKTRACE would add: this is read by whoever builds.
        println!("cargo::error={}", format!("{error:#}").replace('\n', " "));
    }
}

fn build() -> anyhow::Result<()> {
    println!("cargo:rerun-if-env-changed=PODLANE_BPF_TOOLCHAIN");
    let out_dir = PathBuf::from(std::env::var_os("OUT_DIR").ok_or_else(|| anyhow!("OUT_DIR is not set"))?);
    static_plugin::prepare(&out_dir)?;
    let compiler = Compiler::choose()?;
    share_target_folder(&out_dir, &compiler.name)?;
    let llvm = compiler.llvm_folder(&out_dir)?;
    // SAFETY: a build script runs alone in its process; no other thread reads the environment.
    unsafe {
        // aya-build repeats cargo's output as warnings of this package: let only real ones through.
        std::env::set_var("CARGO_TERM_QUIET", "true");
        if !compiler.is_nightly {
            // `-Z build-std` on a stable compiler: `core` for the BPF target is built from source.
            std::env::set_var("RUSTC_BOOTSTRAP", "1");
        }
        if let Some(folder) = llvm {
            std::env::set_var("LD_LIBRARY_PATH", folder);
        }
    }
    let features: &[&str] = if is_other_version() { &["other-version"] } else { &[] };
    aya_build::build_ebpf(
        [Package { name: "dataplane-ebpf", root_dir: "../dataplane-ebpf", features, ..Default::default() }],
        Toolchain::Custom(&compiler.name),
    )
    .context("building the eBPF programs failed; where a tool is missing, `cargo xtask setup` installs it")
}

/// Whether the tests' other version is built, see CONTRIBUTING.md.
fn is_other_version() -> bool {
    std::env::var_os("CARGO_FEATURE_OTHER_VERSION").is_some()
}

/// A rustc that can build `core` for the BPF target.
struct Compiler {
    /// rustup's name for it.
    name: String,
    sysroot: PathBuf,
    is_nightly: bool,
    /// The major version of the LLVM it is built with.
    llvm: Option<u32>,
}

impl Compiler {
    fn choose() -> anyhow::Result<Self> {
        if let Ok(name) = std::env::var("PODLANE_BPF_TOOLCHAIN") {
            let compiler = Self::find(&name)
                .with_context(|| format!("PODLANE_BPF_TOOLCHAIN={name}: rustup has no such toolchain"))?;
            if !compiler.has_sources() {
                bail!("PODLANE_BPF_TOOLCHAIN={name}: it lacks rust-src, the sources of `core`");
            }
            return Ok(compiler);
        }
        CANDIDATES.into_iter().filter_map(Self::find).find(Self::has_sources).ok_or_else(|| {
            anyhow!(
                "no Rust toolchain here can build eBPF programs (neither {} comes with the sources of `core`): \
                 run `cargo xtask setup`",
                CANDIDATES.map(|name| format!("`{name}`")).join(" nor ")
            )
        })
    }

    fn find(name: &str) -> Option<Self> {
        let version = rustc(name, &["-vV"])?;
        let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "));
        Some(Self {
            name: name.to_owned(),
            sysroot: PathBuf::from(rustc(name, &["--print", "sysroot"])?.trim()),
            is_nightly: version
                .lines()
                .any(|line| line.starts_with("release: ") && line.contains("-nightly")),
            llvm: llvm.and_then(|version| version.split('.').next()?.parse().ok()),
        })
    }

    fn has_sources(&self) -> bool {
        self.sysroot.join("lib/rustlib/src/rust/library/core").is_dir()
    }

    /// A folder with a link to the LLVM of a distribution's rustc, for bpf-linker: it looks through
    /// `LD_LIBRARY_PATH` for a file whose name starts with `libLLVM`, and would take an older one from the system's
    /// folder. rustup's toolchains bring their own LLVM, and rustup sets that variable.
    fn llvm_folder(&self, out_dir: &Path) -> anyhow::Result<Option<PathBuf>> {
        let is_llvm =
            |file: &Path| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libLLVM"));
        if files(&self.sysroot.join("lib")).iter().any(|file| is_llvm(file)) {
            return Ok(None);
        }
        let Some(library) = system_llvm(&self.sysroot.join("lib"), self.llvm) else { return Ok(None) };
        let folder = out_dir.join("llvm");
        if folder.exists() {
            std::fs::remove_dir_all(&folder).with_context(|| format!("emptying {}", folder.display()))?;
        }
        std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let link = folder.join(library.file_name().unwrap_or_default());
        std::os::unix::fs::symlink(&library, &link).with_context(|| format!("linking {}", link.display()))?;
        Ok(Some(folder))
    }
}

/// What a toolchain's rustc says. Without rustup, the rustc on PATH is the only one, under every name: aya-build
/// uses it then.
fn rustc(toolchain: &str, arguments: &[&str]) -> Option<String> {
    let output = match Command::new("rustup").args(["run", toolchain, "rustc"]).args(arguments).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Command::new("rustc").args(arguments).output()
        }
        other => other,
    }
    .ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Lets clippy, dev and release builds of the agent share one build of the programs: it is the same for all of them,
/// and aya-build would repeat it (with `core`) in the `OUT_DIR` of each.
fn share_target_folder(out_dir: &Path, toolchain: &str) -> anyhow::Result<()> {
    // Cargo marks its target folder with this file.
    let Some(target) = out_dir.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists()) else {
        return Ok(());
    };
    // The files have the same names in both versions.
    let version = if is_other_version() { "-other" } else { "" };
    let shared = target.join("bpf").join(format!("{toolchain}{version}"));
    std::fs::create_dir_all(&shared).with_context(|| format!("creating {}", shared.display()))?;
    let link = out_dir.join("aya-build");
    if std::fs::read_link(&link).is_ok_and(|there| there == shared) {
        return Ok(());
    }
    if link.is_dir() && !link.is_symlink() {
        std::fs::remove_dir_all(&link).with_context(|| format!("removing {}", link.display()))?;
    } else if link.is_symlink() {
        std::fs::remove_file(&link).with_context(|| format!("removing {}", link.display()))?;
    }
    std::os::unix::fs::symlink(&shared, &link).with_context(|| format!("linking {}", link.display()))
}

/// `libLLVM.so.<major>.<minor>` of that major version (else the newest) in the folder or one below it: distributions
/// use `/usr/lib` or `/usr/lib/<triplet>`.
fn system_llvm(root: &Path, major: Option<u32>) -> Option<PathBuf> {
    let folders = files(root).into_iter().filter(|path| path.is_dir()).chain([root.to_owned()]);
    folders
        .flat_map(|folder| files(&folder))
        .filter_map(|file| {
            let name = file.file_name()?.to_str()?;
            let mut version = name.strip_prefix("libLLVM.so.")?.split('.');
            let found: u32 = version.next()?.parse().ok()?;
            let minor: u32 = version.next().and_then(|minor| minor.parse().ok()).unwrap_or(0);
            Some(((Some(found) == major, found, minor), file))
        })
        .max_by_key(|(version, _)| *version)
        .map(|(_, file)| file)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
