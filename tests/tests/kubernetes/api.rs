//! An API server in a lab, the scripted or the real one, as its administrator uses it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use hyper::http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use podlane_tests::Lab;
use podlane_tests::lab::{Agent, Namespace, Node};
use podlane_tests::sources::{KubernetesSource, ScriptedApi};
use serde_json::{Value, json};

use crate::given::Given;
use crate::real::{ADMIN, Programs, Real};

/// Where it listens: on the host outside, which every node has a route to.
const ADDRESS: &str = "203.0.113.9";
const PATIENCE: Duration = Duration::from_secs(150);

/// What the agents may do in the cluster, as it is shipped.
const RBAC: &str = include_str!("../../../deploy/kubernetes/rbac.yaml");

/// Which server.
#[derive(Debug)]
enum Server {
    Scripted(ScriptedApi),
    Real(Real),
    Given(Given),
}

/// The server and how to reach it.
#[derive(Debug)]
pub struct Api {
    outside: Namespace,
    folder: PathBuf,
    server: Server,
}

impl Api {
    /// The server that follows a script.
    pub fn scripted(lab: &Lab) -> anyhow::Result<Self> {
        let address = format!("{ADDRESS}:6443").parse()?;
        let server = ScriptedApi::start(Some(lab.outside()?), address)?;
        Self::of(lab, Server::Scripted(server))
    }

    /// A kube-apiserver, with Podlane's service account and its rights.
    pub fn real(lab: &Lab, programs: Programs) -> anyhow::Result<Self> {
        let folder = lab.dir().join("kubernetes");
        let server = Real::start(programs, lab.outside()?, &folder, ADDRESS)?;
        let api = Self::of(lab, Server::Real(server))?;
        api.wait_ready()?;
        api.give_rights()?;
        Ok(api)
    }

    /// The server of a kubeconfig: without nodes, as what it is told of the lab's would disturb a cluster.
    pub fn given(lab: &Lab, kubeconfig: &Path) -> anyhow::Result<Self> {
        let server = Given::start(kubeconfig, lab.outside()?, &format!("{ADDRESS}:6443"))?;
        let api = Self::of(lab, Server::Given(server))?;
        let nodes = api.get("/api/v1/nodes?limit=1")?;
        ensure!(
            nodes["items"] == json!([]),
            "the API server of {} has nodes: these tests are for one without any",
            kubeconfig.display()
        );
        api.give_rights()?;
        Ok(api)
    }

    /// As an operator does with `kubectl apply -f deploy/kubernetes/rbac.yaml`.
    fn give_rights(&self) -> anyhow::Result<()> {
        for document in RBAC.split("\n---\n") {
            let object: Value = serde_norway::from_str(document)?;
            let path = match object["kind"].as_str() {
                Some("ServiceAccount") => "/api/v1/namespaces/kube-system/serviceaccounts",
                Some("ClusterRole") => "/apis/rbac.authorization.k8s.io/v1/clusterroles",
                Some("ClusterRoleBinding") => "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
                kind => bail!("rbac.yaml has a {kind:?}, which this test does not know"),
            };
            let created = self.create(path, &object);
            ensure!(created.is_ok() || is_conflict(&created), "{created:?}");
        }
        Ok(())
    }

    fn of(lab: &Lab, server: Server) -> anyhow::Result<Self> {
        Ok(Self { outside: lab.outside()?.clone(), folder: lab.dir().to_owned(), server })
    }

    /// Whether it is a kube-apiserver.
    pub fn is_real(&self) -> bool {
        !matches!(self.server, Server::Scripted(_))
    }

    /// Ends it, as a crash would.
    pub fn stop(&self) -> anyhow::Result<()> {
        match &self.server {
            Server::Scripted(server) => server.stop(),
            Server::Real(server) => server.stop()?,
            Server::Given(server) => server.stop(),
        }
        Ok(())
    }

    /// Starts it again.
    pub fn resume(&self) -> anyhow::Result<()> {
        match &self.server {
            Server::Scripted(server) => server.resume()?,
            Server::Real(server) => server.resume()?,
            Server::Given(server) => server.resume()?,
        }
        self.wait_ready()
    }

    /// Makes it forget what has happened so far: watches have to start from a new list. `false` if that cannot be done.
    pub fn forget(&self) -> anyhow::Result<bool> {
        match &self.server {
            Server::Scripted(server) => server.compact(),
            Server::Real(server) => server.compact()?,
            Server::Given(_) => return Ok(false),
        }
        Ok(true)
    }

