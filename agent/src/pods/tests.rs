//! Whole attachments against the real kernel, each test in a network namespace of its own (needs root).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use tokio::sync::watch;

use super::testing::MemoryFastPath;
use super::*;
use crate::netlink::testing::{in_own_namespace, new_namespace, path_of};

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
        let manager = PodManager::new(netlink.clone(), fast_path.clone(), run_dir.path(), receiver).unwrap();
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
    }
}

fn key(id: &str) -> Key {
    Key::new(id, "eth0")
}

/// Sends a datagram from inside a pod and expects its echo from `server`'s thread.
fn talk(from: &OwnedFd, to: IpAddr, server: &OwnedFd) {
    use std::net::UdpSocket;
    let bound = namespace::run_in(server.as_fd(), || UdpSocket::bind((to, 7777))).unwrap().unwrap();
    bound.set_read_timeout(Some(std::time::Duration::from_secs(3))).unwrap();
    let any: IpAddr = if to.is_ipv4() { "0.0.0.0".parse().unwrap() } else { "::".parse().unwrap() };
    let client = namespace::run_in(from.as_fd(), || UdpSocket::bind((any, 0))).unwrap().unwrap();
    client.send_to(b"hello", (to, 7777)).unwrap();
    let mut buffer = [0; 16];
    let (length, _) = bound.recv_from(&mut buffer).expect("the datagram arrives");
    assert_eq!(&buffer[..length], b"hello");
}

#[test]
fn an_attachment_is_made_whole_checked_and_removed() {
    in_own_namespace(|| async {
        let node = Node::new(&["10.244.1.0/24", "fd00:244:1::/64"]).await;
        let pod = new_namespace();
        let record = node.attach("a1", &pod).await.unwrap();
        assert_eq!(record.state, State::Ready);
        assert_eq!(
            record.addresses,
            ["10.244.1.2".parse::<IpAddr>().unwrap(), "fd00:244:1::2".parse().unwrap()]
        );
        let device = node.netlink.link_by_name(&record.host_interface).await.unwrap().unwrap();
        assert_eq!((device.index, device.mtu, device.up), (record.host_if_index, 1450, true));
        assert_eq!(device.alias.as_deref(), Some("shop/cart"));
        assert_eq!(node.leftovers().await, (1, 2, 2, 1, 1));
        node.manager.check(&key("a1")).await.unwrap();
        assert_eq!(node.manager.records(), [record]);
        // The node itself reaches the pod, and is the gateway.
        let this = OwnedFd::from(namespace::open("/proc/thread-self/ns/net".as_ref()).unwrap());
        for address in ["10.244.1.2", "fd00:244:1::2"] {
            talk(&this, address.parse().unwrap(), &pod);
        }
        for address in ["10.244.1.1", "fd00:244:1::1"] {
            talk(&pod, address.parse().unwrap(), &this);
        }

        for _ in 0..2 {
            node.manager.detach(key("a1")).await.unwrap();
            assert_eq!(node.leftovers().await, NOTHING);
        }
        assert_eq!(node.manager.check(&key("a1")).await.unwrap_err().code, code::UNKNOWN_CONTAINER);
    });
}

#[test]
fn fifty_at_once_get_fifty_addresses_and_leave_nothing_behind() {
    in_own_namespace(|| async {
        let node = Node::new(&["10.244.1.0/24"]).await;
        let pods: Vec<OwnedFd> = (0..50).map(|_| new_namespace()).collect();
        let attaching =
            pods.iter().enumerate().map(|(n, pod)| node.manager.attach(request(&format!("c{n}"), pod)));
        let records = futures_util::future::join_all(attaching).await;
        let addresses: BTreeSet<_> = records.into_iter().map(|record| record.unwrap().addresses[0]).collect();
        assert_eq!(addresses.len(), 50);
        assert_eq!(node.leftovers().await, (50, 50, 50, 50, 50));
        let detaching = (0..50).map(|n| node.manager.detach(key(&format!("c{n}"))));
        for result in futures_util::future::join_all(detaching).await {
            result.unwrap();
        }
        assert_eq!(node.leftovers().await, NOTHING);
    });
}

