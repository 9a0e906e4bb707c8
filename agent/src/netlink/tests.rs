//! Against the real kernel, each test in a network namespace of its own (needs root).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use ipnetwork::IpNetwork;
use nix::errno::Errno;

use super::testing::{in_own_namespace, new_namespace, path_of};
use super::*;

const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn spec<'a>(name: &'a str, pod_netns: BorrowedFd<'a>) -> VethSpec<'a> {
    VethSpec { host_name: name, host_mac: HOST_MAC, pod_name: "eth0", pod_mac: POD_MAC, pod_netns, mtu: 1400 }
}

#[test]
fn a_veth_pair_is_created_whole_and_deleted() {
    in_own_namespace(|| async {
        let node = Netlink::new().unwrap();
        let pod_netns = new_namespace();
        let link = Orders::open().unwrap().create_veth(&spec("pl0", pod_netns.as_fd())).unwrap();
        assert_eq!(node.link_by_index(link.index).await.unwrap(), Some(link.clone()));
        assert_eq!((link.mac, link.mtu, link.up), (Some(HOST_MAC), 1400, false));
        assert_eq!(link.kind.as_deref(), Some("veth"));

        let pod = Netlink::in_namespace(pod_netns.as_fd()).unwrap();
        let eth0 = pod.link_by_name("eth0").await.unwrap().expect("eth0 is in the pod");
        assert_eq!((eth0.mac, eth0.mtu, eth0.peer), (Some(POD_MAC), 1400, Some(link.index)));
        assert_eq!(link.peer, Some(eth0.index));
        pod.set_up(eth0.index).await.unwrap();
        assert!(pod.link_by_index(eth0.index).await.unwrap().unwrap().up);
        assert_eq!(pod.links().await.unwrap().len(), 2, "lo and eth0");

        node.delete_link(link.index).await.unwrap();
        node.delete_link(link.index).await.expect("deleting it again is fine");
        assert_eq!(node.link_by_name("pl0").await.unwrap(), None);
        assert_eq!(pod.link_by_name("eth0").await.unwrap(), None);
    });
}

#[test]
fn a_refusal_keeps_its_error_number_and_names_the_device() {
    in_own_namespace(|| async {
        let node = Netlink::new().unwrap();
        let pod_netns = new_namespace();
        Orders::open().unwrap().create_veth(&spec("pl0", pod_netns.as_fd())).unwrap();
        let error = Orders::open().unwrap().create_veth(&spec("pl0", new_namespace().as_fd())).unwrap_err();
        assert!(is_errno(&error, Errno::EEXIST), "{error:#}");
        assert!(error.to_string().contains("pl0"), "{error:#}");
        let error = Orders::open().unwrap().create_veth(&spec("pl1", pod_netns.as_fd())).unwrap_err();
        assert!(is_errno(&error, Errno::EEXIST), "the pod has an eth0: {error:#}");
        assert_eq!(node.link_by_name("pl1").await.unwrap(), None);
    });
}

#[test]
fn addresses_are_added_and_deleted_idempotently() {
    in_own_namespace(|| async {
        let node = Netlink::new().unwrap();
        let lo = node.link_by_name("lo").await.unwrap().unwrap();
        assert!(lo.loopback);
        node.set_up(lo.index).await.unwrap();
        for address in [net("10.244.1.1/32"), net("fd00:244:1::1/128")] {
            for _ in 0..2 {
                node.add_address(lo.index, address).await.unwrap();
            }
            assert!(node.addresses().await.unwrap().contains(&(lo.index, address)), "{address}");
            for _ in 0..2 {
                node.delete_address(lo.index, address).await.unwrap();
            }
            assert!(!node.addresses().await.unwrap().contains(&(lo.index, address)), "{address}");
        }
        node.delete_address(4711, net("10.244.1.1/32")).await.expect("no such device: nothing to delete");
    });
}

/// A node with `pl0` up and its gateway addresses on `lo`.
async fn node_with_device(pod_netns: BorrowedFd<'_>) -> (Netlink, u32) {
    let node = Netlink::new().unwrap();
    let lo = node.link_by_name("lo").await.unwrap().unwrap();
    node.set_up(lo.index).await.unwrap();
    let link = Orders::open().unwrap().create_veth(&spec("pl0", pod_netns)).unwrap();
    node.set_up(link.index).await.unwrap();
    let pod = Netlink::in_namespace(pod_netns).unwrap();
    let eth0 = pod.link_by_name("eth0").await.unwrap().unwrap();
    pod.set_up(eth0.index).await.unwrap();
    node.add_address(lo.index, net("10.244.1.1/32")).await.unwrap();
    node.add_address(lo.index, net("fd00:244:1::1/128")).await.unwrap();
    (node, link.index)
}

