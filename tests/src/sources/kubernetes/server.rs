//! The server: connections, lists, watches, and every way of failing that the real one has.

use std::io::BufReader;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::http::{self, Request, refusal};
use super::store::{Change, Faults, Store};
use crate::lab::Namespace;

/// How often the listening thread looks whether it should end.
const LOOK: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
struct Shared {
    store: Mutex<Store>,
    changed: Condvar,
    connections: Mutex<Vec<TcpStream>>,
}

/// A server; its objects outlive its being stopped.
#[derive(Debug)]
pub struct ScriptedApi {
    shared: Arc<Shared>,
    namespace: Option<Namespace>,
    address: SocketAddr,
    listening: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl ScriptedApi {
    /// Starts it on `address`, in a namespace or in the test's own.
    pub fn start(namespace: Option<&Namespace>, address: SocketAddr) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::default());
        shared.store().version = 1;
        let mut server = Self { shared, namespace: namespace.cloned(), address, listening: Mutex::default() };
        server.address = server.listen()?;
        Ok(server)
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends it: connections break, further ones are refused.
    pub fn stop(&self) {
        self.shared.store().stopped = true;
        self.shared.changed.notify_all();
        if let Some(thread) = lock(&self.listening).take() {
            thread.join().ok();
        }
        for connection in lock(&self.shared.connections).drain(..) {
            // One that the client has closed needs no end.
            connection.shutdown(Shutdown::Both).ok();
        }
    }

    /// Starts it again where it was.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.listen().map(drop)
    }

    fn listen(&self) -> anyhow::Result<SocketAddr> {
        let bind = || TcpListener::bind(self.address);
        let listener = match &self.namespace {
            Some(namespace) => namespace.run(bind)?,
            None => bind(),
        };
        let listener = listener.with_context(|| format!("listening on {}", self.address))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        self.shared.store().stopped = false;
        let shared = Arc::clone(&self.shared);
        *lock(&self.listening) = Some(std::thread::spawn(move || accept(&listener, &shared)));
        Ok(address)
    }

    /// Changes how it misbehaves.
    pub fn fail(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.shared.store().faults);
    }

    /// Breaks all watches, each in the middle of a line.
    pub fn tear_watches(&self) {
        self.shared.store().torn += 1;
        self.shared.changed.notify_all();
    }

    /// Forgets what has happened so far: watches must start from the present.
    pub fn compact(&self) {
        let mut store = self.shared.store();
        store.version += 1;
        store.oldest = store.version;
        store.history.clear();
    }

    /// Tells the watches of a resource the present version; returns it.
    pub fn bookmark(&self, resource: &str) -> u64 {
        let version = self.shared.store().bookmark(resource);
        self.shared.changed.notify_all();
        version
    }

    /// Creates or replaces an object, by its resource (`nodes`, `pods`).
    pub fn put(&self, resource: &str, mut object: Value) {
        self.shared.store().put(resource, &mut object);
        self.shared.changed.notify_all();
    }

    /// The object of that name (`namespace/name`, where it has one).
    pub fn object(&self, resource: &str, name: &str) -> Option<Value> {
        self.shared.store().objects.get(&(resource.to_owned(), name.to_owned())).cloned()
    }

    /// Deletes an object.
    pub fn delete(&self, resource: &str, name: &str) {
        self.shared.store().delete(resource, name);
        self.shared.changed.notify_all();
    }

    /// Method, path and query of all requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.shared.store().requests.clone()
    }
}

impl Drop for ScriptedApi {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.store().stopped {
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(LOOK);
            continue;
        };
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            let other = stream.try_clone();
            // A client that goes away is none of the server's business.
            converse(stream, &shared).ok();
            if let Ok(stream) = other {
                stream.shutdown(Shutdown::Both).ok();
            }
        });
    }
}

fn converse(stream: TcpStream, shared: &Shared) -> anyhow::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    lock(&shared.connections).push(stream.try_clone()?);
    if shared.store().stopped {
        // It was accepted in the last moment.
        return Ok(());
    }
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    while let Some(request) = Request::read(&mut reader)? {
        let faults = {
            let mut store = shared.store();
            store.requests.push(format!("{} {}", request.method, request.target));
            store.faults.clone()
        };
        let is_watch = request.parameter("watch").is_some_and(|value| value == "true" || value == "1");
        let (status, body) = match faults.status {
            Some(status) => refusal(status, "Scripted", "the script says so"),
            None if is_watch => match watch(&mut stream, shared, &request, &faults)? {
                Some(answer) => answer,
                None => continue,
            },
            None => answer(shared, &request, &faults)?,
        };
        http::respond(&mut stream, status, &body)?;
    }
    Ok(())
}

/// Resource, name and subresource of a path.
fn parts<'a>(path: &[&'a str]) -> (&'a str, Option<String>, Option<&'a str>) {
    match path {
        ["namespaces", _, resource] => (resource, None, None),
        ["namespaces", namespace, resource, name, rest @ ..] => {
            (resource, Some(format!("{namespace}/{name}")), rest.first().copied())
        }
        [resource] => (resource, None, None),
        [resource, name, rest @ ..] => (resource, Some((*name).to_owned()), rest.first().copied()),
        [] => ("", None, None),
    }
}

