//! containerd through its CRI service, as kubelet uses it: sandboxes, containers in them, host ports.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use hyper_util::rt::TokioIo;
use k8s_cri::v1::{self as cri, runtime_service_client::RuntimeServiceClient};
use podlane_tests::lab::Node;
use podlane_tests::lab::containerd::{Containerd, IMAGE};
use podlane_tests::probe::{ping, state};
use podlane_tests::{Binaries, Lab};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::fetch;

/// containerd notices a network's configuration when it comes, a little later.
const PATIENCE: Duration = Duration::from_secs(30);
const EXEC_SECONDS: i64 = 30;
const HOST_PORT: i32 = 8080;

/// kubelet's part.
struct Kubelet<'a> {
    containerd: &'a Containerd,
    runtime: tokio::runtime::Runtime,
    client: RuntimeServiceClient<Channel>,
    sandboxes: Vec<String>,
}

/// A pod: its sandbox's id and configuration.
struct Sandbox {
    id: String,
    config: cri::PodSandboxConfig,
}

impl<'a> Kubelet<'a> {
    fn start(containerd: &'a Containerd) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let socket = containerd.socket();
        let channel = runtime.block_on(Endpoint::from_static("http://containerd").connect_with_connector(
            tower::service_fn(move |_: Uri| {
                let socket = socket.clone();
                async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
            }),
        ))?;
        let mut kubelet =
            Self { containerd, runtime, client: RuntimeServiceClient::new(channel), sandboxes: Vec::new() };
        let deadline = Instant::now() + PATIENCE;
        while !kubelet.network_is_ready()? {
            ensure!(Instant::now() < deadline, "no network; containerd's log:\n{}", containerd.daemon_log());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(kubelet)
    }

    fn network_is_ready(&mut self) -> anyhow::Result<bool> {
        let answer = self.runtime.block_on(self.client.status(cri::StatusRequest { verbose: false }))?;
        let status = answer.into_inner().status.context("no status")?;
        Ok(status.conditions.iter().any(|condition| condition.r#type == "NetworkReady" && condition.status))
    }

    /// RunPodSandbox: here the plugins are called.
    fn run_sandbox(&mut self, name: &str, host_port: Option<i32>) -> anyhow::Result<Sandbox> {
        let metadata = cri::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("{name}-uid"),
            namespace: "shop".to_owned(),
            attempt: 0,
        };
        let config = cri::PodSandboxConfig {
            metadata: Some(metadata),
            hostname: name.to_owned(),
            log_directory: self.containerd.cni_conf_dir().with_file_name("logs").display().to_string(),
            port_mappings: host_port
                .map(|host_port| cri::PortMapping {
                    protocol: cri::Protocol::Tcp.into(),
                    container_port: 80,
                    host_port,
                    host_ip: String::new(),
                })
                .into_iter()
                .collect(),
            linux: Some(cri::LinuxPodSandboxConfig::default()),
            ..Default::default()
        };
        let request =
            cri::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let answer = self.runtime.block_on(self.client.run_pod_sandbox(request));
        let answer = answer.with_context(|| format!("RunPodSandbox; {}", self.containerd.daemon_log()))?;
        let id = answer.into_inner().pod_sandbox_id;
        self.sandboxes.push(id.clone());
        Ok(Sandbox { id, config })
    }

    fn address(&mut self, sandbox: &Sandbox) -> anyhow::Result<String> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: sandbox.id.clone(), verbose: false };
        let answer = self.runtime.block_on(self.client.pod_sandbox_status(request))?;
        let network = answer.into_inner().status.and_then(|status| status.network).context("no network")?;
        Ok(network.ip)
    }

