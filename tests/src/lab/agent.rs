//! A node's agent process.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Namespace;
use crate::{Finished, Run};

/// How long an agent may take to get ready or to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a process may take to end. A killed one that watched files is in `fsnotify_destroy_group` until a work queue of
/// the kernel's has come to it: mostly milliseconds, but a minute and more was seen while many devices were torn down.
const PATIENCE_WITH_THE_KERNEL: Duration = Duration::from_secs(240);

/// An agent, running or not.
#[derive(Debug)]
pub struct Agent {
    namespace: Namespace,
    podlane: Mutex<PathBuf>,
    path: Mutex<Option<PathBuf>>,
    dir: PathBuf,
    process: Mutex<Option<Child>>,
}

/// The folder below the node's that is a tmpfs, as `/run` is on a machine.
pub(super) const VOLATILE: &str = "volatile";

impl Agent {
    pub(super) fn new(namespace: Namespace, podlane: PathBuf, node_dir: &Path) -> Self {
        Self {
            namespace,
            podlane: Mutex::new(podlane),
            path: Mutex::default(),
            dir: node_dir.to_owned(),
            process: Mutex::default(),
        }
    }

    /// Its run directory: socket and attachment records.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join(VOLATILE).join("run")
    }

    /// Where it pins programs, links and maps; on a bpffs of the node's own.
    pub fn bpf_dir(&self) -> PathBuf {
        self.dir.join("bpf/podlane")
    }

    /// The socket of its API.
    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("agent.sock")
    }

    /// Its configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.dir.join("config.yaml")
    }

    /// Starts it; [`Self::wait_ready`] waits for it.
    pub fn start(&self) -> anyhow::Result<()> {
        self.start_binary(&self.binary())
    }

    /// Starts another build of it.
    pub fn start_binary(&self, podlane: &Path) -> anyhow::Result<()> {
        let mut process = self.process();
        ensure!(process.is_none(), "the agent in {} runs already", self.namespace.name());
        let log = fs_err::OpenOptions::new().create(true).append(true).open(self.dir.join("agent.log"))?;
        let (log, _) = log.into_parts();
        // Looked for in the child's PATH, which may hold nothing.
        let nsenter = if Path::new("/usr/bin/nsenter").exists() { "/usr/bin/nsenter" } else { "nsenter" };
        let child = Command::new(nsenter)
            .arg(format!("--net={}", self.namespace.path().display()))
            .arg("--")
            .arg(podlane)
            .arg("agent")
            .arg("--config")
            .arg(self.config_file())
            // A daemon's environment, so that what the tests' shell has set is not mistaken for settings.
            .env_clear()
            .envs(self.search_path().map(|path| ("PATH", path)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for the lab's owner; a kept lab's agents outlive it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting the agent in {}", self.namespace.name()))?;
        *process = Some(child);
        Ok(())
    }

    /// Waits until it says that it is ready; the error has its log.
    pub fn wait_ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut last;
        loop {
            match self.get("/healthz") {
                Ok((200, _)) => return Ok(()),
                Ok((status, body)) => last = format!("/healthz: {status} {body}"),
                Err(error) => last = format!("{error:#}"),
            }
            let ended = self.process().as_mut().and_then(|child| child.try_wait().transpose()).transpose()?;
            if ended.is_some() || Instant::now() > deadline {
                let state = ended
                    .map_or_else(|| format!("is not ready after {PATIENCE:?}"), |e| format!("ended ({e})"));
                bail!("the agent in {} {state}, {last}; its log:\n{}", self.namespace.name(), self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// From its next start on it finds other programs (`nft`) in this folder only.
    pub fn set_path(&self, folder: &Path) {
        *self.path.lock().unwrap_or_else(PoisonError::into_inner) = Some(folder.to_owned());
    }

    fn search_path(&self) -> Option<OsString> {
        let own = self.path.lock().unwrap_or_else(PoisonError::into_inner).clone();
        own.map(PathBuf::into_os_string).or_else(|| std::env::var_os("PATH"))
    }

    /// The program that it is.
    pub fn binary(&self) -> PathBuf {
        self.podlane.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From its next start on it is another program: an upgrade, or a downgrade.
    pub fn set_binary(&self, podlane: &Path) {
        podlane.clone_into(&mut self.podlane.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Starts it and waits until it is ready.
    pub fn start_and_wait(&self) -> anyhow::Result<()> {
        self.start()?;
        self.wait_ready()
    }

    /// Ends it as a crash would: SIGKILL.
    pub fn kill(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait_exit().map(|_| ())
    }

    /// Ends it as a service manager would: SIGTERM.
    pub fn stop(&self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait_exit()
    }

    /// Stops it, starts it again and waits until it is ready.
    pub fn restart(&self) -> anyhow::Result<()> {
        self.stop()?;
        self.start_and_wait()
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process().as_ref().map(Child::id)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.pid().with_context(|| format!("no agent runs in {}", self.namespace.name()))?;
        kill(Pid::from_raw(i32::try_from(pid)?), signal)
            .with_context(|| format!("sending {signal} to the agent"))
    }

    /// Waits for its end.
    pub fn wait_exit(&self) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE_WITH_THE_KERNEL;
        let mut process = self.process();
        let Some(child) = process.as_mut() else { bail!("no agent runs in {}", self.namespace.name()) };
        loop {
            if let Some(status) = child.try_wait()? {
                *process = None;
                return Ok(status);
            }
            ensure!(
                Instant::now() < deadline,
                "the agent in {} still runs after {PATIENCE_WITH_THE_KERNEL:?}; its log:\n{}",
                self.namespace.name(),
                self.log(),
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// All it has logged, since the lab began.
    pub fn log(&self) -> String {
        fs_err::read_to_string(self.dir.join("agent.log")).unwrap_or_default()
    }

    /// Asks its API; gives the status and the body.
    pub fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        self.ask("GET", path)
    }

    /// Lets it compare everything with what should be and mend it, now.
    pub fn reconcile(&self) -> anyhow::Result<()> {
        let (status, body) = self.ask("POST", "/v1/reconcile")?;
        ensure!(status == 200, "POST /v1/reconcile: {status} {body}");
        Ok(())
    }

    fn ask(&self, method: &str, path: &str) -> anyhow::Result<(u16, String)> {
        let socket = self.socket();
        let mut stream =
            UnixStream::connect(&socket).with_context(|| format!("connecting to {}", socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: podlane\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .with_context(|| format!("reading the answer to {method} {path}"))?;
        let status = answer.split_whitespace().nth(1).and_then(|status| status.parse().ok());
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        Ok((
            status.with_context(|| format!("{method} {path}: not an HTTP answer: {answer}"))?,
            body.to_owned(),
        ))
    }

    /// Runs a subcommand of `podlane` on the node, for this agent's directories.
    pub fn cli<I: IntoIterator<Item: AsRef<std::ffi::OsStr>>>(
        &self,
        subcommand: I,
    ) -> anyhow::Result<Finished> {
        let command: Run = self.namespace.command([self.binary()]);
        command
            .args(subcommand)
            .arg("--run-dir")
            .arg(self.run_dir())
            .arg("--bpf-dir")
            .arg(self.bpf_dir())
            .finish()
    }

    /// `podlane status -o json`: what it printed, and its exit status.
    pub fn status(&self) -> anyhow::Result<(serde_json::Value, Option<i32>)> {
        let Finished { line, code, stdout, stderr } = self.cli(["status", "-o", "json"])?;
        let value = serde_json::from_str(&stdout)
            .with_context(|| format!("`{line}` printed no JSON: {stdout:?}, stderr {stderr}"))?;
        Ok((value, code))
    }

    /// Collects an agent that was killed by the guard.
    pub(super) fn reap(&self) {
        if let Some(mut child) = self.process().take() {
            // Its namespace is gone, and it with it; anything else is past help in a destructor.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
