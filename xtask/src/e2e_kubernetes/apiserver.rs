//! A kube-apiserver, built from Debian's source package once. No package has the program itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use fs_err as fs;

use crate::progress::{heading, run_quietly};
use crate::setup::{self, Scope};

/// The release that has the package and the Go that it builds with.
const SOURCES: &str = "deb-src http://deb.debian.org/debian bookworm main\n\
                       deb-src http://deb.debian.org/debian-security bookworm-security main\n";
const PACKAGE: &str = "kubernetes";
const GO: &str = "/usr/lib/go-1.19/bin";

/// The program, from the cache or built for it.
pub(super) fn built() -> Result<PathBuf> {
    let cache = cache()?;
    let program = cache.join("kube-apiserver-1.20.2");
    if program.is_file() {
        return Ok(program);
    }
    setup::ensure(Scope::KubeApiserver)?;
    heading("A kube-apiserver, built once (about 10 minutes) and kept in the cache");
    fs::create_dir_all(&cache)?;
    let work = tempfile::Builder::new().prefix("build-").tempdir_in(&cache)?;
    let source = fetch(work.path())?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut make = Command::new("nice");
    make.args(["make", "WHAT=cmd/kube-apiserver"])
        .current_dir(&source)
        .env("PATH", format!("{GO}:{path}"))
        .env("CGO_ENABLED", "0")
        .env_remove("GOFLAGS")
        .env_remove("GOPATH");
    run_quietly("make WHAT=cmd/kube-apiserver", &mut make)?;
    let made = source.join("_output/bin/kube-apiserver");
    // Complete or not at all: beside it first, as another file system may be in between.
    let copy = work.path().join("kube-apiserver");
    fs::copy(&made, &copy)?;
    fs::rename(&copy, &program)?;
    Ok(program)
}

/// The user's cache folder: the program outlives `cargo clean`.
fn cache() -> Result<PathBuf> {
    let folder = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
    let folder = match folder {
        Some(folder) => folder,
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(folder.join("podlane"))
}

/// Downloads and unpacks the source; apt's own settings stay as they are.
fn fetch(work: &Path) -> Result<PathBuf> {
    let list = work.join("sources.list");
    fs::write(&list, SOURCES)?;
    for folder in ["lists/partial", "archives/partial"] {
        fs::create_dir_all(work.join(folder))?;
    }
    let apt = |words: &[&str]| {
        let option = |key: &str, value: &Path| format!("{key}={}", value.display());
        let options = [
            option("Dir::Etc::sourcelist", &list),
            option("Dir::Etc::sourceparts", Path::new("/dev/null")),
            option("Dir::State::lists", &work.join("lists")),
            option("Dir::Cache", work),
            "APT::Sandbox::User=".to_owned(),
            "Debug::NoLocking=1".to_owned(),
        ];
        let mut command = Command::new("apt-get");
        command.current_dir(work).args(options.iter().flat_map(|option| ["-o", option])).args(words);
        command
    };
    run_quietly("apt-get update, for sources", &mut apt(&["update"]))?;
    run_quietly("apt-get source kubernetes", &mut apt(&["source", "--download-only", PACKAGE]))?;
    let description = fs::read_dir(work)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "dsc"))
        .context("apt-get source has left no .dsc file")?;
    let source = work.join("source");
    // apt has checked the signatures already.
    let mut unpack = Command::new("dpkg-source");
    unpack.args(["--no-check", "-x"]).arg(&description).arg(&source).current_dir(work);
    run_quietly("dpkg-source -x", &mut unpack)?;
    ensure!(source.join("cmd/kube-apiserver").is_dir(), "the source package has no cmd/kube-apiserver");
    Ok(source)
}