    fn wait_ready(&self) -> anyhow::Result<()> {
        let Server::Real(server) = &self.server else { return Ok(()) };
        let deadline = Instant::now() + PATIENCE;
        // The namespace is the last thing that it makes before the first object can be made.
        while let Err(error) = self.get("/api/v1/namespaces/kube-system") {
            ensure!(
                Instant::now() < deadline,
                "kube-apiserver is not ready: {error:#}; its log:\n{}",
                server.log()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// A kubeconfig for a token.
    pub fn kubeconfig(&self, token: &str) -> anyhow::Result<String> {
        let (scheme, authority) = match &self.server {
            Server::Given(server) => return server.kubeconfig(Some(token).filter(|token| *token != ADMIN)),
            Server::Scripted(_) => ("http", String::new()),
            Server::Real(server) => {
                ("https", format!(", certificate-authority: \"{}\"", server.authority().display()))
            }
        };
        Ok(KubernetesSource::kubeconfig(&format!("{scheme}://{ADDRESS}:6443"), token, &authority))
    }

    /// A token of the agents' service account.
    pub fn account_token(&self) -> anyhow::Result<String> {
        if !self.is_real() {
            return Ok("any".to_owned());
        }
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
                             "spec": {"expirationSeconds": 3600}});
        let answer = self.create("/api/v1/namespaces/kube-system/serviceaccounts/podlane/token", &request)?;
        Ok(answer["status"]["token"].as_str().context("no token")?.to_owned())
    }

    /// Tells the agents to take their nodes from here.
    pub fn use_by(&self, nodes: &[Node]) -> anyhow::Result<()> {
        let path = self.folder.join("kubeconfig");
        fs_err::write(&path, self.kubeconfig(&self.account_token()?)?)?;
        for node in nodes {
            KubernetesSource::configure(node.agent()?, &path)?;
        }
        Ok(())
    }

    /// A request of the administrator.
    pub fn request(&self, method: &str, path: &str, kind: &str, body: &Value) -> anyhow::Result<Value> {
        self.request_as(ADMIN, method, path, kind, body)
    }

    /// A request of the token's owner; an error has the HTTP status.
    pub fn request_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        kind: &str,
        body: &Value,
    ) -> anyhow::Result<Value> {
        let kubeconfig = Kubeconfig::from_yaml(&self.kubeconfig(token)?)?;
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = Request::builder().method(method).uri(path).header("content-type", kind).body(body)?;
        let answer = self.outside.run(|| -> anyhow::Result<Value> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let config =
                    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
                Ok(Client::try_from(config)?.request(request).await?)
            })
        })?;
        answer.with_context(|| format!("{method} {path}"))
    }

    /// The object at that path.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.request("GET", path, "application/json", &Value::Null)
    }

    /// Adds an object to the collection at that path.
    pub fn create(&self, path: &str, object: &Value) -> anyhow::Result<Value> {
        self.request("POST", path, "application/json", object)
    }

    /// Changes the object at that path.
    pub fn merge(&self, path: &str, patch: &Value) -> anyhow::Result<Value> {
        self.request("PATCH", path, "application/merge-patch+json", patch)
    }

    /// Deletes the object at that path.
    pub fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.request("DELETE", path, "application/json", &Value::Null)
    }
}

fn is_conflict(answer: &anyhow::Result<Value>) -> bool {
    answer.as_ref().is_err_and(|error| format!("{error:#}").contains("already exists"))
}

impl Drop for Api {
    /// An API server that others use keeps nothing of a test.
    fn drop(&mut self) {
        if matches!(self.server, Server::Given(_)) {
            for path in [
                "/api/v1/namespaces/default/pods/cart",
                "/api/v1/nodes/node1",
                "/api/v1/nodes/node2",
                "/api/v1/nodes/node3",
            ] {
                // What was never made need not be deleted. No kubelet would end the pod.
                let now = json!({"gracePeriodSeconds": 0});
                self.request("DELETE", path, "application/json", &now).ok();
            }
        }
    }
}

/// Waits until `podlane status` says something; fails with what it said last.
pub fn wait_for_status(agent: &Agent, what: &str, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // An agent that starts does not answer at once.
        let status = agent.status().map(|(status, _)| status);
        if status.as_ref().is_ok_and(&wanted) {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "`podlane status` never {what}: {status:?}; the log:\n{}",
            agent.log()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until something holds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds()? {
        ensure!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
