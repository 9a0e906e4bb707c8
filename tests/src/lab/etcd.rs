//! A real etcd on a node of the lab.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use serde_json::{Value, json};

use super::{Namespace, Node};
use crate::Run;

/// The port of its clients; the node's namespace has it to itself.
const PORT: u16 = 2379;
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes an authority, and certificates for the server at address `$1` and for clients called `$2`. `$0` is a folder.
const CERTIFICATES: &str = r#"
set -e
cd "$0"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=lab-ca -keyout ca.key -out ca.pem
sign() {
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$2" -keyout "$1.key" -out "$1.csr"
    openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile "$1.ext" -out "$1.pem"
}
printf 'subjectAltName=IP:%s,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n' "$1" > server.ext
printf 'extendedKeyUsage=clientAuth\n' > client.ext
sign server etcd
sign client "$2"
"#;

/// An etcd, running or not. It ends when it is dropped.
#[derive(Debug)]
pub struct Etcd {
    namespace: Namespace,
    dir: PathBuf,
    host: String,
    certificates: Option<PathBuf>,
    process: Option<Child>,
}

impl Etcd {
    /// Starts one on a node, without TLS.
    pub fn start(node: &Node) -> anyhow::Result<Self> {
        let mut etcd = Self::on(node)?;
        etcd.resume()?;
        Ok(etcd)
    }

    /// Starts one on a node that speaks TLS only and asks clients for a certificate: those in [`Self::certificates`].
    pub fn start_with_tls(node: &Node, client: &str) -> anyhow::Result<Self> {
        let mut etcd = Self::on(node)?;
        let dir = etcd.dir.join("tls");
        fs_err::create_dir_all(&dir)?;
        Run::new("sh").args(["-c", CERTIFICATES]).arg(&dir).args([&etcd.host, client]).read()?;
        etcd.certificates = Some(dir);
        etcd.resume()?;
        Ok(etcd)
    }

    fn on(node: &Node) -> anyhow::Result<Self> {
        let host = node.addresses().next().context("the node has no address")?.to_string();
        let dir = node.dir().join("etcd");
        fs_err::create_dir_all(&dir)?;
        Ok(Self { namespace: node.namespace().clone(), dir, host, certificates: None, process: None })
    }

    /// The URL that agents on any node use.
    pub fn endpoint(&self) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://{}:{PORT}", self.host)
    }

    /// `ca.pem`, `client.pem` and `client.key` are in it.
    pub fn certificates(&self) -> Option<&PathBuf> {
        self.certificates.as_ref()
    }

    /// Starts it, with what it has stored, and waits until it answers.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        ensure!(self.process.is_none(), "etcd runs already");
        let (log, _) =
            fs_err::OpenOptions::new().create(true).append(true).open(self.dir.join("log"))?.into_parts();
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.namespace.path().display()))
            .args(["--", "etcd", "--name", "lab", "--logger", "zap", "--log-level", "error", "--data-dir"])
            .arg(self.dir.join("data"))
            .arg("--listen-client-urls")
            .arg(format!("{},{}", self.endpoint(), self.local_endpoint()))
            .args(["--advertise-client-urls", &self.endpoint()])
            .args(["--listen-peer-urls", "http://127.0.0.1:2380"])
            .args(["--initial-advertise-peer-urls", "http://127.0.0.1:2380"])
            .args(["--initial-cluster", "lab=http://127.0.0.1:2380"]);
        if let Some(dir) = &self.certificates {
            for (option, file) in
                [("--cert-file", "server.pem"), ("--key-file", "server.key"), ("--trusted-ca-file", "ca.pem")]
            {
                command.arg(option).arg(dir.join(file));
            }
            command.arg("--client-cert-auth");
        }
        let child = command
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            // For machines that etcd does not know well.
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH.replace("aarch64", "arm64"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting etcd")?;
        self.process = Some(child);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let health = self.ctl(["endpoint", "health"]).finish()?;
            // With authentication, being refused is an answer as well.
            if health.code == Some(0)
                || health.stderr.contains("permission denied")
                || health.stderr.contains("user name")
            {
                return Ok(());
            }
            let log = || fs_err::read_to_string(self.dir.join("log")).unwrap_or_default();
            ensure!(
                Instant::now() < deadline,
                "etcd does not answer ({}); its log:\n{}",
                health.stderr,
                log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills it; what it has stored stays.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.process.take().context("etcd does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Forgets what it has stored; for one that is killed.
    pub fn wipe(&self) -> anyhow::Result<()> {
        ensure!(self.process.is_none(), "etcd runs");
        Ok(fs_err::remove_dir_all(self.dir.join("data"))?)
    }

    /// `etcdctl` with arguments.
    pub fn ctl<I: IntoIterator<Item: AsRef<std::ffi::OsStr>>>(&self, args: I) -> Run {
        let mut run = self
            .namespace
            .command(["env", "ETCDCTL_API=3", "etcdctl", "--command-timeout=10s", "--endpoints"])
            .arg(self.local_endpoint());
        if let Some(dir) = &self.certificates {
            for (option, file) in [("--cacert", "ca.pem"), ("--cert", "client.pem"), ("--key", "client.key")]
            {
                run = run.arg(option).arg(dir.join(file));
            }
        }
        run.args(args)
    }

    /// Puts keys and values, by etcd's JSON gateway: no process is started, so that the time it takes is etcd's.
    pub fn put_all<'a>(&self, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> anyhow::Result<()> {
        ensure!(self.certificates.is_none(), "the gateway is asked without TLS only");
        let base64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let puts: Vec<Value> = pairs
            .into_iter()
            .map(|(key, value)| json!({"requestPut": {"key": base64(key), "value": base64(value)}}))
            .collect();
        // As many operations as etcd takes in a transaction.
        for puts in puts.chunks(128) {
            let body = json!({ "success": puts }).to_string();
            let answer = self.namespace.run(|| -> anyhow::Result<String> {
                let mut stream = TcpStream::connect(("127.0.0.1", PORT))?;
                stream.set_nodelay(true)?;
                let length = body.len();
                let head = format!(
                    "POST /v3/kv/txn HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
                );
                stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer)?;
                Ok(answer)
            })??;
            ensure!(answer.contains("\"succeeded\":true"), "etcd's gateway: {answer}");
        }
        Ok(())
    }

    fn local_endpoint(&self) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{PORT}")
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // Nothing can be done about one that is gone already.
        let _ = self.kill();
    }
}
