//! A node: a network namespace with an uplink, and the pods on it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, bail};
use ipnetwork::IpNetwork;

use super::cni::{Call, Plugin};
use super::folder::random_hex;
use super::pod::{IF_NAME, Sandbox};
use super::{Agent, Namespace, Pod, cni};
use crate::Run;

/// A node of a lab.
#[derive(Debug)]
pub struct Node {
    name: String,
    namespace: Namespace,
    networks: Vec<IpNetwork>,
    pod_cidrs: Vec<IpNetwork>,
    dir: PathBuf,
    plugin: Option<Plugin>,
    agent: Option<Agent>,
    pods: Mutex<BTreeMap<String, Pod>>,
}

impl Node {
    pub(super) fn new(
        name: String,
        namespace: Namespace,
        networks: Vec<IpNetwork>,
        pod_cidrs: Vec<IpNetwork>,
        lab: &Path,
    ) -> Self {
        let dir = lab.join(&name);
        Self { name, namespace, networks, pod_cidrs, dir, plugin: None, agent: None, pods: Mutex::default() }
    }

    pub(super) fn set_network(&mut self, plugin: Plugin, agent: Option<Agent>) {
        self.plugin = Some(plugin);
        self.agent = agent;
    }

    pub(super) fn set_plugin(&mut self, plugin: Plugin) {
        self.plugin = Some(plugin);
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its addresses on the wire, with prefix lengths.
    pub fn networks(&self) -> &[IpNetwork] {
        &self.networks
    }

    /// Its addresses on the wire.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.networks.iter().map(IpNetwork::ip)
    }

    /// What its pods' addresses are taken from.
    pub fn pod_cidrs(&self) -> &[IpNetwork] {
        &self.pod_cidrs
    }

    /// Its folder in the lab's.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its agent; an error in a lab whose network has none.
    pub fn agent(&self) -> anyhow::Result<&Agent> {
        self.agent
            .as_ref()
            .with_context(|| format!("{} has no agent: the lab's network is not Podlane", self.name))
    }

    /// A command to run on the node.
    pub fn command<I: IntoIterator<Item: AsRef<std::ffi::OsStr>>>(&self, words: I) -> Run {
        self.namespace.command(words)
    }

    /// Runs a command on the node.
    pub fn exec<I: IntoIterator<Item: AsRef<std::ffi::OsStr>>>(&self, words: I) -> anyhow::Result<String> {
        self.command(words).read()
    }

    /// Its pods, in order of their names.
    pub fn pods(&self) -> Vec<Pod> {
        self.lock_pods().values().cloned().collect()
    }

    /// Its plugin; an error in a lab without a pod network.
    pub fn plugin(&self) -> anyhow::Result<&Plugin> {
        self.plugin
            .as_ref()
            .with_context(|| format!("{} has no CNI plugin: the lab has no pod network", self.name))
    }

    /// Makes a pod's namespace and attaches it.
    pub fn add_pod(&self, name: &str) -> anyhow::Result<Pod> {
        let sandbox = self.make_sandbox(name)?;
        self.attach(name, sandbox)
    }

    /// Makes and attaches several pods, all at once.
    pub fn add_pods<S: AsRef<str> + Sync>(&self, names: &[S]) -> anyhow::Result<Vec<Pod>> {
        at_once(names, |name| self.add_pod(name.as_ref()))
    }

    /// The same, and waits until they receive at all their addresses.
    pub fn ready_pods<const N: usize>(&self, names: [&str; N]) -> anyhow::Result<[Pod; N]> {
        let pods = self.add_pods(&names)?;
        pods.iter().try_for_each(Pod::wait_until_receiving)?;
        <[Pod; N]>::try_from(pods).map_err(|pods| anyhow::anyhow!("{} pods instead of {N}", pods.len()))
    }

    /// Attaches a sandbox.
    pub fn attach(&self, name: &str, sandbox: Sandbox) -> anyhow::Result<Pod> {
        let result = self.call("ADD", name, &sandbox)?.make()?.result();
        let result = result.with_context(|| format!("attaching pod {name} to {}", self.name))?;
        let pod = Pod::new(self, name, sandbox, result);
        self.lock_pods().insert(name.to_owned(), pod.clone());
        Ok(pod)
    }

    /// Detaches a pod and deletes its namespace.
    pub fn del_pod(&self, name: &str) -> anyhow::Result<()> {
        let Some(pod) = self.lock_pods().remove(name) else { bail!("{} has no pod {name}", self.name) };
        let detached = self.pod_call("DEL", &pod)?.make()?.success();
        detached.with_context(|| format!("detaching pod {name} from {}", self.name))?;
        pod.namespace().delete()
    }

    /// Detaches and deletes several pods, all at once.
    pub fn del_pods<S: AsRef<str> + Sync>(&self, names: &[S]) -> anyhow::Result<()> {
        at_once(names, |name| self.del_pod(name.as_ref())).map(|_| ())
    }

    /// Asks the plugin whether a pod is as it should be.
    pub fn check_pod(&self, name: &str) -> anyhow::Result<cni::Answer> {
        let Some(pod) = self.lock_pods().get(name).cloned() else { bail!("{} has no pod {name}", self.name) };
        self.pod_call("CHECK", &pod)?.make()
    }

    /// A namespace with loopback, as a runtime makes it before it calls the plugin.
    pub fn make_sandbox(&self, name: &str) -> anyhow::Result<Sandbox> {
        let namespace = Namespace::named(format!("{}-{name}", self.namespace.name()));
        namespace.create()?;
        namespace.ip(&["link set lo up".to_owned()])?;
        Ok(Sandbox { container_id: random_hex(32)?, namespace })
    }

    /// A call of the plugin for a pod that is attached.
    pub fn pod_call(&self, command: &str, pod: &Pod) -> anyhow::Result<Call> {
        let sandbox =
            Sandbox { container_id: pod.container_id().to_owned(), namespace: pod.namespace().clone() };
        self.call(command, pod.name(), &sandbox)
    }

    /// A call of the plugin as a runtime makes it, to be made or changed first.
    pub fn call(&self, command: &str, pod: &str, sandbox: &Sandbox) -> anyhow::Result<Call> {
        let plugin = self.plugin()?;
        let directory = plugin.path.parent().unwrap_or(Path::new("/"));
        let call = Call {
            namespace: self.namespace.clone(),
            plugin: plugin.path.clone(),
            environment: BTreeMap::new(),
            stdin: plugin.config.to_string(),
        };
        Ok(call
            .with("CNI_COMMAND", command)
            .with("CNI_CONTAINERID", &sandbox.container_id)
            .with("CNI_NETNS", sandbox.namespace.path().to_string_lossy())
            .with("CNI_IFNAME", IF_NAME)
            .with("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod}"))
            .with("CNI_PATH", directory.to_string_lossy()))
    }

    /// Collects what is left of an agent that was killed.
    pub(super) fn reap(&self) {
        if let Some(agent) = &self.agent {
            agent.reap();
        }
    }

    fn lock_pods(&self) -> MutexGuard<'_, BTreeMap<String, Pod>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `work` for every item on threads of their own; the first error, if any.
fn at_once<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> anyhow::Result<R> + Sync,
) -> anyhow::Result<Vec<R>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.iter().map(|item| scope.spawn(|| work(item))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}