#[test]
fn routes_read_back_as_they_were_written() {
    in_own_namespace(|| async {
        let pod_netns = new_namespace();
        let (node, device) = node_with_device(pod_netns.as_fd()).await;
        assert_eq!(node.routes().await.unwrap(), [], "the kernel's own routes are not ours");
        let mut routes = vec![
            Route { source: Some(ip("10.244.1.1")), ..Route::to_device(net("10.244.1.2/32"), device) },
            Route { on_link: true, ..Route::via(net("10.244.2.0/24"), ip("192.168.1.12"), device) },
            Route { metric: Some(77), mtu: Some(1300), ..Route::to_device(net("10.244.3.0/24"), device) },
            Route::unreachable(net("10.244.1.0/24")),
            Route { mtu: Some(1300), ..Route::to_device(net("0.0.0.0/0"), device) },
            Route { source: Some(ip("fd00:244:1::1")), ..Route::to_device(net("fd00:244:1::2/128"), device) },
            Route { on_link: true, ..Route::via(net("fd00:244:2::/64"), ip("fe80::12"), device) },
            Route::unreachable(net("fd00:244:1::/64")),
        ];
        for route in &routes {
            node.replace_route(route).await.unwrap();
            node.replace_route(route).await.expect("replacing it by itself is fine");
        }
        let mut seen = node.routes().await.unwrap();
        seen.sort();
        routes = routes.into_iter().map(Route::canonical).collect();
        routes.sort();
        assert_eq!(seen, routes);
        for route in &routes {
            node.delete_route(route).await.unwrap();
            node.delete_route(route).await.expect("deleting it again is fine");
        }
        assert_eq!(node.routes().await.unwrap(), []);
    });
}

#[test]
fn the_kernels_way_to_an_address_is_resolved() {
    in_own_namespace(|| async {
        let pod_netns = new_namespace();
        let (node, device) = node_with_device(pod_netns.as_fd()).await;
        let error = node.resolve(ip("192.168.1.12")).await.unwrap_err();
        assert!(is_errno(&error, Errno::ENETUNREACH), "{error:#}");
        let error = node.resolve(ip("10.244.1.1")).await.unwrap_err();
        assert!(format!("{error:#}").contains("own addresses"), "{error:#}");

        node.add_address(device, net("192.168.1.11/24")).await.unwrap();
        let direct = NextHop { ifindex: device, gateway: None, source: Some(ip("192.168.1.11")), mtu: None };
        assert_eq!(node.resolve(ip("192.168.1.12")).await.unwrap(), direct);
        node.replace_route(&Route::via(net("0.0.0.0/0"), ip("192.168.1.1"), device)).await.unwrap();
        let routed = NextHop { gateway: Some(ip("192.168.1.1")), ..direct };
        assert_eq!(node.resolve(ip("192.0.2.1")).await.unwrap(), routed);

        node.add_address(device, net("fd00:1::11/64")).await.unwrap();
        let direct = NextHop { ifindex: device, gateway: None, source: Some(ip("fd00:1::11")), mtu: None };
        assert_eq!(node.resolve(ip("fd00:1::12")).await.unwrap(), direct);
    });
}

#[test]
fn permanent_neighbours_are_replaced_and_deleted() {
    in_own_namespace(|| async {
        let pod_netns = new_namespace();
        let (node, device) = node_with_device(pod_netns.as_fd()).await;
        for address in [ip("10.244.1.2"), ip("fd00:244:1::2")] {
            node.replace_permanent_neighbour(device, address, HOST_MAC).await.unwrap();
            node.replace_permanent_neighbour(device, address, POD_MAC).await.unwrap();
            assert_eq!(node.permanent_neighbours().await.unwrap(), [(device, address, POD_MAC)]);
            for _ in 0..2 {
                node.delete_neighbour(device, address).await.unwrap();
            }
            assert_eq!(node.permanent_neighbours().await.unwrap(), []);
        }
    });
}

async fn seen(changes: &mut (impl Stream<Item = Change> + Unpin), wanted: impl Fn(&Change) -> bool) {
    let look = async { while !wanted(&changes.next().await.expect("the stream goes on")) {} };
    tokio::time::timeout(Duration::from_secs(5), look).await.expect("the change is announced");
}

