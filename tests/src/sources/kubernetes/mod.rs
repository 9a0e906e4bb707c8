//! The Kubernetes API, as a server that does what a test says. It keeps nodes and pods in memory, speaks list, watch and
//! patch as the real one does, and knows nothing of users.

mod http;
mod server;
mod store;

use serde_json::{Value, json};

pub use self::server::ScriptedApi;
pub use self::store::Faults;
use super::Source;
use crate::Lab;
use crate::lab::cluster::ClusterNode;
use crate::lab::{Agent, Namespace};

/// A scripted API server on the lab's node.
#[derive(Debug)]
pub struct KubernetesSource {
    api: ScriptedApi,
}

impl KubernetesSource {
    /// Where it listens.
    const ADDRESS: &str = "192.168.1.11:6443";

    /// A kubeconfig for that server.
    pub fn kubeconfig(url: &str, token: &str, authority: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: lab\n\
             contexts: [{{name: lab, context: {{cluster: lab, user: lab}}}}]\n\
             clusters: [{{name: lab, cluster: {{server: \"{url}\"{authority}}}}}]\n\
             users: [{{name: lab, user: {{token: \"{token}\"}}}}]\n"
        )
    }

    /// Tells an agent that does not run yet to take its nodes from the API.
    pub fn configure(agent: &Agent, kubeconfig: &std::path::Path) -> anyhow::Result<()> {
        let file = agent.config_file();
        let mut config: serde_norway::Value = serde_norway::from_str(&fs_err::read_to_string(&file)?)?;
        config["clusterSource"] = "kubernetes".into();
        config["kubernetes"] = serde_norway::to_value(json!({"kubeconfig": kubeconfig}))?;
        Ok(fs_err::write(&file, serde_norway::to_string(&config)?)?)
    }

    /// A node as its kubelet and the controller manager leave it.
    pub fn object(node: &ClusterNode) -> Value {
        let internal = |address| json!({"type": "InternalIP", "address": address});
        let mut addresses: Vec<Value> = node.addresses.iter().map(internal).collect();
        addresses.push(json!({"type": "Hostname", "address": node.name}));
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": node.name, "labels": {"kubernetes.io/hostname": node.name}},
            "spec": {"podCIDR": node.pod_cidrs.first(), "podCIDRs": node.pod_cidrs},
            "status": {"addresses": addresses},
        })
    }
}

impl Source for KubernetesSource {
    fn settings() -> Vec<(&'static str, serde_norway::Value)> {
        Vec::new()
    }

    fn start(lab: &Lab) -> anyhow::Result<Self> {
        let namespace: &Namespace = lab.node(1).namespace();
        let api = ScriptedApi::start(Some(namespace), Self::ADDRESS.parse()?)?;
        let kubeconfig = lab.dir().join("kubeconfig");
        fs_err::write(&kubeconfig, Self::kubeconfig(&api.url(), "any", ""))?;
        for node in lab.nodes() {
            Self::configure(node.agent()?, &kubeconfig)?;
        }
        for node in &lab.cluster().nodes {
            api.put("nodes", Self::object(node));
        }
        // What a kubelet reports of images and conditions is the bulk of a node.
        api.fail(|faults| faults.images = 50);
        Ok(Self { api })
    }

    fn join(&mut self, node: &ClusterNode) -> anyhow::Result<()> {
        self.api.put("nodes", Self::object(node));
        Ok(())
    }

    fn change(&mut self, node: &ClusterNode) -> anyhow::Result<()> {
        self.join(node)
    }

    fn leave(&mut self, name: &str) -> anyhow::Result<()> {
        self.api.delete("nodes", name);
        Ok(())
    }

    fn garble(&mut self, name: &str) -> anyhow::Result<bool> {
        let Some(mut object) = self.api.object("nodes", name) else {
            anyhow::bail!("there is no node {name}")
        };
        object["status"]["addresses"] = json!([{"type": "InternalIP", "address": "nonsense"}]);
        self.api.put("nodes", object);
        Ok(true)
    }

    fn fail(&mut self) -> anyhow::Result<()> {
        self.api.stop();
        Ok(())
    }

    fn recover(&mut self) -> anyhow::Result<()> {
        self.api.resume()
    }
}
