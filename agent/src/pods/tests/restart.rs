//! What an agent finds when it starts.

use std::os::fd::OwnedFd;

use super::*;
use crate::netlink::testing::{in_own_namespace, new_namespace};

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
fn a_restart_repairs_removes_and_rolls_back() {
    in_own_namespace(|| async {
        let mut node = Node::new(&["10.244.1.0/24"]).await;
        let mut pods: Vec<OwnedFd> = (0..4).map(|_| new_namespace()).collect();
        let kept = node.attach("kept", &pods[0]).await.unwrap();
        let gone = node.attach("gone", &pods[1]).await.unwrap();
        let half = node.attach("half", &pods[2]).await.unwrap();
        let cut_off = node.attach("cut-off", &pods[3]).await.unwrap();
        // While the agent was away: the kept one lost its route, neighbour, program and entry; one pod went; the
        // third was never completed; the fourth lost its device only; and leftovers nobody claims.
        for route in node.netlink.routes().await.unwrap() {
            node.netlink.delete_route(&route).await.unwrap();
        }
        node.netlink.delete_neighbour(kept.host_if_index, kept.addresses[0]).await.unwrap();
        node.fast_path.attached.lock().unwrap().clear();
        node.fast_path.attached.lock().unwrap().extend(["pl00000000000".to_owned(), "uplink".to_owned()]);
        let stray = PodEndpoint { ifindex: 99, mac: [0; 6], host_mac: [0; 6] };
        *node.fast_path.pods.lock().unwrap() = [("10.244.1.99".parse().unwrap(), stray)].into();
        node.netlink.delete_link(gone.host_if_index).await.unwrap();
        node.netlink.delete_link(cut_off.host_if_index).await.unwrap();
        drop(pods.remove(1));
        let creating = Record { state: State::Creating, host_if_index: 0, ..half };
        let path = node.run_dir.path().join("attachments/half-eth0.json");
        std::fs::write(path, serde_json::to_vec(&creating).unwrap()).unwrap();

        let report = node.restart().await;
        assert_eq!(
            report,
            RestoreReport { restored: 1, removed: 1, broken: 1, rolled_back: 1, ..RestoreReport::default() }
        );
        assert_eq!(node.leftovers().await, (1, 1, 1, 2, 2));
        assert!(node.fast_path.attached.lock().unwrap().contains("uplink"), "that one is not a pod's");
        node.manager.check(&key("kept")).await.unwrap();
        assert!(
            node.manager.warnings()[0].contains("has lost its interface"),
            "{:?}",
            node.manager.warnings()
        );
        let cut_off_addresses = cut_off.addresses.clone();
        assert_eq!(node.manager.records(), [cut_off, kept]);
        // The cluster believes that the fourth has its address, until its DEL.
        let again = new_namespace();
        let wanted = crate::pods::Wanted { addresses: cut_off_addresses.clone(), ..Default::default() };
        let request = AttachRequest { wanted, ..request("new", &again) };
        assert_eq!(node.manager.attach(request.clone()).await.unwrap_err().code, code::CONFLICT);
        node.manager.detach(key("cut-off")).await.unwrap();
        assert_eq!(node.manager.warnings(), Vec::<String>::new());
        assert_eq!(node.manager.attach(request).await.unwrap().addresses, cut_off_addresses);
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
            crate::repairs::Repairs::default(),
        )
        .unwrap();
        let pod = new_namespace();
        assert_eq!(manager.attach(request("a1", &pod)).await.unwrap_err().code, code::TRY_AGAIN_LATER);
        assert_eq!(manager.detach(key("a1")).await.unwrap_err().code, code::TRY_AGAIN_LATER);
    });
}

#[test]
fn dels_that_nobody_heard_are_carried_out_before_anything_else() {
    in_own_namespace(|| async {
        let mut node = Node::new(&["10.244.1.0/24"]).await;
        let pods: Vec<OwnedFd> = (0..2).map(|_| new_namespace()).collect();
        let kept = node.attach("kept", &pods[0]).await.unwrap();
        node.attach("deleted", &pods[1]).await.unwrap();
        let pending = PendingDeletes::of(node.run_dir.path());
        // Of one that is there, and of one that was never heard of.
        for id in ["deleted", "unknown"] {
            pending.remember(&key(id)).unwrap();
        }
        let report = node.restart().await;
        assert_eq!(report, RestoreReport { restored: 1, caught_up: 2, ..RestoreReport::default() });
        assert_eq!(node.manager.records(), [kept]);
        assert_eq!(node.leftovers().await, (1, 1, 1, 1, 1));
        assert_eq!(node.restart().await.caught_up, 0, "once is enough");
    });
}
