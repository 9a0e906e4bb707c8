//! Refusals, failures, damage.

use std::os::fd::{AsFd as _, OwnedFd};

use super::*;
use crate::netlink::testing::{in_own_namespace, new_namespace};

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
        };
        let foreign = crate::netlink::Orders::open().unwrap().create_veth(&foreign).unwrap();
        node.manager.detach(key("a1")).await.unwrap();
        assert_eq!(node.leftovers().await, (1, 0, 0, 0, 0));
        node.manager.detach(key("a1")).await.unwrap();
        assert!(node.netlink.link_by_index(foreign.index).await.unwrap().is_some());
        let error = node.attach("a1", &pod).await.unwrap_err();
        assert!(error.msg.contains("no attachment owns it"), "{error}");
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
            "the program from_pod is not attached",
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
