//! An agent without eBPF in the test's own network namespace.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::{SOCKET_NAME, StatusSource, bind, serve};
use crate::netlink::Netlink;
use crate::pods::testing::MemoryFastPath;
use crate::pods::{NodeNetwork, PodManager};

/// A status that a test can turn.
#[derive(Default)]
pub(crate) struct TestStatus {
    pub(crate) ready: AtomicBool,
}

impl StatusSource for TestStatus {
    fn status(&self) -> BoxFuture<'_, serde_json::Value> {
        Box::pin(async { serde_json::json!({ "node": "node1" }) })
    }

    fn started(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    fn reconcile(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn problems(&self) -> BoxFuture<'_, Vec<String>> {
        let ready = self.ready.load(Ordering::Relaxed);
        Box::pin(async move { if ready { vec![] } else { vec!["still starting".to_owned()] } })
    }
}

/// It serves, but has not restored anything yet.
pub(crate) struct TestAgent {
    pub(crate) manager: PodManager,
    pub(crate) status: Arc<TestStatus>,
    run_dir: tempfile::TempDir,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<anyhow::Result<()>>,
    _network: watch::Sender<Option<NodeNetwork>>,
}

impl TestAgent {
    /// On node1 with pod CIDR 10.244.1.0/24 and MTU 1500.
    pub(crate) async fn start() -> Self {
        let netlink = Netlink::new().unwrap();
        let lo = netlink.link_by_name("lo").await.unwrap().unwrap().index;
        netlink.set_up(lo).await.unwrap();
        netlink.add_address(lo, "10.244.1.1/32".parse().unwrap()).await.unwrap();
        let (network, receiver) = watch::channel(Some(NodeNetwork {
            name: "node1".to_owned(),
            pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
            mtu: 1500,
        }));
        let run_dir = tempfile::tempdir().unwrap();
        let fast_path = Arc::<MemoryFastPath>::default();
        let manager =
            PodManager::new(netlink, fast_path, run_dir.path(), receiver, Default::default()).unwrap();
        let status = Arc::<TestStatus>::default();
        let (stop, stopped) = oneshot::channel::<()>();
        let socket = bind(&run_dir.path().join(SOCKET_NAME)).unwrap();
        let serving = tokio::spawn(serve(socket, manager.clone(), status.clone(), async {
            let _ = stopped.await;
        }));
        Self { manager, status, run_dir, stop, serving, _network: network }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.run_dir.path().join(SOCKET_NAME)
    }

    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.serving.await.unwrap().unwrap();
    }
}
