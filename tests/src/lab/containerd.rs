//! containerd with runc on a node, apart from the machine's own: its own folders, its own view of `/etc` and `/opt`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::{Namespace, Node};
use crate::Run;

/// The image that [`Containerd::start`] imports: busybox and nothing else.
pub const IMAGE: &str = "podlane.test/busybox:1";
const PATIENCE: Duration = Duration::from_secs(30);

/// Changes made to /etc and /opt stay in the caller's mount namespace. `$0` is a folder for them.
const OVERLAYS: &str = r#"
set -e
mkdir -p "$0"
mount -t tmpfs podlane-lab "$0"
for dir in etc opt; do
    mkdir -p "$0/$dir/upper" "$0/$dir/work"
    mount -t overlay podlane-lab -o "lowerdir=/$dir,upperdir=$0/$dir/upper,workdir=$0/$dir/work" "/$dir"
done
mkdir -p /etc/cni/net.d /opt/cni/bin
"#;

/// Makes the image: an archive as `docker save` writes it, of one layer. `$0` is a folder, `$1` the image's name.
const IMAGE_SCRIPT: &str = r#"
set -e
mkdir -p "$0/root/bin" "$0/root/tmp" "$0/root/etc"
cp "$(command -v busybox)" "$0/root/bin/busybox"
for applet in sh ip ping sleep cat echo httpd wget; do ln -sf busybox "$0/root/bin/$applet"; done
tar -C "$0/root" -cf "$0/layer.tar" .
sum=$(sha256sum "$0/layer.tar" | cut -d' ' -f1)
case $(uname -m) in aarch64) arch=arm64 ;; *) arch=amd64 ;; esac
printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$arch" "$sum" > "$0/config.json"
printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$1" > "$0/manifest.json"
tar -C "$0" -cf "$0/image.tar" manifest.json config.json layer.tar
"#;

/// A running containerd. It ends, with its containers, when it is dropped.
#[derive(Debug)]
pub struct Containerd {
    namespace: Namespace,
    dir: PathBuf,
    daemon: Child,
}

/// A container in the foreground of its `ctr`, which also calls the CNI plugins.
#[derive(Debug)]
pub struct Container<'a> {
    containerd: &'a Containerd,
    id: String,
    ctr: Child,
}

impl Containerd {
    /// Starts it on a node and imports [`IMAGE`].
    pub fn start(node: &Node) -> anyhow::Result<Self> {
        let dir = node.dir().join("containerd");
        fs_err::create_dir_all(&dir)?;
        let config = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{0}/sock\"\n",
            dir.display()
        );
        fs_err::write(dir.join("config.toml"), config)?;
        let (log, _) = fs_err::File::create(dir.join("log"))?.into_parts();
        let daemon = Command::new("nsenter")
            .arg(format!("--net={}", node.namespace().path().display()))
            // Its mounts, the containers' roots, go with it.
            // What is mounted on the machine later, such as namespaces' names, comes to them.
            .args(["--", "unshare", "--mount", "--propagation", "slave", "--", "containerd", "--config"])
            .arg(dir.join("config.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting containerd")?;
        let containerd = Self { namespace: node.namespace().clone(), dir, daemon };
        let deadline = Instant::now() + PATIENCE;
        while containerd.ctr(["version"]).finish()?.code != Some(0) {
            let log = || fs_err::read_to_string(containerd.dir.join("log")).unwrap_or_default();
            ensure!(Instant::now() < deadline, "containerd does not answer; its log:\n{}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
        let image = containerd.dir.join("image");
        fs_err::create_dir_all(&image)?;
        Run::new("sh").args(["-c", IMAGE_SCRIPT]).arg(&image).arg(IMAGE).read()?;
        let import = ["images", "import", "--snapshotter", "native"];
        containerd.ctr(import).arg(image.join("image.tar")).read()?;
        Ok(containerd)
    }

    /// `ctr` with arguments.
    pub fn ctr<I: IntoIterator<Item: AsRef<std::ffi::OsStr>>>(&self, args: I) -> Run {
        let ctr = self.namespace.command(["ctr", "--address"]).arg(self.dir.join("sock"));
        ctr.args(args)
    }

    /// Runs a container as `ctr run --cni` does: it finds in /etc/cni/net.d and /opt/cni/bin what `install` puts
    /// there, a shell command.
    pub fn run(&self, id: &str, install: &str, command: &[&str]) -> anyhow::Result<Container<'_>> {
        let script = format!("{OVERLAYS}\n{install}\nexec ctr \"$@\"");
        let (log, _) = fs_err::File::create(self.log(id))?.into_parts();
        let ctr = Command::new("nsenter")
            .arg(format!("--net={}", self.namespace.path().display()))
            .args(["--", "unshare", "--mount", "--", "sh", "-c", &script])
            .arg(self.dir.join(format!("overlay-{id}")))
            .arg("--address")
            .arg(self.dir.join("sock"))
            .args(["run", "--rm", "--cni", "--snapshotter", "native", IMAGE, id])
            .args(command)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("running ctr")?;
        Ok(Container { containerd: self, id: id.to_owned(), ctr })
    }

    /// Runs a container whose root is a folder, with options of `ctr run`.
    pub fn run_folder(
        &self,
        id: &str,
        root: &Path,
        options: &[String],
        command: &[String],
    ) -> anyhow::Result<Container<'_>> {
        let (log, _) = fs_err::File::create(self.log(id))?.into_parts();
        let ctr = Command::new("nsenter")
            .arg(format!("--net={}", self.namespace.path().display()))
            .args(["--", "ctr", "--address"])
            .arg(self.dir.join("sock"))
            .args(["run", "--rm"])
            .args(options)
            .arg("--rootfs")
            .arg(root)
            .arg(id)
            .args(command)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("running ctr")?;
        Ok(Container { containerd: self, id: id.to_owned(), ctr })
    }

