//! As much of a Kubernetes API server as Helm wants to see before it writes down what it has rendered.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

/// Begins what gzip has written, in base64.
const GZIP: &[u8] = b"H4sI";

/// It serves for as long as the process lives.
pub(super) struct Api {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    version: String,
    release: Option<Vec<u8>>,
}

impl Api {
    pub(super) fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, state) = (listener.local_addr()?, Arc::<Mutex<State>>::default());
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away in the middle is its own business.
                let _ = answer(stream, &shared);
            }
        });
        Ok(Self { address, state })
    }

    pub(super) fn set_version(&self, version: &str) {
        lock(&self.state).version = version.to_owned();
    }

    /// The record that was last sent, still in base64.
    pub(super) fn take_release(&self) -> Option<Vec<u8>> {
        lock(&self.state).release.take()
    }

    pub(super) fn kubeconfig(&self) -> String {
        let cluster = json!({ "name": "here", "cluster": { "server": format!("http://{}", self.address) } });
        let context = json!({ "name": "here", "context": { "cluster": "here", "user": "me" } });
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [cluster],
            "users": [{ "name": "me", "user": {} }],
            "contexts": [context],
            "current-context": "here",
        })
        .to_string()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One request each: the answers close their connections.
fn answer(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = path.split('?').next().unwrap_or_default();
    let mut length = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (status, answer) = match method {
        "GET" => get(path, &lock(state).version),
        _ => {
            lock(state).release = release(&body);
            ("403 Forbidden", status_object(403, "Forbidden"))
        }
    };
    let answer = answer.to_string();
    write!(
        &stream,
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
        answer.len()
    )
}

fn get(path: &str, version: &str) -> (&'static str, Value) {
    let groups = ["apps", "rbac.authorization.k8s.io"];
    let found = match path {
        "/version" => {
            let mut parts = version.trim_start_matches('v').split('.');
            json!({ "major": parts.next(), "minor": parts.next(), "gitVersion": version })
        }
        "/api" => json!({ "kind": "APIVersions", "versions": ["v1"] }),
        "/apis" => {
            let group = |name: &str| {
                let version = json!({ "groupVersion": format!("{name}/v1"), "version": "v1" });
                json!({ "name": name, "versions": [version], "preferredVersion": version })
            };
            json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups.map(group) })
        }
        "/api/v1" => resources("v1", &["Secret", "ConfigMap", "ServiceAccount"]),
        "/apis/apps/v1" => resources("apps/v1", &["DaemonSet"]),
        "/apis/rbac.authorization.k8s.io/v1" => resources(
            "rbac.authorization.k8s.io/v1",
            &["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"],
        ),
        path if path.ends_with("/secrets") => {
            json!({ "kind": "SecretList", "apiVersion": "v1", "metadata": {}, "items": [] })
        }
        _ => return ("404 Not Found", status_object(404, "NotFound")),
    };
    ("200 OK", found)
}

fn resources(version: &str, kinds: &[&str]) -> Value {
    let resource = |kind: &&str| {
        json!({
            "name": format!("{}s", kind.to_lowercase()),
            "singularName": "",
            "kind": kind,
            "namespaced": !kind.starts_with("Cluster"),
            "verbs": ["create", "get", "list"],
        })
    };
    json!({
        "kind": "APIResourceList",
        "groupVersion": version,
        "resources": kinds.iter().map(resource).collect::<Vec<_>>(),
    })
}

fn status_object(code: u16, reason: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code })
}

/// The record is a Secret's only datum. The Secret comes as protobuf: its frame is nothing to us.
fn release(body: &[u8]) -> Option<Vec<u8>> {
    let start = body.windows(GZIP.len()).position(|window| window == GZIP)?;
    let base64 = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    Some(body.get(start..)?.iter().take_while(base64).copied().collect())
}