#[test]
fn a_full_cidr_is_refused_with_numbers_and_leaks_nothing() {
    in_own_namespace(|| async {
        let node = Node::new(&["10.244.1.0/29"]).await;
        let pods: Vec<OwnedFd> = (0..6).map(|_| new_namespace()).collect();
        for (n, pod) in pods.iter().take(5).enumerate() {
            node.attach(&format!("c{n}"), pod).await.unwrap();
        }
        let before = node.leftovers().await;
        let error = node.attach("c5", &pods[5]).await.unwrap_err();
        assert_eq!(error.code, code::ADDRESSES_EXHAUSTED);
        assert_eq!(
            error.msg,
            "pod CIDR 10.244.1.0/29 is full (5 of 5 addresses in use): widen podCIDRs for node1"
        );
        assert_eq!(node.leftovers().await, before);
        node.manager.detach(key("c0")).await.unwrap();
        node.attach("c5", &pods[5]).await.expect("there is room again");
    });
}

#[test]
fn an_add_of_the_same_again_returns_it_only_while_it_is_intact() {
    in_own_namespace(|| async {
        let node = Node::new(&["10.244.1.0/24"]).await;
        let (pod, other) = (new_namespace(), new_namespace());
        let first = node.attach("a1", &pod).await.unwrap();
        assert_eq!(node.attach("a1", &pod).await.unwrap(), first);
        let error = node.attach("a1", &other).await.unwrap_err();
        assert_eq!(error.code, code::CONFLICT);
        assert!(error.msg.contains("DEL it first"), "{error}");
        node.fast_path.pods.lock().unwrap().clear();
        let error = node.attach("a1", &pod).await.unwrap_err();
        assert!(error.to_string().contains("10.244.1.2 is missing in the pod map"), "{error}");
    });
}

#[test]
fn what_cannot_be_attached_is_refused_before_anything_is_touched() {
    in_own_namespace(|| async {
        let node = Node::new(&["10.244.1.0/24"]).await;
        let pod = new_namespace();
        let refused = async |request: AttachRequest| {
            let error = node.manager.attach(request).await.unwrap_err();
            assert_eq!(node.leftovers().await, NOTHING);
            (error.code, error.to_string())
        };
        let with_netns = |netns: &str| AttachRequest { netns: netns.to_owned(), ..request("a1", &pod) };
        for (netns, why) in [
            ("", "absolute"),
            ("/run/netns/nowhere", "/run/netns/nowhere"),
            ("/proc/self/status", "nsfs"),
            ("/proc/self/ns/mnt", "not a network namespace"),
            ("/proc/thread-self/ns/net", "node's own"),
        ] {
            // The task runs on this thread (a current-thread runtime), so thread-self is the test's namespace.
            let (code, text) = refused(with_netns(netns)).await;
            assert_eq!(code, 4, "{text}");
            assert!(text.contains("CNI_NETNS") && text.contains(why), "{text}");
        }
        let (code, text) = refused(AttachRequest { if_name: "a/b".to_owned(), ..request("a1", &pod) }).await;
        assert!(code == 4 && text.contains("CNI_IFNAME"), "{text}");
        let (code, text) = refused(request("-", &pod)).await;
        assert!(code == 4 && text.contains("CNI_CONTAINERID"), "{text}");
        let (code, text) = refused(AttachRequest { if_name: "lo".to_owned(), ..request("a1", &pod) }).await;
        assert!(code == code::CONFLICT && text.contains("interface lo exists already"), "{text}");
        node.network.send_replace(None);
        assert_eq!(refused(request("a1", &pod)).await.0, code::TRY_AGAIN_LATER);
    });
}

