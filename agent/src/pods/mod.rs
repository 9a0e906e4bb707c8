//! The life of a pod's attachment: create, record, restore, check, delete. See `docs/cni.md`.
//!
//! ```text
//! let manager = PodManager::new(netlink, fast_path, run_dir, node_network, repairs)?;
//! manager.restore().await?;          // ADDs before this are told to try again later
//! manager.attach(request).await?;
//! manager.keep().await?;             // mends what others break, for as long as it is polled
//! ```

mod check;
mod create;
mod delete;
mod fast_path;
mod foreign;
pub mod ipam;
mod locks;
mod mac;
mod names;
mod pending;
mod pod_side;
mod record;
mod repair;
mod request;
mod restore;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::Context as _;
use ipnetwork::IpNetwork;
use tokio::sync::{Semaphore, watch};

use crate::cni::{Error, code};
use crate::metrics::{Operation, Requests};
use crate::netlink::{Link, Netlink, namespace};
use crate::repairs::Repairs;

pub use fast_path::{FastPath, PodEndpoint};
pub use ipam::{AddressRange, GIVEN_FILE, Wanted, gateway};
pub use mac::Mac;
pub use names::{HOST_INTERFACE_PREFIX, host_interface, is_host_interface};
pub use pending::{PENDING_DELETES_DIR, PendingDeletes};
pub use record::{Key, RECORDS_DIR, Record, State};
pub use request::AttachRequest;
pub use restore::RestoreReport;

use foreign::Foreign;
use ipam::{GivenFile, Ipam};
use locks::KeyLocks;
use record::Store;

/// How many ADDs work at once; more wait in the order they came. The kernel changes one device after the other anyway, and
/// all would be ready only when the last one is.
const AT_ONCE: usize = 4;

/// What pods need to know of their node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeNetwork {
    /// The node's name, for texts.
    pub name: String,
    /// Where pod addresses come from.
    pub pod_cidrs: Vec<IpNetwork>,
    /// For pods' interfaces.
    pub mtu: u32,
}

/// The attachments of this node. Cheap to clone.
#[derive(Clone)]
pub struct PodManager(Arc<Inner>);

struct Inner {
    netlink: Netlink,
    fast_path: Arc<dyn FastPath>,
    store: Store,
    pending: PendingDeletes,
    node_network: watch::Receiver<Option<NodeNetwork>>,
    /// The node's own network namespace: threads come back to it, and no pod may claim it.
    home: File,
    node_namespace: (u64, u64),
    locks: KeyLocks,
    /// ADDs that may work at once.
    busy: Semaphore,
    ipam: Mutex<Ipam>,
    given: GivenFile,
    /// Another address was given than is written down.
    unsaved: AtomicBool,
    saving: Mutex<()>,
    records: Mutex<BTreeMap<Key, Record>>,
    /// Newer records than this agent understands.
    foreign: Mutex<Vec<Foreign>>,
    /// Attachments that have lost their device.
    broken: Mutex<BTreeSet<Key>>,
    repairs: Repairs,
    /// Held over a pass of repairs.
    repairing: tokio::sync::Mutex<()>,
    restored: AtomicBool,
    requests: Requests,
}

impl PodManager {
    /// A manager of the attachments in the calling thread's network namespace, which `netlink` must be of. Call
    /// [`restore`](Self::restore) next.
    pub fn new(
        netlink: Netlink,
        fast_path: Arc<dyn FastPath>,
        run_dir: &Path,
        node_network: watch::Receiver<Option<NodeNetwork>>,
        repairs: Repairs,
    ) -> anyhow::Result<Self> {
        let own = namespace::open(Path::new("/proc/thread-self/ns/net"))?;
        let node_namespace =
            namespace::identity(own.as_fd()).context("finding the node's own network namespace")?;
        Ok(Self(Arc::new(Inner {
            netlink,
            fast_path,
            store: Store::open(run_dir)?,
            pending: PendingDeletes::of(run_dir),
            node_network,
            home: own,
            node_namespace,
            locks: KeyLocks::default(),
            busy: Semaphore::new(AT_ONCE),
            ipam: Mutex::default(),
            given: GivenFile::of(run_dir),
            unsaved: AtomicBool::new(false),
            saving: Mutex::default(),
            records: Mutex::default(),
            foreign: Mutex::default(),
            broken: Mutex::default(),
            repairs,
            repairing: tokio::sync::Mutex::default(),
            restored: AtomicBool::new(false),
            requests: Requests::default(),
        })))
    }

