//! An API server that does as a test says: lists in pages, watches with bookmarks, and every way of failing that the
//! real one has. It keeps nodes and pods in memory and knows nothing of users.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use podlane_tests::lab::Namespace;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Resource and name, with the namespace in front where there is one.
type Key = (String, String);

/// Something that happened.
#[derive(Clone, Debug)]
struct Change {
    version: u64,
    resource: String,
    kind: &'static str,
    object: Value,
}

/// How the server misbehaves.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Every request is answered with this status.
    pub status: Option<u16>,
    /// Every page of a list but the first is answered with this status.
    pub further_pages: Option<u16>,
    /// A list takes so long.
    pub slow: Duration,
    /// A watch from a version that is forgotten is answered with status 410, instead of an event.
    pub gone_as_status: bool,
    /// So many patches of nodes find another version than they were made for.
    pub conflicts: usize,
}

#[derive(Debug)]
struct World {
    version: u64,
    /// Watches can start from here on.
    oldest: u64,
    objects: BTreeMap<Key, Value>,
    history: Vec<Change>,
    faults: Faults,
    requests: Vec<String>,
    /// Watches that were started before are torn in the middle of a line.
    torn: u64,
}

#[derive(Debug)]
struct Shared {
    world: Mutex<World>,
    changed: watch::Sender<()>,
}

/// The server; its objects outlive its being stopped.
#[derive(Debug)]
pub struct Scripted {
    shared: Arc<Shared>,
    namespace: Option<Namespace>,
    address: SocketAddr,
    runtime: Mutex<Option<Runtime>>,
}

impl Scripted {
    /// Starts it on `address`, in a namespace or in the test's own.
    pub fn start(namespace: Option<&Namespace>, address: SocketAddr) -> anyhow::Result<Self> {
        let world = World {
            version: 1,
            oldest: 0,
            objects: BTreeMap::new(),
            history: Vec::new(),
            faults: Faults::default(),
            requests: Vec::new(),
            torn: 0,
        };
        let shared = Arc::new(Shared { world: Mutex::new(world), changed: watch::Sender::default() });
        let mut server = Self { shared, namespace: namespace.cloned(), address, runtime: Mutex::default() };
        server.address = server.resume()?;
        Ok(server)
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends it: connections break, further ones are refused.
    pub fn stop(&self) {
        if let Some(runtime) = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take() {
            runtime.shutdown_background();
        }
    }

    /// Starts it again where it was.
    pub fn resume(&self) -> anyhow::Result<SocketAddr> {
        let work = || -> anyhow::Result<(Runtime, SocketAddr)> {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
            let shared = Arc::clone(&self.shared);
            let address = runtime.block_on(async {
                // Connections of before may still be closing.
                let mut attempts = 0;
                let listener = loop {
                    match TcpListener::bind(self.address).await {
                        Ok(listener) => break listener,
                        Err(error) if attempts == 100 => return Err(error),
                        Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                    }
                    attempts += 1;
                };
                let address = listener.local_addr()?;
                let answer = move |request| respond(Arc::clone(&shared), request);
                let router: Router = Router::new().fallback(answer);
                tokio::spawn(async move { axum::serve(listener, router).await });
                Ok(address)
            })?;
            Ok((runtime, address))
        };
        let (runtime, address) = match &self.namespace {
            Some(namespace) => namespace.run(work)?,
            None => std::thread::scope(|scope| scope.spawn(work).join())
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        }
        .context("starting the scripted API server")?;
        *self.runtime.lock().unwrap_or_else(PoisonError::into_inner) = Some(runtime);
        Ok(address)
    }

    /// Changes how it misbehaves.
    pub fn fail(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.world().faults);
    }

    /// Breaks all watches, each in the middle of a line.
    pub fn tear_watches(&self) {
        self.world().torn += 1;
        self.shared.changed.send_replace(());
    }