#[test]
fn every_failure_rolls_everything_back() {
    in_own_namespace(|| async {
        let node = Node::new(&["10.244.1.0/24", "fd00:244:1::/64"]).await;
        let pod = new_namespace();
        for step in ["attach_pod", "set_pod"] {
            node.fast_path.refuse.lock().unwrap().insert(step);
            let error = node.attach("a1", &pod).await.unwrap_err();
            assert_eq!(error.code, code::ATTACH_FAILED);
            assert!(error.details.contains(step), "{error}");
            assert_eq!(node.leftovers().await, NOTHING, "{step}");
            node.fast_path.refuse.lock().unwrap().clear();
        }
        // Without the gateway address the route cannot be made: the text says where to look.
        let lo = node.netlink.link_by_name("lo").await.unwrap().unwrap().index;
        node.netlink.delete_address(lo, "10.244.1.1/32".parse().unwrap()).await.unwrap();
        let error = node.attach("a1", &pod).await.unwrap_err();
        assert!(error.details.contains("is the gateway address 10.244.1.1 on this node's lo?"), "{error}");
        assert_eq!(node.leftovers().await, NOTHING);
        // A rollback that fails is told as well, keeps the record, and a DEL completes it.
        node.fast_path.refuse.lock().unwrap().extend(["set_pod", "remove_pod"]);
        let error = node.attach("a1", &pod).await.unwrap_err();
        assert!(error.details.contains("set_pod") && error.details.contains("remove_pod"), "{error}");
        assert_eq!(node.manager.len(), 1);
        assert_eq!(node.manager.detach(key("a1")).await.unwrap_err().code, code::DETACH_FAILED);
        node.fast_path.refuse.lock().unwrap().clear();
        node.manager.detach(key("a1")).await.unwrap();
        assert_eq!(node.leftovers().await, NOTHING);
    });
}

#[test]
fn a_pod_that_is_gone_and_a_foreign_device_do_not_disturb_a_del() {
    in_own_namespace(|| async {
        let node = Node::new(&["10.244.1.0/24"]).await;
        let pod = new_namespace();
        let record = node.attach("a1", &pod).await.unwrap();
        node.netlink.delete_link(record.host_if_index).await.unwrap();
        // Somebody else's device of the same name stays.
        let other = new_namespace();
        let foreign = crate::netlink::VethSpec {
            host_name: &record.host_interface,
            host_mac: [2, 0, 0, 0, 0, 9],
            pod_name: "x",
            pod_mac: [2, 0, 0, 0, 0, 8],
            pod_netns: other.as_fd(),
            mtu: 1500,
            alias: "theirs",
        };
        let foreign = node.netlink.create_veth(foreign).await.unwrap();
        node.manager.detach(key("a1")).await.unwrap();
        assert_eq!(node.leftovers().await, (1, 0, 0, 0, 0));
        node.manager.detach(key("a1")).await.unwrap();
        assert!(node.netlink.link_by_index(foreign.index).await.unwrap().is_some());
        let error = node.attach("a1", &pod).await.unwrap_err();
        assert!(error.msg.contains("no attachment owns it"), "{error}");
    });
}

#[test]
fn a_lost_record_does_not_keep_a_del_from_removing_the_device() {
    in_own_namespace(|| async {
        let mut node = Node::new(&["10.244.1.0/24"]).await;
        let pod = new_namespace();
        node.attach("a1", &pod).await.unwrap();
        std::fs::remove_file(node.run_dir.path().join("attachments/a1-eth0.json")).unwrap();
        node.restart().await;
        node.manager.detach(key("a1")).await.unwrap();
        assert_eq!(node.leftovers().await, NOTHING);
    });
}

#[test]
fn a_check_names_everything_that_is_damaged() {
    in_own_namespace(|| async {
        let node = Node::new(&["10.244.1.0/24"]).await;
        let pod_netns = new_namespace();
        let record = node.attach("a1", &pod_netns).await.unwrap();
        let pod = Netlink::in_namespace(pod_netns.as_fd()).unwrap();
        let eth0 = pod.link_by_name("eth0").await.unwrap().unwrap().index;
        pod.delete_address(eth0, "10.244.1.2/32".parse().unwrap()).await.unwrap();
        for route in pod.routes().await.unwrap() {
            pod.delete_route(&route).await.unwrap();
        }
        for route in node.netlink.routes().await.unwrap() {
            node.netlink.delete_route(&route).await.unwrap();
        }
        node.netlink.delete_neighbour(record.host_if_index, record.addresses[0]).await.unwrap();
        node.fast_path.attached.lock().unwrap().clear();
        node.fast_path.pods.lock().unwrap().get_mut(&record.addresses[0]).unwrap().mac = [0; 6];
        let error = node.manager.check(&key("a1")).await.unwrap_err();
        assert_eq!(error.code, code::DAMAGED);
        for damage in [
            "the pod's address 10.244.1.2 is missing on eth0",
            "the pod's route to 10.244.1.1/32",
            "the pod's route to 0.0.0.0/0",
            "the node's route to 10.244.1.2/32",
            "the node's neighbour entry for 10.244.1.2",
            "no program is attached",
            "10.244.1.2 is different in the pod map",
        ] {
            assert!(error.msg.contains(damage), "{damage} is missing in {error}");
        }
        node.netlink.delete_link(record.host_if_index).await.unwrap();
        let error = node.manager.check(&key("a1")).await.unwrap_err();
        assert!(
            error.msg.contains("pl") && error.msg.contains("the pod's interface eth0 is missing"),
            "{error}"
        );
    });
}

