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
printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":["/bin/sleep","600"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$arch" "$sum" > "$0/config.json"
printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$1" > "$0/manifest.json"
tar -C "$0" -cf "$0/image.tar" manifest.json config.json layer.tar
"#;

/// With the CRI service. No OCI hook, no user, no registry: as little as it runs with.
const CRI_CONFIG: &str = r#"
version = 2
root = "DIR/root"
state = "DIR/state"
[grpc]
address = "DIR/sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "IMAGE"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "DIR/cni/bin"
conf_dir = "DIR/cni/conf"
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
    /// Starts it on a node and imports [`IMAGE`]; without its CRI service.
    pub fn start(node: &Node) -> anyhow::Result<Self> {
        let dir = node.dir().join("containerd");
        let config = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{0}/sock\"\n",
            dir.display()
        );
        // Its mounts, the containers' roots, go with it. What is mounted on the machine later, such as namespaces' names,
        // comes to them.
        Self::launch(node, dir, &config, &["unshare", "--mount", "--propagation", "slave", "--"])
    }

    /// Starts it on a node with its CRI service, as Kubernetes has it, and imports [`IMAGE`]. Networks are configured in
    /// [`Self::cni_conf_dir`], their plugins are in [`Self::cni_bin_dir`].
    pub fn start_cri(node: &Node) -> anyhow::Result<Self> {
        let dir = node.dir().join("cri");
        let config = CRI_CONFIG.replace("DIR", &dir.display().to_string()).replace("IMAGE", IMAGE);
        for folder in ["cni/bin", "cni/conf"] {
            fs_err::create_dir_all(dir.join(folder))?;
        }
        for plugin in ["loopback", "portmap"] {
            let path = Path::new(super::chain::DEBIAN_PLUGINS).join(plugin);
            fs_err::os::unix::fs::symlink(path, dir.join("cni/bin").join(plugin))?;
        }
        // The pods' namespaces are files that it mounts, and that the agent has to see.
        Self::launch(node, dir, &config, &[])
    }

    /// Where the CRI service looks for networks.
    pub fn cni_conf_dir(&self) -> PathBuf {
        self.dir.join("cni/conf")
    }

    /// Where the CRI service looks for plugins.
    pub fn cni_bin_dir(&self) -> PathBuf {
        self.dir.join("cni/bin")
    }

    /// The socket of its API, CRI included.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("sock")
    }

    /// What it has logged.
    pub fn daemon_log(&self) -> String {
        fs_err::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn launch(node: &Node, dir: PathBuf, config: &str, wrapper: &[&str]) -> anyhow::Result<Self> {
        fs_err::create_dir_all(&dir)?;
        fs_err::write(dir.join("config.toml"), config)?;
        let (log, _) = fs_err::File::create(dir.join("log"))?.into_parts();
        let daemon = Command::new("nsenter")
            .arg(format!("--net={}", node.namespace().path().display()))
            .arg("--")
            .args(wrapper)
            .args(["containerd", "--config"])
            .arg(dir.join("config.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting containerd")?;
        let containerd = Self { namespace: node.namespace().clone(), dir, daemon };
        let deadline = Instant::now() + PATIENCE;
        while containerd.ctr(["version"]).finish()?.code != Some(0) {
            let answers = "containerd does not answer; its log";
            ensure!(Instant::now() < deadline, "{answers}:\n{}", containerd.daemon_log());
            std::thread::sleep(Duration::from_millis(50));
        }
        let image = make_image(&containerd.dir.join("image"))?;
        let import = ["images", "import", "--snapshotter", "native"];
        // The CRI service has a namespace of its own for images and containers.
        let namespace = if config.contains("disabled_plugins") { "default" } else { "k8s.io" };
        containerd.ctr(["--namespace", namespace]).args(import).arg(image).read()?;
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

/// Makes [`IMAGE`] in a folder, as an archive; gives its path.
pub(super) fn make_image(folder: &Path) -> anyhow::Result<PathBuf> {
    fs_err::create_dir_all(folder)?;
    Run::new("sh").args(["-c", IMAGE_SCRIPT]).arg(folder).arg(IMAGE).read()?;
    Ok(folder.join("image.tar"))
}

/// A path as a word of a shell command.
pub fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