    /// Forgets what has happened so far: watches must start from the present.
    pub fn compact(&self) {
        let mut world = self.world();
        world.version += 1;
        world.oldest = world.version;
        world.history.clear();
    }

    /// Tells the watches of a resource the present version; returns it.
    pub fn bookmark(&self, resource: &str) -> u64 {
        let mut world = self.world();
        world.version += 1;
        let version = world.version;
        let object =
            json!({"kind": "Node", "apiVersion": "v1", "metadata": {"resourceVersion": version.to_string()}});
        world.history.push(Change { version, resource: resource.to_owned(), kind: "BOOKMARK", object });
        drop(world);
        self.shared.changed.send_replace(());
        version
    }

    /// Creates or replaces an object, by `resource` (`nodes`, `pods`).
    pub fn put(&self, resource: &str, mut object: Value) {
        self.world().put(resource, &mut object);
        self.shared.changed.send_replace(());
    }

    /// The object of that name.
    pub fn object(&self, resource: &str, name: &str) -> Option<Value> {
        self.world().objects.get(&(resource.to_owned(), name.to_owned())).cloned()
    }

    /// Deletes an object.
    pub fn delete(&self, resource: &str, name: &str) {
        self.world().delete(resource, name);
        self.shared.changed.send_replace(());
    }

    /// Method, path and query of all requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.world().requests.clone()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.shared.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.stop();
    }
}