#[test]
fn changes_are_announced() {
    in_own_namespace(|| async {
        let pod_netns = new_namespace();
        let mut changes = Netlink::new().unwrap().watch().unwrap();
        let (node, device) = node_with_device(pod_netns.as_fd()).await;
        seen(
            &mut changes,
            |change| matches!(change, Change::Link { name, removed: false, .. } if name == "pl0"),
        )
        .await;
        seen(&mut changes, |change| matches!(change, Change::Address { .. })).await;
        let route = Route::to_device(net("10.244.1.2/32"), device);
        node.replace_route(&route).await.unwrap();
        seen(&mut changes, |change| matches!(change, Change::Route { ours: Some(found), to_host: true, removed: false } if **found == route)).await;
        node.replace_permanent_neighbour(device, ip("10.244.1.2"), POD_MAC).await.unwrap();
        seen(&mut changes, |change| *change == Change::Neighbour { ifindex: device, removed: false }).await;
        node.delete_link(device).await.unwrap();
        let gone = Change::Link { index: device, name: "pl0".to_owned(), removed: true };
        seen(&mut changes, |change| *change == gone).await;
    });
}

#[test]
fn many_routes_are_written_asked_for_and_deleted_at_once_and_announced_as_written() {
    in_own_namespace(|| async {
        let pod_netns = new_namespace();
        let (node, device) = node_with_device(pod_netns.as_fd()).await;
        node.add_address(device, net("192.168.1.11/24")).await.unwrap();
        node.set_up(device).await.unwrap();
        let mut changes = Netlink::new().unwrap().watch().unwrap();
        // More than are under way at a time.
        let cidr = |number: usize| net(&format!("10.{}.{}.0/24", number / 256, number % 256));
        let routes: Vec<Route> =
            (0..500).map(|number| Route::via(cidr(number), ip("192.168.1.12"), device).canonical()).collect();
        for (route, result) in node.replace_routes(routes.clone()).await {
            result.unwrap_or_else(|error| panic!("{route}: {error:#}"));
        }
        let present: BTreeSet<Route> = node.routes().await.unwrap().into_iter().collect();
        assert_eq!(present, routes.iter().cloned().collect());
        let last = routes.last().unwrap();
        let as_written = |change: &Change| matches!(change, Change::Route { ours: Some(route), to_host: false, removed: false } if **route == *last);
        seen(&mut changes, as_written).await;

        let wanted: Vec<IpAddr> = routes.iter().map(|route| route.destination.ip()).collect();
        let answers = node.resolve_all(wanted.clone()).await;
        assert_eq!(answers.len(), wanted.len());
        for (address, answer) in answers {
            let hop = answer.unwrap_or_else(|error| panic!("{address}: {error:#}"));
            assert_eq!((hop.ifindex, hop.gateway), (device, Some(ip("192.168.1.12"))));
        }
        node.delete_routes(routes).await.unwrap();
        assert_eq!(node.routes().await.unwrap(), []);
    });
}

#[test]
fn announcements_that_were_lost_are_announced() {
    in_own_namespace(|| async {
        let mut changes = Netlink::new().unwrap().watch().unwrap();
        // Nobody reads while another thread makes more changes than the kernel keeps.
        let busy = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let node = Netlink::new().unwrap();
                for _ in 0..2000 {
                    node.add_address(1, net("10.244.1.1/32")).await.unwrap();
                    node.delete_address(1, net("10.244.1.1/32")).await.unwrap();
                }
            });
        });
        busy.join().unwrap();
        seen(&mut changes, |change| *change == Change::Lost).await;
        Netlink::new().unwrap().add_address(1, net("10.244.1.1/32")).await.unwrap();
        seen(&mut changes, |change| *change == Change::Address { ifindex: 1 }).await;
    });
}

#[test]
fn only_a_network_namespace_is_taken_for_one() {
    in_own_namespace(|| async {
        let refused = |path: &str| format!("{:#}", namespace::open(path.as_ref()).unwrap_err());
        assert!(refused("/proc/self/status").contains("nsfs"));
        assert!(refused("/proc/self/ns/mnt").contains("not a network namespace"));
        assert!(refused("/nowhere/at/all").contains("/nowhere/at/all"));
        let pod_netns = new_namespace();
        let pod = namespace::open(&path_of(&pod_netns)).unwrap();
        assert!(!namespace::is_current(&pod).unwrap());
        let own = namespace::open("/proc/thread-self/ns/net".as_ref()).unwrap();
        assert!(namespace::is_current(&own).unwrap());
    });
}

