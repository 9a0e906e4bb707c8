//! The objects, and what has happened to them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::http::refusal;

/// How the server misbehaves, and how much it has to say.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Every request is answered with this status.
    pub status: Option<u16>,
    /// Every page of a list but the first is answered with this status.
    pub further_pages: Option<u16>,
    /// A page of a list takes so long.
    pub slow: Duration,
    /// A watch from a version that is forgotten is answered with status 410, instead of an event.
    pub gone_as_status: bool,
    /// So many patches of nodes find another version than they were made for.
    pub conflicts: usize,
    /// So many images are on every node.
    pub images: usize,
}

/// Something that happened.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) resource: String,
    pub(super) kind: &'static str,
    pub(super) object: Value,
}

/// All there is.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) version: u64,
    /// Watches can start from here on.
    pub(super) oldest: u64,
    /// By resource and name, with the namespace in front where there is one.
    pub(super) objects: BTreeMap<(String, String), Value>,
    pub(super) history: Vec<Change>,
    pub(super) faults: Faults,
    pub(super) requests: Vec<String>,
    /// Watches that were started before are torn in the middle of a line.
    pub(super) torn: u64,
    /// Nobody is served.
    pub(super) stopped: bool,
}

fn name_of(object: &Value) -> String {
    let meta = &object["metadata"];
    let name = meta["name"].as_str().unwrap_or_default();
    match meta["namespace"].as_str() {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

impl Store {
    pub(super) fn put(&mut self, resource: &str, object: &mut Value) {
        let key = (resource.to_owned(), name_of(object));
        let before = self.objects.get(&key);
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.version += 1;
        let created = before.map(|before| before["metadata"]["creationTimestamp"].clone());
        // Time goes by the version: later means younger.
        let (hours, minutes, seconds) = (self.version / 3600 % 24, self.version / 60 % 60, self.version % 60);
        let now = format!("2026-01-01T{hours:02}:{minutes:02}:{seconds:02}Z");
        let meta = &mut object["metadata"];
        meta["creationTimestamp"] = created.unwrap_or_else(|| now.into());
        meta["resourceVersion"] = self.version.to_string().into();
        meta["managedFields"] = json!([{"manager": "kubelet", "fieldsV1": {"f:status": {"f:images": {}}}}]);
        self.objects.insert(key, object.clone());
        self.record(resource, kind, object.clone());
    }

    pub(super) fn delete(&mut self, resource: &str, name: &str) -> bool {
        let Some(mut object) = self.objects.remove(&(resource.to_owned(), name.to_owned())) else {
            return false;
        };
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.record(resource, "DELETED", object);
        true
    }

    pub(super) fn bookmark(&mut self, resource: &str) -> u64 {
        self.version += 1;
        let meta = json!({"resourceVersion": self.version.to_string()});
        let object = json!({"kind": "Node", "apiVersion": "v1", "metadata": meta});
        self.record(resource, "BOOKMARK", object);
        self.version
    }

    fn record(&mut self, resource: &str, kind: &'static str, object: Value) {
        let resource = resource.to_owned();
        self.history.push(Change { version: self.version, resource, kind, object });
    }

    /// What has happened after a version.
    pub(super) fn since(&self, version: u64) -> &[Change] {
        let place = self.history.partition_point(|change| change.version <= version);
        self.history.get(place..).unwrap_or_default()
    }

    /// A merge patch; of a status, a strategic one as far as conditions are concerned.
    pub(super) fn patch(&mut self, resource: &str, name: &str, patch: Value, whole: bool) -> (u16, Value) {
        let Some(mut object) = self.objects.get(&(resource.to_owned(), name.to_owned())).cloned() else {
            return refusal(404, "NotFound", "no such object");
        };
        let wanted = &patch["metadata"]["resourceVersion"];
        if whole && !wanted.is_null() {
            if self.faults.conflicts > 0 {
                self.faults.conflicts -= 1;
                // Somebody else was faster.
                self.put(resource, &mut object);
            }
            if object["metadata"]["resourceVersion"] != *wanted {
                return refusal(409, "Conflict", "the object has been modified");
            }
        }
        merge(&mut object, patch);
        self.put(resource, &mut object);
        (200, object)
    }
}

fn merge(target: &mut Value, patch: Value) {
    let Value::Object(fields) = patch else {
        *target = patch;
        return;
    };
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