    /// CreateContainer and StartContainer; gives its id.
    fn start_container(&mut self, sandbox: &Sandbox, command: &[&str]) -> anyhow::Result<String> {
        let config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: "main".to_owned(), attempt: 0 }),
            image: Some(cri::ImageSpec { image: IMAGE.to_owned(), ..Default::default() }),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            log_path: "main.log".to_owned(),
            linux: Some(cri::LinuxContainerConfig::default()),
            ..Default::default()
        };
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.id.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox.config.clone()),
        };
        let answer =
            self.runtime.block_on(self.client.create_container(request)).context("CreateContainer")?;
        let container_id = answer.into_inner().container_id;
        let request = cri::StartContainerRequest { container_id: container_id.clone() };
        self.runtime.block_on(self.client.start_container(request)).context("StartContainer")?;
        Ok(container_id)
    }

    /// ExecSync; gives what the command printed.
    fn exec(&mut self, container: &str, command: &[&str]) -> anyhow::Result<String> {
        let request = cri::ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout: EXEC_SECONDS,
        };
        let answer = self.runtime.block_on(self.client.exec_sync(request)).context("ExecSync")?.into_inner();
        let (stdout, stderr) =
            (String::from_utf8_lossy(&answer.stdout), String::from_utf8_lossy(&answer.stderr));
        ensure!(answer.exit_code == 0, "{command:?} failed: {stdout}{stderr}");
        Ok(stdout.into_owned())
    }

    /// StopPodSandbox and RemovePodSandbox, as kubelet does: the first detaches, and may be repeated.
    fn remove_sandbox(&mut self, id: &str) -> anyhow::Result<()> {
        for _ in 0..2 {
            let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
            self.runtime.block_on(self.client.stop_pod_sandbox(request)).context("StopPodSandbox")?;
        }
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.runtime.block_on(self.client.remove_pod_sandbox(request)).context("RemovePodSandbox")?;
        self.sandboxes.retain(|other| other != id);
        Ok(())
    }
}

impl Drop for Kubelet<'_> {
    fn drop(&mut self) {
        for id in self.sandboxes.clone() {
            // A test that failed: nobody is interested in how this goes.
            let _ = self.remove_sandbox(&id);
        }
    }
}

fn service(node: &Node) -> anyhow::Result<Containerd> {
    let containerd = Containerd::start_cri(node)?;
    super::install_into(node, &containerd.cni_bin_dir(), &containerd.cni_conf_dir())?;
    Ok(containerd)
}

#[test]
fn containerds_cri_service_makes_pods_as_kubelet_asks() -> anyhow::Result<()> {
    let lab = Lab::builder().nodes(2).podlane(Binaries::find()?).build()?;
    let (one, two) = (lab.node(1), lab.node(2));
    let remote = two.add_pod("remote")?;
    let before = state::of(one)?;
    let containerd = service(one)?;
    let mut kubelet = Kubelet::start(&containerd)?;

    let cart = kubelet.run_sandbox("cart", Some(HOST_PORT))?;
    let till = kubelet.run_sandbox("till", None)?;
    let serve = "mkdir -p /tmp/www && echo goods >/tmp/www/index.html && exec httpd -f -p 80 -h /tmp/www";
    let serving = kubelet.start_container(&cart, &["/bin/sh", "-c", serve])?;
    let asking = kubelet.start_container(&till, &["/bin/sleep", "600"])?;
    let (cart_ip, till_ip) = (kubelet.address(&cart)?, kubelet.address(&till)?);

    // The agent knows the pods by Kubernetes' names.
    let (_, body) = one.agent()?.get("/v1/attachments")?;
    for name in ["shop", "cart", "till", "cart-uid"] {
        ensure!(body.contains(&format!("\"{name}\"")), "{name} is not in {body}");
    }
    // On the node and across, from inside and to inside.
    let remote_ip = remote.address().to_string();
    for (container, target) in [(&asking, &cart_ip), (&serving, &till_ip), (&asking, &remote_ip)] {
        kubelet.exec(container, &["/bin/ping", "-c", "1", "-W", "2", target])?;
    }
    ping::ping(remote.namespace(), cart_ip.parse()?)?;
    let page = kubelet.exec(&asking, &["/bin/wget", "-q", "-O", "-", &format!("http://{cart_ip}/")])?;
    ensure!(page == "goods\n", "{page}");
    // The host port, from the other node, from a pod there, and after the agent has died and come back.
    let port = (one.addresses().next().context("no address")?, HOST_PORT.try_into()?).into();
    ensure!(fetch(two.namespace(), port)? == "goods\n");
    one.agent()?.kill()?;
    one.agent()?.start_and_wait()?;
    for from in [two.namespace(), remote.namespace()] {
        ensure!(fetch(from, port)? == "goods\n");
    }

    for sandbox in [&cart, &till] {
        kubelet.remove_sandbox(&sandbox.id)?;
    }
    ensure!(fetch(two.namespace(), port).is_err(), "the host port is still there");
    drop(kubelet);
    super::same(one, &before)?;
    ensure!(!Path::new("/run/netns").join(&cart.id).exists());
    Ok(())
}