#[test]
fn a_flow_based_vxlan_device_is_created_and_recognised() {
    in_own_namespace(|| async {
        let node = Netlink::new().unwrap();
        let link = node.create_vxlan("podlane.vxlan", HOST_MAC, 1450, 8472).await.unwrap();
        assert_eq!(node.link_by_name("podlane.vxlan").await.unwrap(), Some(link.clone()));
        assert_eq!(
            (link.kind.as_deref(), link.mac, link.mtu, link.up),
            (Some("vxlan"), Some(HOST_MAC), 1450, false)
        );
        assert_eq!(link.vxlan, Some(Vxlan { port: 8472, collect_metadata: true, zero_checksums: true }));
        node.set_mtu(link.index, 1430).await.unwrap();
        node.set_vxlan_up(&link, 8472).await.unwrap();
        let now = node.link_by_index(link.index).await.unwrap().unwrap();
        assert_eq!((now.mtu, now.up), (1430, true));

        // A second one on the port is refused by the time it is brought up.
        let error = match node.create_vxlan("other", POD_MAC, 1450, 8472).await {
            Ok(other) => node.set_vxlan_up(&other, 8472).await.unwrap_err(),
            Err(error) => error,
        };
        assert!(is_errno(&error, Errno::EEXIST) || is_errno(&error, Errno::EADDRINUSE), "{error:#}");
        assert!(error.to_string().contains("UDP port 8472 is taken"), "{error:#}");
    });
}

#[test]
fn tunnelled_routes_and_rules_read_back_as_they_were_written() {
    in_own_namespace(|| async {
        let pod_netns = new_namespace();
        let (node, _) = node_with_device(pod_netns.as_fd()).await;
        let device = node.create_vxlan("podlane.vxlan", HOST_MAC, 1450, 8472).await.unwrap();
        node.set_up(device.index).await.unwrap();
        let tunnel = |destination: &str, gateway: &str, remote: &str, source: &str| Route {
            on_link: true,
            source: Some(ip(source)),
            encap: Some(Encap { remote: ip(remote), vni: 0x00ab_cdef }),
            ..Route::via(net(destination), ip(gateway), device.index)
        };
        let mut routes = vec![
            tunnel("10.244.2.0/24", "192.168.2.12", "192.168.2.12", "10.244.1.1"),
            tunnel("10.244.3.0/24", "fe80::50:a8ff:fe02:d", "fd00:2::13", "10.244.1.1"),
            tunnel("fd00:244:2::/64", "fe80::50:a8ff:fe02:c", "192.168.2.12", "fd00:244:1::1"),
            tunnel("fd00:244:3::/64", "fe80::50:a8ff:fe02:d", "fd00:2::13", "fd00:244:1::1"),
            Route {
                table: PEER_TABLE,
                ..tunnel("192.168.2.12/32", "192.168.2.12", "192.168.2.12", "10.244.1.1")
            },
            Route {
                table: PEER_TABLE,
                ..tunnel("fd00:2::13/128", "fe80::50:a8ff:fe02:d", "fd00:2::13", "fd00:244:1::1")
            },
        ];
        for route in &routes {
            node.replace_route(route).await.unwrap();
            node.replace_route(route).await.expect("replacing it by itself is fine");
        }
        let mut seen = node.routes().await.unwrap();
        seen.sort();
        routes = routes.into_iter().map(Route::canonical).collect();
        routes.sort();
        assert_eq!(seen, routes);

        // A direct route takes a tunnelled one's place, and the other way round.
        let direct =
            Route { on_link: true, ..Route::via(net("10.244.2.0/24"), ip("192.168.1.12"), device.index) };
        node.replace_route(&direct).await.unwrap();
        assert_eq!(node.routes().await.unwrap().len(), routes.len());
        let back = routes.iter().find(|route| route.destination == direct.destination).unwrap();
        node.replace_route(back).await.unwrap();
        let mut seen = node.routes().await.unwrap();
        seen.sort();
        assert_eq!(seen, routes);
        for route in &routes {
            node.delete_route(route).await.unwrap();
        }
        assert_eq!(node.routes().await.unwrap(), []);

        let rules = [Rule { from: net("10.244.1.0/24") }, Rule { from: net("fd00:244:1::/64") }];
        for rule in rules.iter().chain(&rules) {
            node.add_rule(*rule).await.unwrap();
        }
        assert_eq!(node.rules().await.unwrap(), rules);
        for rule in rules.iter().chain(&rules) {
            node.delete_rule(*rule).await.unwrap();
        }
        assert_eq!(node.rules().await.unwrap(), []);
    });
}

#[test]
fn lists_asked_for_at_once_all_come() {
    in_own_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        let lists = (0..50).map(|_| async {
            netlink.links().await?;
            netlink.routes().await?;
            netlink.addresses().await?;
            netlink.rules().await?;
            netlink.permanent_neighbours().await.map(drop)
        });
        for result in futures_util::future::join_all(lists).await {
            result.unwrap();
        }
    });
}
