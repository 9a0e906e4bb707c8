//! Attachments that go well.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use super::*;
use crate::netlink::testing::{in_own_namespace, new_namespace};

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
fn an_add_whose_caller_left_is_finished_all_the_same() {
    in_own_namespace(|| async {
        let node = Node::new(&["10.244.1.0/24"]).await;
        let pod = new_namespace();
        let impatient = node.manager.attach(request("a1", &pod));
        // Far shorter than an ADD takes, long enough to begin it.
        let _ = tokio::time::timeout(std::time::Duration::from_micros(100), impatient).await;
        // The same lock: this waits until the first is through.
        let record = node.attach("a1", &pod).await.unwrap();
        assert_eq!((record.state, node.manager.len()), (State::Ready, 1));
        node.manager.check(&key("a1")).await.unwrap();
    });
}

#[test]
fn adds_and_dels_of_the_same_pod_take_turns() {
    in_own_namespace(|| async {
        let node = Node::new(&["10.244.1.0/24"]).await;
        let pod = new_namespace();
        for _ in 0..5 {
            let adds = futures_util::future::join_all((0..3).map(|_| node.attach("a1", &pod)));
            let dels = futures_util::future::join_all((0..3).map(|_| node.manager.detach(key("a1"))));
            let (adds, dels) = futures_util::future::join(adds, dels).await;
            assert!(adds.iter().all(Result::is_ok) && dels.iter().all(Result::is_ok), "{adds:?} {dels:?}");
            node.manager.detach(key("a1")).await.unwrap();
            assert_eq!(node.leftovers().await, NOTHING);
        }
    });
}