fn name_of(object: &Value) -> String {
    let meta = &object["metadata"];
    let name = meta["name"].as_str().unwrap_or_default();
    match meta["namespace"].as_str() {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

impl World {
    fn put(&mut self, resource: &str, object: &mut Value) {
        let key = (resource.to_owned(), name_of(object));
        let before = self.objects.get(&key);
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.version += 1;
        let created = before.map(|before| before["metadata"]["creationTimestamp"].clone());
        // A second is the API's resolution; the version makes an order.
        let now = format!(
            "2026-01-01T{:02}:{:02}:{:02}Z",
            self.version / 3600 % 24,
            self.version / 60 % 60,
            self.version % 60
        );
        object["metadata"]["creationTimestamp"] = created.unwrap_or_else(|| now.into());
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        object["metadata"]["managedFields"] = json!([{"manager": "kubelet", "fieldsV1": {"f:status": {}}}]);
        self.objects.insert(key, object.clone());
        self.history.push(Change {
            version: self.version,
            resource: resource.to_owned(),
            kind,
            object: object.clone(),
        });
    }

    fn delete(&mut self, resource: &str, name: &str) -> bool {
        let Some(mut object) = self.objects.remove(&(resource.to_owned(), name.to_owned())) else {
            return false;
        };
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.history.push(Change {
            version: self.version,
            resource: resource.to_owned(),
            kind: "DELETED",
            object,
        });
        true
    }
}

/// What a request asks for beside its path.
struct Query(BTreeMap<String, String>);

impl Query {
    fn of(uri: &Uri) -> Self {
        let text = uri.query().unwrap_or_default();
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        Self(
            pairs
                .map(|(key, value)| (key.to_owned(), value.replace("%3D", "=").replace("%3A", ":")))
                .collect(),
        )
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Whether an object is asked for.
    fn matches(&self, object: &Value) -> bool {
        match self.get("fieldSelector").and_then(|selector| selector.split_once('=')) {
            Some(("spec.nodeName", node)) => object["spec"]["nodeName"] == node,
            Some((key, _)) => panic!("field selector {key} is not in the script"),
            None => true,
        }
    }
}

fn answer(status: u16, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    response
}

fn refusal(code: u16, reason: &str, message: &str) -> Response<Body> {
    answer(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": message, "reason": reason, "code": code}),
    )
}

async fn respond(shared: Arc<Shared>, request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let body: Bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap_or_default();
    let faults = {
        let mut world = shared.world.lock().unwrap_or_else(PoisonError::into_inner);
        world.requests.push(format!("{} {}", head.method, head.uri));
        world.faults.clone()
    };
    if let Some(status) = faults.status {
        return Ok(refusal(status, "Scripted", "the script says so"));
    }
    let query = Query::of(&head.uri);
    let segments: Vec<&str> = head.uri.path().trim_start_matches("/api/v1/").split('/').collect();
    // namespaces/NAMESPACE/RESOURCE[/NAME], RESOURCE[/NAME[/SUBRESOURCE]]
    let (namespace, segments) = match segments.as_slice() {
        ["namespaces", namespace, rest @ ..] => (Some(*namespace), rest),
        all => (None, all),
    };
    let (resource, name) = match segments {
        [resource, name, ..] => {
            (*resource, Some(namespace.map_or((*name).to_owned(), |space| format!("{space}/{name}"))))
        }
        [resource] => (*resource, None),
        [] => return Ok(refusal(404, "NotFound", "no resource")),
    };
    let is_watch = query.get("watch").is_some_and(|value| value == "true" || value == "1");
    Ok(match (&head.method, name) {
        (&Method::GET, None) if is_watch => watch_from(&shared, resource, query, &head.headers, &faults),
        (&Method::GET, None) => {
            tokio::time::sleep(faults.slow).await;
            match faults.further_pages {
                Some(status) if query.get("continue").is_some() => {
                    refusal(status, "Scripted", "the script says so")
                }
                _ => list(&shared, resource, &query, &head.headers),
            }
        }
        (&Method::GET, Some(name)) => match shared.world().objects.get(&(resource.to_owned(), name)) {
            Some(object) => answer(200, object),
            None => refusal(404, "NotFound", "no such object"),
        },
        (&Method::POST, None) => {
            let mut object: Value = serde_json::from_slice(&body).unwrap();
            shared.world().put(resource, &mut object);
            shared.changed.send_replace(());
            answer(201, &object)
        }
        (&Method::PATCH, Some(name)) => {
            let patch: Value = serde_json::from_slice(&body).unwrap();
            let answer = apply(&shared, resource, &name, patch, segments.get(2).copied());
            shared.changed.send_replace(());
            answer
        }
        (&Method::DELETE, Some(name)) => {
            let found = shared.world().delete(resource, &name);
            shared.changed.send_replace(());
            if found {
                answer(200, &json!({"kind": "Status", "status": "Success"}))
            } else {
                refusal(404, "NotFound", "no such object")
            }
        }
        _ => refusal(405, "MethodNotAllowed", "not in the script"),
    })
}

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The object, or its metadata only where that was asked for.
fn shown(object: &Value, headers: &HeaderMap) -> Value {
    let accept = headers.get("accept").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.contains("as=PartialObjectMetadata") {
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
    } else {
        object.clone()
    }
}

fn list(shared: &Shared, resource: &str, query: &Query, headers: &HeaderMap) -> Response<Body> {
    let world = shared.world();
    let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
    let (version, after) = match query.get("continue").and_then(|token| token.split_once(':')) {
        Some((version, after)) => (version.parse().unwrap_or_default(), after.to_owned()),
        None => (world.version, String::new()),
    };
    if version < world.oldest {
        return refusal(410, "Expired", "the list is too old to go on with it");
    }
    let all: Vec<(&String, &Value)> = world
        .objects
        .iter()
        .filter(|((kind, name), object)| kind == resource && *name > after && query.matches(object))
        .map(|((_, name), object)| (name, object))
        .collect();
    let items: Vec<Value> = all.iter().take(limit).map(|(_, object)| shown(object, headers)).collect();
    let token = (all.len() > limit).then(|| format!("{version}:{}", all[limit - 1].0));
    answer(
        200,
        &json!({"kind": "List", "apiVersion": "v1", "items": items,
                "metadata": {"resourceVersion": version.to_string(), "continue": token}}),
    )
}

fn watch_from(
    shared: &Arc<Shared>,
    resource: &str,
    query: Query,
    headers: &HeaderMap,
    faults: &Faults,
) -> Response<Body> {
    let from: u64 = query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or_default();
    let (oldest, torn) = {
        let world = shared.world();
        (world.oldest, world.torn)
    };
    if from < oldest {
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                            "message": "too old resource version", "reason": "Expired", "code": 410});
        return if faults.gone_as_status {
            answer(410, &status)
        } else {
            let mut response = answer(200, &Value::Null);
            *response.body_mut() = Body::from(format!("{}\n", json!({"type": "ERROR", "object": status})));
            response
        };
    }
    let (shared, resource, headers) = (Arc::clone(shared), resource.to_owned(), headers.clone());
    let changes = shared.changed.subscribe();
    let start = (from, changes, false);
    let lines = futures_util::stream::unfold(start, move |(mut position, mut changes, broken)| {
        let (shared, resource, headers) = (Arc::clone(&shared), resource.clone(), headers.clone());
        let query = Query(query.0.clone());
        async move {
            if broken {
                // The connection is reset, as the body is not complete.
                let error = std::io::Error::other("the script says so");
                return Some((Err(error), (position, changes, true)));
            }
            loop {
                changes.borrow_and_update();
                {
                    let world = shared.world();
                    if world.torn != torn {
                        return Some((Ok(Bytes::from("{\"type\":\"MODI")), (position, changes, true)));
                    }
                    let next = world.history.iter().find(|change| {
                        change.version > position
                            && change.resource == resource
                            && (change.kind == "BOOKMARK" || query.matches(&change.object))
                    });
                    if let Some(change) = next {
                        position = change.version;
                        let object = shown(&change.object, &headers);
                        let line = format!("{}\n", json!({"type": change.kind, "object": object}));
                        return Some((Ok(Bytes::from(line)), (position, changes, false)));
                    }
                }
                if changes.changed().await.is_err() {
                    return None;
                }
            }
        }
    });
    let mut response = answer(200, &Value::Null);
    *response.body_mut() = Body::from_stream(lines);
    response
}

/// A merge patch; of a status, a strategic one as far as conditions are concerned.
fn apply(
    shared: &Shared,
    resource: &str,
    name: &str,
    patch: Value,
    subresource: Option<&str>,
) -> Response<Body> {
    let mut world = shared.world();
    let Some(mut object) = world.objects.get(&(resource.to_owned(), name.to_owned())).cloned() else {
        return refusal(404, "NotFound", "no such object");
    };
    let wanted = &patch["metadata"]["resourceVersion"];
    if subresource.is_none() && !wanted.is_null() {
        let scripted = world.faults.conflicts > 0;
        world.faults.conflicts = world.faults.conflicts.saturating_sub(1);
        if scripted {
            // Somebody else was faster.
            world.put(resource, &mut object);
        }
        if object["metadata"]["resourceVersion"] != *wanted {
            return refusal(409, "Conflict", "the object has been modified");
        }
    }
    merge(&mut object, patch);
    world.put(resource, &mut object);
    answer(200, &object)
}

fn merge(target: &mut Value, patch: Value) {
    match patch {
        Value::Object(fields) => {
            for (key, value) in fields {
                if value.is_null() {
                    if let Some(target) = target.as_object_mut() {
                        target.remove(&key);
                    }
                } else if key == "conditions" {
                    merge_conditions(&mut target[key], value);
                } else {
                    merge(&mut target[key], value);
                }
            }
        }
        other => *target = other,
    }
}

fn merge_conditions(target: &mut Value, patch: Value) {
    let mut merged = target.as_array().cloned().unwrap_or_default();
    for condition in patch.as_array().cloned().unwrap_or_default() {
        match merged.iter_mut().find(|other| other["type"] == condition["type"]) {
            Some(other) => *other = condition,
            None => merged.push(condition),
        }
    }
    *target = merged.into();
}
