//! Whole attachments against the real kernel, each test in a network namespace of its own (needs root).

mod faults;
mod life;
mod restart;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::watch;

use super::testing::MemoryFastPath;
use super::*;
use crate::netlink::testing::path_of;
use crate::repairs::Repairs;

/// A node with gateway addresses, a manager and a fast path that only remembers.
struct Node {
    netlink: Netlink,
    fast_path: Arc<MemoryFastPath>,
    run_dir: tempfile::TempDir,
    network: watch::Sender<Option<NodeNetwork>>,
    manager: PodManager,
}

impl Node {
    async fn new(cidrs: &[&str]) -> Self {
        let netlink = Netlink::new().unwrap();
        let lo = netlink.link_by_name("lo").await.unwrap().unwrap().index;
        netlink.set_up(lo).await.unwrap();
        let pod_cidrs: Vec<IpNetwork> = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        for cidr in &pod_cidrs {
            netlink.add_address(lo, host_network(gateway(cidr))).await.unwrap();
        }
        let (network, receiver) =
            watch::channel(Some(NodeNetwork { name: "node1".to_owned(), pod_cidrs, mtu: 1450 }));
        let fast_path = Arc::<MemoryFastPath>::default();
        let run_dir = tempfile::tempdir().unwrap();
        let manager =
            PodManager::new(netlink.clone(), fast_path.clone(), run_dir.path(), receiver, Repairs::default())
                .unwrap();
        manager.restore().await.unwrap();
        Self { netlink, fast_path, run_dir, network, manager }
    }

    /// Another manager on the same node, as after a restart.
    async fn restart(&mut self) -> RestoreReport {
        self.manager = PodManager::new(
            self.netlink.clone(),
            self.fast_path.clone(),
            self.run_dir.path(),
            self.network.subscribe(),
            Repairs::default(),
        )
        .unwrap();
        self.manager.restore().await.unwrap()
    }

    async fn attach(&self, id: &str, netns: &OwnedFd) -> Result<Record, Error> {
        self.manager.attach(request(id, netns)).await
    }

    /// Devices other than `lo`, our routes, entries, programs, records.
    async fn leftovers(&self) -> (usize, usize, usize, usize, usize) {
        (
            self.netlink
                .links()
                .await
                .unwrap()
                .iter()
                .filter(|link| link.kind.as_deref() == Some("veth"))
                .count(),
            self.netlink.routes().await.unwrap().len(),
            self.fast_path.pods.lock().unwrap().len(),
            self.fast_path.attached.lock().unwrap().len(),
            std::fs::read_dir(self.run_dir.path().join("attachments")).unwrap().count(),
        )
    }
}

const NOTHING: (usize, usize, usize, usize, usize) = (0, 0, 0, 0, 0);

fn request(id: &str, netns: &OwnedFd) -> AttachRequest {
    AttachRequest {
        container_id: id.to_owned(),
        netns: path_of(netns).to_str().unwrap().to_owned(),
        if_name: "eth0".to_owned(),
        namespace: Some("shop".to_owned()),
        pod: Some("cart".to_owned()),
        uid: None,
        mac: None,
        wanted: Default::default(),
    }
}

fn key(id: &str) -> Key {
    Key::new(id, "eth0")
}
