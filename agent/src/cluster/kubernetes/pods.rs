//! The pods of this node, by name: their labels, for people. Forwarding needs none of it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use futures_util::StreamExt as _;
use kube::{
    Api, Resource as _,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};

use super::{nodes::is_gone, objects::PodObject};

/// Pods in one answer.
const PAGE: u32 = 50;

/// What the cluster says of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodDetails {
    /// Its UID: a pod that was replaced has another one under the same name.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

type Pods = HashMap<(String, String), Arc<PodDetails>>;

/// The pods of this node as far as they are known; empty where the source knows of none.
#[derive(Clone, Debug, Default)]
pub struct PodDirectory {
    pods: Arc<RwLock<Pods>>,
}

impl PodDirectory {
    /// The pod of this namespace and name.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<PodDetails>> {
        let pods = self.pods.read().unwrap_or_else(PoisonError::into_inner);
        pods.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pods.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn change(&self, change: impl FnOnce(&mut Pods)) {
        change(&mut self.pods.write().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Keeps the directory as the API says; what it said last stays while it is away. Never ends.
pub(super) async fn keep(api: Api<PodObject>, node: &str, directory: &PodDirectory) {
    let settings = || watcher::Config::default().fields(&format!("spec.nodeName={node}")).page_size(PAGE);
    let start = || Box::pin(watcher(api.clone(), settings()).default_backoff());
    let mut events = start();
    let mut listing = Pods::new();
    let mut failing = false;
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) if is_gone(&error) => {
                events = start();
                continue;
            }
            Err(
                error @ (watcher::Error::InitialListFailed(_)
                | watcher::Error::WatchStartFailed(_)
                | watcher::Error::WatchFailed(kube::Error::Api(_))),
            ) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(
                        error = format!("{:#}", anyhow::Error::new(error)),
                        "the pods of this node cannot be read: their labels may be old"
                    );
                }
                continue;
            }
            Err(_) => continue,
        };
        failing = false;
        match event {
            Event::Init => listing.clear(),
            Event::InitApply(pod) => drop(listing.insert(key(&pod), details(pod))),
            Event::InitDone => {
                let listed = std::mem::take(&mut listing);
                directory.change(|pods| *pods = listed);
            }
            Event::Apply(pod) => directory.change(|pods| drop(pods.insert(key(&pod), details(pod)))),
            Event::Delete(pod) => directory.change(|pods| drop(pods.remove(&key(&pod)))),
        }
    }
}

fn key(pod: &PodObject) -> (String, String) {
    let meta = pod.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

fn details(mut pod: PodObject) -> Arc<PodDetails> {
    let meta = pod.meta_mut();
    Arc::new(PodDetails {
        uid: meta.uid.take().unwrap_or_default(),
        labels: meta.labels.take().unwrap_or_default(),
    })
}