#[test]
fn a_restart_repairs_removes_and_rolls_back() {
    in_own_namespace(|| async {
        let mut node = Node::new(&["10.244.1.0/24"]).await;
        let pods: Vec<OwnedFd> = (0..3).map(|_| new_namespace()).collect();
        let kept = node.attach("kept", &pods[0]).await.unwrap();
        let gone = node.attach("gone", &pods[1]).await.unwrap();
        let half = node.attach("half", &pods[2]).await.unwrap();
        // While the agent was away: the kept one lost its route, neighbour, program and entry; one pod went; the
        // third was never completed; and leftovers nobody claims.
        for route in node.netlink.routes().await.unwrap() {
            node.netlink.delete_route(&route).await.unwrap();
        }
        node.netlink.delete_neighbour(kept.host_if_index, kept.addresses[0]).await.unwrap();
        node.fast_path.attached.lock().unwrap().clear();
        node.fast_path.attached.lock().unwrap().extend(["pl00000000000".to_owned(), "uplink".to_owned()]);
        let stray = PodEndpoint { ifindex: 99, mac: [0; 6], host_mac: [0; 6] };
        *node.fast_path.pods.lock().unwrap() = [("10.244.1.99".parse().unwrap(), stray)].into();
        node.netlink.delete_link(gone.host_if_index).await.unwrap();
        let creating = Record { state: State::Creating, host_if_index: 0, ..half };
        let path = node.run_dir.path().join("attachments/half-eth0.json");
        std::fs::write(path, serde_json::to_vec(&creating).unwrap()).unwrap();

        let report = node.restart().await;
        assert_eq!(report, RestoreReport { restored: 1, removed: 1, rolled_back: 1, problems: vec![] });
        assert_eq!(node.leftovers().await, (1, 1, 1, 2, 1));
        assert!(node.fast_path.attached.lock().unwrap().contains("uplink"), "that one is not a pod's");
        node.manager.check(&key("kept")).await.unwrap();
        assert_eq!(node.manager.records(), [kept]);
        let again = new_namespace();
        assert_eq!(node.attach("new", &again).await.unwrap().addresses[0].to_string(), "10.244.1.3");
    });
}

#[test]
fn with_an_unreadable_record_nothing_is_swept_and_no_address_is_given_twice() {
    in_own_namespace(|| async {
        let mut node = Node::new(&["10.244.1.0/24"]).await;
        let pod = new_namespace();
        node.attach("a1", &pod).await.unwrap();
        let path = node.run_dir.path().join("attachments/a1-eth0.json");
        std::fs::write(&path, "garbage").unwrap();
        let report = node.restart().await;
        assert_eq!(report.problems.len(), 1);
        assert!(report.problems[0].contains("a1-eth0.json"), "{report:?}");
        assert_eq!(node.leftovers().await, (1, 1, 1, 1, 1));
        let other = new_namespace();
        assert_eq!(node.attach("b1", &other).await.unwrap().addresses[0].to_string(), "10.244.1.3");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "garbage");
    });
}

#[test]
fn before_the_restore_everything_waits() {
    in_own_namespace(|| async {
        let node = Node::new(&["10.244.1.0/24"]).await;
        let run_dir = tempfile::tempdir().unwrap();
        let manager = PodManager::new(
            node.netlink.clone(),
            node.fast_path.clone(),
            run_dir.path(),
            node.network.subscribe(),
        )
        .unwrap();
        let pod = new_namespace();
        assert_eq!(manager.attach(request("a1", &pod)).await.unwrap_err().code, code::TRY_AGAIN_LATER);
        assert_eq!(manager.detach(key("a1")).await.unwrap_err().code, code::TRY_AGAIN_LATER);
    });
}
