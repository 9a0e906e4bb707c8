//! The agent in a container as Kubernetes would run it: containerd and runc, the image's files, and exactly the
//! capabilities, mounts and environment of the DaemonSet in deploy/kubernetes/podlane.yaml.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use podlane_tests::lab::Node;
use podlane_tests::lab::containerd::{Container, Containerd};
use podlane_tests::probe::{failures, ping, source};
use podlane_tests::{Binaries, Lab, Run, manifest};
use serde::Deserialize as _;
use serde_json::{Value, json};

const ROOTFS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/image/rootfs.sh");
const PATIENCE: Duration = Duration::from_secs(60);

/// What a container gets where its manifest does not drop ALL.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

fn daemon_set() -> anyhow::Result<Value> {
    let text = fs_err::read_to_string(manifest::FILE)?;
    let documents = serde_norway::Deserializer::from_str(&text).map(Value::deserialize);
    let documents = documents.collect::<Result<Vec<_>, _>>()?;
    documents.into_iter().find(|document| document["kind"] == "DaemonSet").context("no DaemonSet")
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

/// Where a path of a real node is in the lab's node.
fn on_node(node: &Node, path: &str) -> anyhow::Result<PathBuf> {
    Ok(match path {
        "/run/podlane" => node.agent()?.run_dir(),
        "/sys/fs/bpf" => node.dir().join("bpf"),
        // The lab's namespaces have their names there, and these settings are the caller's namespace's.
        "/run/netns" | "/proc/sys/net" => path.into(),
        "/opt/cni/bin" => node.dir().join("cni-bin"),
        "/etc/cni/net.d" => node.dir().join("cni-conf"),
        other => bail!("the DaemonSet mounts {other} of the node: say what that is in the lab"),
    })
}

/// `ctr run`'s options for the pod.
fn options(lab: &Lab, node: &Node, spec: &Value) -> anyhow::Result<Vec<String>> {
    let container = &spec["containers"][0];
    ensure!(spec["hostNetwork"] == true && spec["hostPID"].is_null() && spec["initContainers"].is_null());
    let mut options = vec![
        format!("--with-ns=network:{}", node.namespace().path().display()),
        "--env=PATH=/usr/local/bin:/usr/sbin".to_owned(),
    ];
    let context = &container["securityContext"];
    ensure!(context["privileged"].is_null() && context["capabilities"]["drop"] == json!(["ALL"]));
    let wanted = strings(&context["capabilities"]["add"]);
    let dropped = DEFAULT_CAPABILITIES.iter().filter(|default| !wanted.iter().any(|cap| cap == *default));
    options.extend(dropped.map(|capability| format!("--cap-drop=CAP_{capability}")));
    options.extend(wanted.iter().map(|capability| format!("--cap-add=CAP_{capability}")));
    ensure!(context["readOnlyRootFilesystem"] == true);
    options.push("--read-only".to_owned());
    ensure!(spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault");
    options.push("--seccomp".to_owned());

    for variable in container["env"].as_array().context("env")? {
        let name = variable["name"].as_str().context("a variable's name")?;
        let value = match (&variable["value"], &variable["valueFrom"]["fieldRef"]["fieldPath"]) {
            (Value::String(value), Value::Null) => value.clone(),
            (Value::Null, Value::String(path)) if path == "spec.nodeName" => node.name().to_owned(),
            _ => bail!("where does {variable} come from?"),
        };
        options.push(format!("--env={name}={value}"));
    }
    for mount in container["volumeMounts"].as_array().context("volumeMounts")? {
        let volume = spec["volumes"].as_array().into_iter().flatten().find(|v| v["name"] == mount["name"]);
        let volume = volume.context("a mount without volume")?;
        let source = match volume["hostPath"]["path"].as_str() {
            Some(path) => on_node(node, path)?,
            None if volume["configMap"].is_object() => config(lab, node)?,
            None => bail!("what is {volume}?"),
        };
        if volume["hostPath"]["type"] == "DirectoryOrCreate" {
            fs_err::create_dir_all(&source)?;
        }
        let propagation = match mount["mountPropagation"].as_str() {
            None => "rprivate",
            Some("HostToContainer") => "rslave",
            Some(other) => bail!("{other} needs a privileged container"),
        };
        let access = if mount["readOnly"] == true { "ro" } else { "rw" };
        options.push(format!(
            "--mount=type=bind,src={},dst={},options=rbind:{propagation}:{access}",
            source.display(),
            mount["mountPath"].as_str().context("mountPath")?
        ));
    }
    Ok(options)
}

/// The ConfigMap's folder: the lab's cluster file instead of the Kubernetes API.
fn config(lab: &Lab, node: &Node) -> anyhow::Result<PathBuf> {
    let folder = node.dir().join("config-map");
    fs_err::create_dir_all(&folder)?;
    fs_err::copy(lab.cluster_file(), folder.join("cluster.yaml"))?;
    let lab_config: Value = serde_norway::from_str(&fs_err::read_to_string(node.agent()?.config_file())?)?;
    let mut config = json!({ "clusterSource": "file" });
    for key in ["tunnel", "xdp"] {
        config[key] = lab_config[key].clone();
    }
    fs_err::write(folder.join("config.yaml"), serde_norway::to_string(&config)?)?;
    Ok(folder)
}

struct Kubelet<'a> {
    node: &'a Node,
    containerd: Containerd,
    root: PathBuf,
    options: Vec<String>,
    command: Vec<String>,
}

impl<'a> Kubelet<'a> {
    fn new(lab: &'a Lab, node: &'a Node) -> anyhow::Result<Self> {
        let root = node.dir().join("image-root");
        let binaries = Binaries::find()?;
        let folder = binaries.podlane.parent().context("the binaries' folder")?;
        Run::new(ROOTFS).arg(folder).arg(&root).read()?;
        let set = daemon_set()?;
        let spec = &set["spec"]["template"]["spec"];
        Ok(Self {
            node,
            containerd: Containerd::start(node)?,
            root,
            options: options(lab, node, spec)?,
            command: strings(&spec["containers"][0]["command"]),
        })
    }

    fn start(&self, id: &str) -> anyhow::Result<Container<'_>> {
        let mut container = self.containerd.run_folder(id, &self.root, &self.options, &self.command)?;
        let deadline = Instant::now() + PATIENCE;
        let conflist = self.node.dir().join("cni-conf/10-podlane.conflist");
        loop {
            let health = self.node.agent()?.get("/healthz");
            if matches!(health, Ok((200, _))) && conflist.exists() {
                return Ok(container);
            }
            ensure!(
                Instant::now() < deadline && !container.has_ended()?,
                "the agent is not ready ({health:?}); it said:\n{}",
                container.output()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// `podlane_…` over TCP, as kubelet and Prometheus ask.
fn get(node: &Node, path: &str) -> anyhow::Result<String> {
    let url = format!("http://{}:9844{path}", node.addresses().next().context("an address")?);
    node.exec(["busybox", "wget", "-q", "-O", "-", &url])
}

/// Packets from pods that the fast path has taken.
fn forwarded(node: &Node) -> anyhow::Result<u64> {
    let metrics = get(node, "/metrics")?;
    let from_pods =
        metrics.lines().filter(|line| line.starts_with("podlane_packets_total{hook=\"from_pod\""));
    let forwarded = from_pods.filter(|line| line.contains("action=\"forward\""));
    forwarded.map(|line| Ok(line.rsplit(' ').next().context("a value")?.parse::<u64>()?)).sum()
}

fn the_agent_works_as_the_daemon_set_runs_it(settings: &[(&str, &str)]) -> anyhow::Result<()> {
    let mut lab = Lab::builder().nodes(2).ipv6(true);
    for (key, value) in settings {
        lab = lab.agent_setting(key, *value);
    }
    let lab = lab.podlane_stopped(Binaries::find()?).build()?;
    let (node, other) = (lab.node(1), lab.node(2));
    other.agent()?.start_and_wait()?;
    let kubelet = Kubelet::new(&lab, node)?;
    let agent = kubelet.start(&format!("{}-one", lab.id()))?;

    // As little as the manifest says.
    let status = fs_err::read_to_string(format!("/proc/{}/status", agent.pid()?))?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).context(name.to_owned());
    let bits = u64::from_str_radix(field("CapBnd:")?.trim(), 16)?;
    let (net_admin, sys_admin) = (1 << 12, 1 << 21);
    ensure!(bits == net_admin | sys_admin, "the container has the capabilities {bits:x}");
    ensure!(field("Seccomp:")?.trim() == "2", "no seccomp filter: {status}");

    // Namespaces that come after the container reach it; the runtime names them by either path.
    node.add_pod("a")?;
    let sandbox = node.make_sandbox("b")?;
    let call = node.call("ADD", "b", &sandbox)?;
    let netns = format!("/var/run/netns/{}", sandbox.namespace.name());
    let plugin = node.dir().join("cni-bin/podlane-cni");
    let mut installed = call.with("CNI_NETNS", netns.clone());
    installed.plugin = plugin;
    let result = installed.make()?.result()?;
    let address = result.ips.first().context("no address")?.address.ip();
    other.add_pods(&["c", "d"])?;
    lab.pods().iter().try_for_each(podlane_tests::lab::Pod::wait_until_receiving)?;
    assert_eq!(failures(&ping::ping_pairs(&lab.pod_pairs(), || {})), Vec::<String>::new());
    assert_eq!(failures(&source::check_pairs(&lab.pod_pairs(), || {})), Vec::<String>::new());
    for pod in lab.pods() {
        ping::ping(pod.namespace(), address)?;
    }

    let (status, code) = node.agent()?.status()?;
    ensure!(status["problems"] == json!([]) && code == Some(0), "{status}");
    // Masquerade too: the image's nft works.
    ensure!(node.exec(["nft", "list", "table", "inet", "podlane"])?.contains("masquerade"));
    let ready: Value = serde_json::from_str(&get(node, "/readyz")?)?;
    ensure!(ready["ready"] == true, "{ready}");
    ensure!(get(node, "/metrics")?.contains("podlane_attachments 2"));
    ensure!(forwarded(node)? > 0, "nothing took the fast path");
    let list: Value =
        serde_json::from_str(&fs_err::read_to_string(node.dir().join("cni-conf/10-podlane.conflist"))?)?;
    ensure!(list["plugins"][0]["socket"] == "/run/podlane/agent.sock", "{list}");

    // An update: traffic goes on without an agent, the runtime keeps its configuration, the next agent goes on.
    let forwarded_before = forwarded(node)?;
    agent.end("SIGTERM")?;
    ensure!(fs_err::read_dir(node.agent()?.bpf_dir())?.count() > 0, "the node has no maps without the agent");
    ensure!(node.dir().join("cni-conf/10-podlane.conflist").exists());
    assert_eq!(failures(&ping::ping_pairs(&lab.pod_pairs(), || {})), Vec::<String>::new());
    let agent = kubelet.start(&format!("{}-two", lab.id()))?;
    ensure!(get(node, "/metrics")?.contains("podlane_attachments 2"));
    // The second round of pings went without an agent.
    ensure!(forwarded(node)? > forwarded_before, "the fast path went with the agent");
    node.add_pod("e")?.wait_until_receiving()?;
    assert_eq!(failures(&ping::ping_pairs(&lab.pod_pairs(), || {})), Vec::<String>::new());
    node.del_pods(&["a", "e"])?;
    node.call("DEL", "b", &sandbox)?.with("CNI_NETNS", netns).make()?.success()?;
    ensure!(get(node, "/metrics")?.contains("podlane_attachments 0"));
    agent.end("SIGTERM")
}

#[test]
fn the_daemon_sets_capabilities_and_mounts_are_enough() -> anyhow::Result<()> {
    the_agent_works_as_the_daemon_set_runs_it(&[])
}

#[test]
fn they_are_enough_for_the_overlay_and_xdp_too() -> anyhow::Result<()> {
    the_agent_works_as_the_daemon_set_runs_it(&[("tunnel", "always"), ("xdp", "generic")])
}
