//! `cargo xtask e2e-kubernetes`: agents on a real kube-apiserver, by the tests of the Kubernetes source.

mod apiserver;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use crate::build::{self, Profile};
use crate::progress::heading;
use crate::setup::{self, Scope};
use crate::test;

/// Tells the tests which kube-apiserver to run.
const APISERVER: &str = "PODLANE_KUBE_APISERVER";
/// Tells the tests to use the API server of a kubeconfig.
const KUBECONFIG: &str = "PODLANE_KUBECONFIG";

/// What `cargo xtask e2e-kubernetes` takes.
#[derive(Args)]
pub(crate) struct E2eKubernetesArgs {
    /// An administrator's kubeconfig for an API server that has no nodes, instead of one that the tests start
    #[arg(long, value_name = "FILE", conflicts_with = "kube_apiserver")]
    kubeconfig: Option<PathBuf>,
    /// A kube-apiserver to start, of any version from 1.20 on, instead of the one that is built
    #[arg(long, value_name = "PROGRAM")]
    kube_apiserver: Option<PathBuf>,
    /// For the test program, as after `cargo test --`
    #[arg(last = true)]
    rest: Vec<OsString>,
}

/// Runs the subcommand.
pub(crate) fn run(args: &E2eKubernetesArgs) -> Result<()> {
    let (variable, path) = match (&args.kubeconfig, &args.kube_apiserver) {
        (Some(kubeconfig), _) => (KUBECONFIG, existing(kubeconfig)?),
        (None, Some(program)) => (APISERVER, existing(program)?),
        (None, None) => (APISERVER, apiserver::built()?),
    };
    setup::ensure(Scope::Lab)?;
    build::binaries(Profile::Dev)?;
    heading(&format!("Agents on a real API server ({variable}={})", path.display()));
    // One after another: each starts an API server of its own.
    let mut rest: Vec<OsString> = ["real_", "--test-threads=1", "--nocapture"].map(OsString::from).to_vec();
    rest.extend(args.rest.iter().cloned());
    test::lab(&["--test", "kubernetes"], &[(OsStr::new(variable), path.as_os_str())], &rest)
}

fn existing(path: &std::path::Path) -> Result<PathBuf> {
    ensure!(path.is_file(), "there is no {}", path.display());
    Ok(fs_err::canonicalize(path)?)
}