    fn log(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.log"))
    }
}

impl Container<'_> {
    /// Runs a command in the container.
    pub fn exec(&self, command: &[&str]) -> anyhow::Result<String> {
        let exec = format!("exec-{}", super::folder::random_hex(4)?);
        let run = self.containerd.ctr(["tasks", "exec", "--exec-id", &exec, &self.id]).args(command);
        run.read().with_context(|| format!("container {}: {}", self.id, self.output()))
    }

    /// Waits until a command in it succeeds.
    pub fn wait_for(&mut self, command: &[&str]) -> anyhow::Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let error = match self.exec(command) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let ended = self.ctr.try_wait()?;
            ensure!(ended.is_none(), "container {} ended ({ended:?}): {}", self.id, self.output());
            ensure!(Instant::now() < deadline, "container {}: {error:#}", self.id);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What it and `ctr` printed.
    pub fn output(&self) -> String {
        fs_err::read_to_string(self.containerd.log(&self.id)).unwrap_or_default()
    }

    /// The machine's process id of its first process.
    pub fn pid(&self) -> anyhow::Result<u32> {
        let list = self.containerd.ctr(["tasks", "list"]).read()?;
        let mut rows = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let row = rows.find(|row| row.first() == Some(&self.id.as_str()));
        let pid = row.and_then(|row| row.get(1).copied().map(str::to_owned));
        Ok(pid.with_context(|| format!("container {} does not run: {}", self.id, self.output()))?.parse()?)
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.ctr.try_wait()?.is_some())
    }

    /// Ends and removes it, which calls DEL.
    pub fn remove(self) -> anyhow::Result<()> {
        self.end("SIGKILL")
    }

    /// Sends it a signal that ends it, and waits for that.
    pub fn end(mut self, signal: &str) -> anyhow::Result<()> {
        self.containerd.ctr(["tasks", "kill", "--signal", signal, &self.id]).read()?;
        let deadline = Instant::now() + PATIENCE;
        while self.ctr.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "ctr does not end: {}", self.output());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if matches!(self.ctr.try_wait(), Ok(None)) {
            // A test that failed: nobody is interested in how this goes.
            let _ = self.containerd.ctr(["tasks", "kill", "--signal", "SIGKILL", &self.id]).finish();
            std::thread::sleep(Duration::from_millis(200));
            let _ = self.ctr.kill();
            let _ = self.ctr.wait();
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// A path as a word of a shell command.
pub fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