fn answer(shared: &Shared, request: &Request, faults: &Faults) -> anyhow::Result<(u16, Value)> {
    let path = request.path();
    let (resource, name, subresource) = parts(&path);
    let missing = || refusal(404, "NotFound", "no such object");
    let answer = match (request.method.as_str(), name) {
        ("GET", None) => {
            std::thread::sleep(faults.slow);
            match faults.further_pages {
                Some(status) if request.parameter("continue").is_some() => {
                    refusal(status, "Scripted", "the script says so")
                }
                _ => list(&shared.store(), resource, request),
            }
        }
        ("GET", Some(name)) => {
            let store = shared.store();
            let object = store.objects.get(&(resource.to_owned(), name));
            object.map_or_else(missing, |object| (200, object.clone()))
        }
        ("POST", None) => {
            let mut object = request.json()?;
            shared.store().put(resource, &mut object);
            (201, object)
        }
        ("PATCH", Some(name)) => {
            shared.store().patch(resource, &name, request.json()?, subresource.is_none())
        }
        ("DELETE", Some(name)) if shared.store().delete(resource, &name) => {
            (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
        }
        ("DELETE", Some(_)) => missing(),
        _ => refusal(405, "MethodNotAllowed", "not in the script"),
    };
    shared.changed.notify_all();
    Ok(answer)
}

/// Whether the request asks for this object.
fn matches(request: &Request, object: &Value) -> bool {
    let selector = request.parameter("fieldSelector");
    match selector.as_deref().and_then(|selector| selector.split_once('=')) {
        Some(("spec.nodeName", node)) => object["spec"]["nodeName"] == node,
        Some(_) => false,
        None => true,
    }
}

/// The object as it was asked for.
fn shown(object: &Value, request: &Request, faults: &Faults) -> Value {
    if request.metadata_only() {
        return json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]});
    }
    let mut object = object.clone();
    if faults.images > 0 && object["kind"] == "Node" {
        let image = |number| {
            let digest =
                format!("registry.example.com/team/image-{number}@sha256:{}", "0123456789abcdef".repeat(4));
            json!({"names": [digest, format!("registry.example.com/team/image-{number}:v1.2.3")], "sizeBytes": 123_456_789})
        };
        object["status"]["images"] = (0..faults.images).map(image).collect();
    }
    object
}

fn list(store: &Store, resource: &str, request: &Request) -> (u16, Value) {
    let limit = request.parameter("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
    let token = request.parameter("continue");
    let (version, after) = match token.as_deref().and_then(|token| token.split_once(':')) {
        Some((version, after)) => (version.parse().unwrap_or_default(), after),
        None => (store.version, ""),
    };
    if version < store.oldest {
        return refusal(410, "Expired", "the list is too old to go on with it");
    }
    let all = store
        .objects
        .range((resource.to_owned(), after.to_owned())..)
        .take_while(|((kind, _), _)| kind == resource)
        .filter(|((_, name), object)| name != after && matches(request, object));
    let mut page: Vec<(&String, &Value)> =
        all.take(limit.saturating_add(1)).map(|((_, name), object)| (name, object)).collect();
    let more = page.len() > limit;
    page.truncate(limit);
    let token = page.last().filter(|_| more).map(|(name, _)| format!("{version}:{name}"));
    let items: Vec<Value> = page.iter().map(|(_, object)| shown(object, request, &store.faults)).collect();
    let meta = json!({"resourceVersion": version.to_string(), "continue": token});
    (200, json!({"kind": "List", "apiVersion": "v1", "items": items, "metadata": meta}))
}

/// Sends events until the connection breaks; or gives an answer instead.
fn watch(
    stream: &mut TcpStream,
    shared: &Shared,
    request: &Request,
    faults: &Faults,
) -> anyhow::Result<Option<(u16, Value)>> {
    let path = request.path();
    let (resource, _, _) = parts(&path);
    let version = request.parameter("resourceVersion").and_then(|version| version.parse().ok());
    let mut position: u64 = version.unwrap_or_default();
    let mut store = shared.store();
    if position < store.oldest {
        drop(store);
        let (code, status) = refusal(410, "Expired", "too old resource version");
        if faults.gone_as_status {
            return Ok(Some((code, status)));
        }
        http::begin_lines(stream)?;
        http::send_line(stream, &format!("{}\n", json!({"type": "ERROR", "object": status})))?;
        http::end_lines(stream)?;
        return Ok(None);
    }
    let torn = store.torn;
    http::begin_lines(stream)?;
    while !store.stopped {
        if store.torn != torn {
            http::send_line(stream, "{\"type\":\"MODI")?;
            anyhow::bail!("torn by the script");
        }
        let wanted = |change: &&Change| {
            change.resource == resource && (change.kind == "BOOKMARK" || matches(request, &change.object))
        };
        let event = |change: &Change| {
            let object = shown(&change.object, request, &store.faults);
            format!("{}\n", json!({"type": change.kind, "object": object}))
        };
        let news = store.since(position);
        let lines: String = news.iter().filter(wanted).map(event).collect();
        position = news.last().map_or(position, |change| change.version);
        if lines.is_empty() {
            store = shared.changed.wait(store).unwrap_or_else(PoisonError::into_inner);
        } else {
            // Whoever reads slowly does not keep others from writing.
            drop(store);
            http::send_line(stream, &lines)?;
            store = shared.store();
        }
    }
    anyhow::bail!("the server stops")
}