    /// All attachments.
    pub fn records(&self) -> Vec<Record> {
        lock(&self.0.records).values().cloned().collect()
    }

    /// Attaching and detaching, counted and timed.
    pub fn requests(&self) -> &Requests {
        &self.0.requests
    }

    /// How many attachments there are.
    pub fn len(&self) -> usize {
        lock(&self.0.records).len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes an attachment, or returns the one that an earlier ADD of the same container and interface made, if it
    /// is intact. It is finished or rolled back also when the caller stops waiting.
    pub async fn attach(&self, request: AttachRequest) -> Result<Record, Error> {
        let inner = self.0.clone();
        finish(tokio::spawn(async move {
            let begun = Instant::now();
            let result = inner.attach(request).await;
            inner.requests.ended(
                Operation::Add,
                result.as_ref().err().map(|error| error.code),
                begun.elapsed(),
            );
            result
        }))
        .await
    }

    /// Removes an attachment. Fine when there is none, or when its namespace or device are gone.
    pub async fn detach(&self, key: Key) -> Result<(), Error> {
        let inner = self.0.clone();
        finish(tokio::spawn(async move {
            let begun = Instant::now();
            let result = inner.detach(&key).await;
            inner.requests.ended(
                Operation::Del,
                result.as_ref().err().map(|error| error.code),
                begun.elapsed(),
            );
            result
        }))
        .await
    }

    /// Compares an attachment with the system; the error names everything that is damaged.
    pub async fn check(&self, key: &Key) -> Result<Record, Error> {
        self.0.check(key).await
    }

    /// What is wrong with single attachments, in words: none keeps others from working.
    pub fn warnings(&self) -> Vec<String> {
        self.0.warnings()
    }

    /// Reads the records and makes the system fit them: once, before the first ADD. Errors are for what prevents
    /// the agent's work; what concerns single attachments is in the report.
    pub async fn restore(&self) -> anyhow::Result<RestoreReport> {
        self.0.restore().await
    }
}

impl Inner {
    fn ensure_restored(&self) -> Result<(), Error> {
        if self.restored.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(Error::new(code::TRY_AGAIN_LATER, "the agent is starting: its attachments are not restored yet"))
    }

    /// The host-side device of a record: one of its name that also has its Ethernet address, which follows from
    /// the attachment's identity. A device of somebody else that happens to have the name is not taken for it.
    async fn own_device(&self, record: &Record) -> anyhow::Result<Option<Link>> {
        let link = self.netlink.link_by_name(&record.host_interface).await?;
        Ok(link.filter(|link| link.is_veth(record.host_mac.0)))
    }

    fn record(&self, key: &Key) -> Option<Record> {
        lock(&self.records).get(key).cloned()
    }

    fn endpoint(record: &Record) -> PodEndpoint {
        PodEndpoint { ifindex: record.host_if_index, mac: record.mac.0, host_mac: record.host_mac.0 }
    }
}

/// The data behind these locks is whole after every statement: a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn finish<T>(task: tokio::task::JoinHandle<Result<T, Error>>) -> Result<T, Error> {
    task.await.unwrap_or_else(|error| {
        Err(Error::new(code::ATTACH_FAILED, "the agent failed inside").details(error.to_string()))
    })
}

/// A whole address as a network: /32 or /128.
fn host_network(address: std::net::IpAddr) -> IpNetwork {
    IpNetwork::from(address)
}
