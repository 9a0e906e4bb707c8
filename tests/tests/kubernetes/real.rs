//! A kube-apiserver on an etcd, both in a namespace of a lab; they go with it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use podlane_tests::Run;
use podlane_tests::lab::Namespace;
use serde_json::Value;

/// Names the environment variable with the path of a kube-apiserver.
const APISERVER: &str = "PODLANE_KUBE_APISERVER";
/// The administrator's token.
pub const ADMIN: &str = "administrator";
const ETCD: &str = "http://127.0.0.1:2379";

/// The programs, where they are on this machine.
#[derive(Clone, Debug)]
pub struct Programs {
    apiserver: PathBuf,
    etcd: PathBuf,
}

impl Programs {
    /// An error says what is missing.
    pub fn find() -> anyhow::Result<Self> {
        let apiserver = std::env::var_os(APISERVER).map(PathBuf::from).with_context(|| {
            format!("no kube-apiserver: `cargo xtask e2e-kubernetes` builds one ({APISERVER})")
        })?;
        ensure!(apiserver.is_file(), "{APISERVER}: there is no {}", apiserver.display());
        let path = std::env::var_os("PATH").unwrap_or_default();
        let etcd = std::env::split_paths(&path).map(|folder| folder.join("etcd")).find(|etcd| etcd.is_file());
        Ok(Self { apiserver, etcd: etcd.context("no etcd: apt-get install etcd-server")? })
    }
}

/// The two processes.
#[derive(Debug)]
pub struct Real {
    programs: Programs,
    namespace: Namespace,
    folder: PathBuf,
    address: String,
    apiserver: Mutex<Option<Child>>,
    etcd: Child,
}

impl Real {
    /// Starts both; the API server is not ready yet.
    pub fn start(
        programs: Programs,
        namespace: &Namespace,
        folder: &Path,
        address: &str,
    ) -> anyhow::Result<Self> {
        fs_err::create_dir_all(folder)?;
        Run::new("openssl").args(["genrsa", "-out"]).arg(folder.join("accounts.key")).arg("2048").read()?;
        fs_err::write(folder.join("tokens.csv"), format!("{ADMIN},{ADMIN},1,system:masters\n"))?;
        let arguments = [
            format!("--data-dir={}", folder.join("etcd").display()),
            format!("--listen-client-urls={ETCD}"),
            format!("--advertise-client-urls={ETCD}"),
            "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        ];
        let etcd = spawn(namespace, &programs.etcd, &arguments, &folder.join("etcd.log"))?;
        let server = Self {
            programs,
            namespace: namespace.clone(),
            folder: folder.to_owned(),
            address: address.to_owned(),
            apiserver: Mutex::default(),
            etcd,
        };
        server.resume()?;
        Ok(server)
    }

    /// The authority that its certificate is signed by.
    pub fn authority(&self) -> PathBuf {
        self.folder.join("certificates/apiserver.crt")
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs_err::read_to_string(self.folder.join("apiserver.log")).unwrap_or_default()
    }

    /// Kills the API server.
    pub fn stop(&self) -> anyhow::Result<()> {
        let child = self.apiserver.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut child = child.context("no API server runs")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Starts the API server again.
    pub fn resume(&self) -> anyhow::Result<()> {
        let in_folder = |name: &str| self.folder.join(name).display().to_string();
        let arguments = [
            format!("--etcd-servers={ETCD}"),
            format!("--bind-address={}", self.address),
            format!("--advertise-address={}", self.address),
            "--secure-port=6443".to_owned(),
            format!("--cert-dir={}", in_folder("certificates")),
            format!("--token-auth-file={}", in_folder("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/24".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-signing-key-file={}", in_folder("accounts.key")),
            format!("--service-account-key-file={}", in_folder("accounts.key")),
            // Pods would need a secret that a controller manager makes.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            // Two pod CIDRs a node; since 1.23 it cannot be turned off.
            "--feature-gates=IPv6DualStack=true".to_owned(),
        ];
        let child =
            spawn(&self.namespace, &self.programs.apiserver, &arguments, &self.folder.join("apiserver.log"))?;
        *self.apiserver.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        Ok(())
    }

    /// Makes etcd forget everything up to now.
    pub fn compact(&self) -> anyhow::Result<()> {
        // Something has to have happened since: a server that starts knows the version that it starts from.
        self.etcdctl(&["put", "none", "of Kubernetes' business"])?;
        // Any key: it is the answer's header that has the revision.
        let answer: Value = serde_json::from_str(&self.etcdctl(&["get", "none", "-w", "json"])?)?;
        let revision = answer["header"]["revision"].as_u64().context("etcd tells no revision")?;
        self.etcdctl(&["compact", &revision.to_string(), "--physical"]).map(drop)
    }

    fn etcdctl(&self, words: &[&str]) -> anyhow::Result<String> {
        let endpoint = ["env", "ETCDCTL_API=3", "etcdctl", "--endpoints", ETCD];
        self.namespace.command(endpoint.iter().chain(words)).read()
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        // The lab's removal would kill them too, but not reap them.
        self.stop().ok();
        self.etcd.kill().ok();
        self.etcd.wait().ok();
    }
}

fn spawn(namespace: &Namespace, program: &Path, arguments: &[String], log: &Path) -> anyhow::Result<Child> {
    let (log, _) = fs_err::OpenOptions::new().create(true).append(true).open(log)?.into_parts();
    Command::new("nsenter")
        .arg(format!("--net={}", namespace.path().display()))
        .arg("--")
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("starting {}", program.display()))
}
