//! What the source says, whatever the API server does. Needs no root.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy does not see that these functions belong to tests: whatever fails here fails the test"
)]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use podlane::cluster::{
    AGENT_NOT_READY, Cluster, ClusterSource as _, KubernetesSettings, KubernetesSource, PodDirectory, Update,
};
use podlane_tests::sources::{KubernetesSource as Lab, ScriptedApi};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// For what must happen, on a busy machine with back-off.
const PATIENCE: Duration = Duration::from_secs(150);

/// A source and what belongs to it.
struct Stage {
    server: ScriptedApi,
    updates: mpsc::Receiver<Update>,
    ready: watch::Sender<bool>,
    pods: PodDirectory,
    _folder: tempfile::TempDir,
}

fn node(number: usize) -> Value {
    let (high, low) = (number / 250, number % 250);
    json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": {"name": format!("node{number:04}"), "labels": {"kubernetes.io/os": "linux"}},
        "spec": {"podCIDR": format!("10.{high}.{low}.0/24"), "podCIDRs": [format!("10.{high}.{low}.0/24")]},
        "status": {"addresses": [{"type": "InternalIP", "address": format!("192.168.{high}.{low}")}]},
    })
}

fn server() -> ScriptedApi {
    ScriptedApi::start(None, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap()
}

/// `count` nodes, and a source that runs as node0001.
fn stage(count: usize) -> Stage {
    let server = server();
    for number in 1..=count {
        server.put("nodes", node(number));
    }
    start(server)
}

fn start(server: ScriptedApi) -> Stage {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    std::fs::write(&path, Lab::kubeconfig(&server.url(), "secret", "")).unwrap();
    start_with(server, path, folder)
}

fn start_with(server: ScriptedApi, path: PathBuf, folder: tempfile::TempDir) -> Stage {
    let (sender, updates) = mpsc::channel(1);
    let (ready, ready_receiver) = watch::channel(false);
    let pods = PodDirectory::default();
    let settings = KubernetesSettings { kubeconfig: Some(path), server: None };
    let source = KubernetesSource::new(settings, "node0001".into(), ready_receiver, pods.clone());
    tokio::spawn(source.run(sender));
    Stage { server, updates, ready, pods, _folder: folder }
}

impl Stage {
    async fn update(&mut self) -> Update {
        timeout(PATIENCE, self.updates.recv()).await.expect("no update came").expect("the source ended")
    }

    async fn cluster(&mut self) -> Cluster {
        match self.update().await {
            Update::Cluster(cluster) => cluster,
            Update::Problem(problem) => panic!("a problem instead of a cluster: {problem}"),
        }
    }

    /// The next problem that has `part` in it; every update before it must be a problem, too.
    async fn problem(&mut self, part: &str) -> String {
        loop {
            match self.update().await {
                Update::Problem(problem) if problem.contains(part) => return problem,
                Update::Problem(_) => {}
                Update::Cluster(cluster) => panic!("a cluster instead of a problem: {cluster:?}"),
            }
        }
    }

    /// The first cluster after problems.
    async fn recovered(&mut self) -> Cluster {
        loop {
            if let Update::Cluster(cluster) = self.update().await {
                return cluster;
            }
        }
    }

    /// A cluster of which something holds; clusters before it are fine, problems are not.
    async fn cluster_with(&mut self, what: &str, wanted: impl Fn(&Cluster) -> bool) -> Cluster {
        loop {
            let cluster = self.cluster().await;
            if wanted(&cluster) {
                return cluster;
            }
            eprintln!("not yet {what}: {} nodes", cluster.names().count());
        }
    }

    async fn wait(&self, what: &str, wanted: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !wanted(self) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(timeout(PATIENCE, waiting).await.is_ok(), "never: {what}; {:#?}", self.server.requests());
    }

    fn requests(&self, part: &str) -> Vec<String> {
        self.server.requests().into_iter().filter(|request| request.contains(part)).collect()
    }

    /// A watch of nodes runs.
    async fn watching(&self) {
        self.wait("a watch of nodes", |stage| !stage.requests("/nodes?&watch=true").is_empty()).await;
    }
}

fn count(cluster: &Cluster) -> usize {
    cluster.names().count()
}

#[tokio::test]
async fn nodes_are_listed_page_by_page_and_told_when_all_are_known() {
    let mut stage = stage(450);
    let cluster = stage.cluster().await;
    assert_eq!((count(&cluster), cluster.refused()), (450, &[][..]));
    assert_eq!(stage.requests("/nodes?&limit=200").len(), 3, "{:?}", stage.server.requests());
}

#[tokio::test]
async fn joins_changes_and_leaves_are_told() {
    let mut stage = stage(2);
    assert_eq!(count(&stage.cluster().await), 2);
    stage.server.put("nodes", node(3));
    assert!(stage.cluster().await.node("node0003").is_some());
    let mut moved = node(2);
    moved["status"]["addresses"] = json!([
        {"type": "InternalIP", "address": "192.168.9.9"}, {"type": "InternalIP", "address": "fd00::9"},
    ]);
    stage.server.put("nodes", moved);
    let cluster = stage.cluster().await;
    let addresses: Vec<String> =
        cluster.node("node0002").unwrap().addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.168.9.9", "fd00::9"]);
    stage.server.delete("nodes", "node0003");
    assert!(stage.cluster().await.node("node0003").is_none());
}

#[tokio::test]
async fn a_list_that_breaks_off_is_a_problem_and_no_cluster() {
    let server = server();
    for number in 1..=450 {
        server.put("nodes", node(number));
    }
    server.fail(|faults| faults.further_pages = Some(500));
    let mut stage = start(server);
    let problem = stage.problem("cannot list nodes").await;
    assert!(problem.contains(&stage.server.url()) && problem.contains("(500)"), "{problem}");
    stage.server.fail(|faults| faults.further_pages = None);
    assert_eq!(count(&stage.recovered().await), 450);
}

#[tokio::test]
async fn a_slow_list_is_waited_for() {
    let server = server();
    for number in 1..=450 {
        server.put("nodes", node(number));
    }
    server.fail(|faults| faults.slow = Duration::from_secs(1));
    let mut stage = start(server);
    assert_eq!(count(&stage.cluster().await), 450);
}

#[tokio::test]
async fn heartbeats_are_no_news() {
    let mut stage = stage(2);
    stage.cluster().await;
    stage.watching().await;
    for beat in 0..50 {
        let mut beating = node(2);
        beating["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "lastHeartbeatTime": format!("2026-01-01T00:00:{beat:02}Z")}]);
        stage.server.put("nodes", beating);
    }
    stage.server.put("nodes", node(3));
    assert_eq!(count(&stage.cluster().await), 3, "a heartbeat was told as a change");
}

#[tokio::test]
async fn an_outage_is_a_problem_that_removes_nothing_and_ends() {
    let mut stage = stage(3);
    stage.cluster().await;
    stage.watching().await;
    stage.server.stop();
    let problem = stage.problem("cannot be reached").await;
    assert!(problem.contains(&stage.server.url()), "{problem}");
    stage.server.resume().unwrap();
    // Nothing has happened meanwhile: no event comes, and still the problem is solved.
    assert_eq!(count(&stage.recovered().await), 3);
    assert_eq!(stage.requests("/nodes?&limit").len(), 1, "the nodes were listed again without need");

    stage.server.stop();
    stage.problem("cannot be reached").await;
    stage.server.delete("nodes", "node0002");
    stage.server.put("nodes", node(4));
    stage.server.resume().unwrap();
    let mut cluster = stage.recovered().await;
    while cluster.node("node0004").is_none() || cluster.node("node0002").is_some() {
        assert!(cluster.node("node0001").is_some() && cluster.node("node0003").is_some(), "{cluster:?}");
        cluster = stage.cluster().await;
    }
}

#[tokio::test]
async fn an_outage_at_the_start_is_waited_out() {
    let server = server();
    server.put("nodes", node(1));
    server.stop();
    let mut stage = start(server);
    stage.problem("cannot be reached").await;
    stage.server.resume().unwrap();
    assert_eq!(count(&stage.recovered().await), 1);
}

#[tokio::test]
async fn errors_of_the_server_are_waited_out() {
    let mut stage = stage(2);
    stage.cluster().await;
    stage.watching().await;
    stage.server.fail(|faults| faults.status = Some(500));
    stage.server.tear_watches();
    stage.problem("cannot watch nodes: the script says so (500)").await;
    stage.server.fail(|faults| faults.status = None);
    assert_eq!(count(&stage.recovered().await), 2);
}

#[tokio::test]
async fn a_refusal_names_the_rights_that_are_lacking() {
    let server = server();
    server.fail(|faults| faults.status = Some(403));
    let mut stage = start(server);
    let problem = stage.problem("refuses to list nodes").await;
    assert!(problem.contains("deploy/kubernetes/rbac.yaml"), "{problem}");
    // The rights are given.
    stage.server.fail(|faults| faults.status = None);
    stage.recovered().await;
}

#[tokio::test]
async fn a_torn_watch_goes_on_where_it_was() {
    let mut stage = stage(2);
    stage.cluster().await;
    stage.watching().await;
    for number in 3..8 {
        stage.server.tear_watches();
        stage.server.put("nodes", node(number));
        stage.cluster_with("the new node", |cluster| count(cluster) == number).await;
    }
    assert_eq!(stage.requests("/nodes?&limit").len(), 1, "the nodes were listed again without need");
}

#[tokio::test]
async fn bookmarks_move_the_place_where_a_watch_goes_on() {
    let mut stage = stage(2);
    stage.cluster().await;
    stage.watching().await;
    let version = stage.server.bookmark("nodes");
    // The event after it shows that it has been read.
    stage.server.put("nodes", node(3));
    stage.cluster().await;
    stage.server.delete("nodes", "node0003");
    stage.cluster().await;
    let last = stage.server.bookmark("nodes");
    assert!(last > version);
    // Nothing shows when it has been read: look where watches go on until it has.
    let wanted = format!("resourceVersion={last}");
    let reading = async {
        while stage.requests(&wanted).is_empty() {
            tokio::time::sleep(Duration::from_millis(200)).await;
            stage.server.tear_watches();
        }
    };
    assert!(timeout(PATIENCE, reading).await.is_ok(), "{:#?}", stage.server.requests());
}

#[tokio::test]
async fn what_was_forgotten_is_listed_again() {
    for as_status in [false, true] {
        let mut stage = stage(3);
        stage.cluster().await;
        stage.watching().await;
        stage.server.fail(|faults| faults.gone_as_status = as_status);
        stage.server.stop();
        stage.problem("cannot be reached").await;
        stage.server.delete("nodes", "node0002");
        stage.server.put("nodes", node(4));
        stage.server.compact();
        stage.server.resume().unwrap();
        let mut cluster = stage.recovered().await;
        while cluster.node("node0004").is_none() {
            // The old state in full, or the new one: nothing between.
            assert_eq!(count(&cluster), 3, "{cluster:?}");
            cluster = stage.recovered().await;
        }
        assert!(cluster.node("node0002").is_none() && count(&cluster) == 3, "{cluster:?}");
        // And watched.
        stage.server.put("nodes", node(5));
        stage.cluster_with("the fifth", |cluster| cluster.node("node0005").is_some()).await;
    }
}

#[tokio::test]
async fn nodes_without_addresses_or_pod_cidrs_are_left_out_by_name() {
    let server = server();
    let (mut without_cidr, mut without_address) = (node(2), node(3));
    without_cidr["spec"] = json!({});
    without_address["status"] = json!({"addresses": [{"type": "Hostname", "address": "node0003"}]});
    for object in [node(1), without_cidr, without_address, node(4)] {
        server.put("nodes", object);
    }
    let mut stage = start(server);
    let cluster = stage.cluster().await;
    assert_eq!(cluster.names().collect::<Vec<_>>(), ["node0001", "node0004"]);
    let refused = cluster.refused().join("\n");
    assert!(
        refused.contains("node0002 has no podCIDRs") && refused.contains("node0003 has no InternalIP"),
        "{refused}"
    );
    // As the controller manager and the kubelet do after a while.
    stage.server.put("nodes", node(2));
    stage.server.put("nodes", node(3));
    let cluster = stage.cluster_with("all four", |cluster| count(cluster) == 4).await;
    assert_eq!(cluster.refused(), &[] as &[String]);
}

#[tokio::test]
async fn the_older_node_keeps_a_pod_cidr_that_two_have() {
    let server = server();
    // The younger one is first by name.
    server.put("nodes", node(2));
    let mut younger = node(1);
    younger["spec"] = node(2)["spec"].clone();
    server.put("nodes", younger);
    let mut stage = start(server);
    let cluster = stage.cluster().await;
    assert_eq!(cluster.names().collect::<Vec<_>>(), ["node0002"], "{:?}", cluster.refused());
    assert!(cluster.refused()[0].contains("node0001"), "{:?}", cluster.refused());
}

#[tokio::test]
async fn credentials_may_come_later_than_the_agent() {
    let server = server();
    server.put("nodes", node(1));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    let text = Lab::kubeconfig(&server.url(), "secret", "");
    let mut stage = start_with(server, path.clone(), folder);
    let problem = stage.problem("kubernetes.kubeconfig").await;
    assert!(problem.contains(path.to_str().unwrap()), "{problem}");
    std::fs::write(&path, text).unwrap();
    assert_eq!(count(&stage.recovered().await), 1);
}

fn taint(key: &str) -> Value {
    json!({"key": key, "effect": "NoSchedule", "timeAdded": "2026-01-01T00:00:00Z"})
}

/// The own node with both taints, and a cloud's word that its network is not available.
fn newborn() -> Value {
    let mut own = node(1);
    own["spec"]["taints"] = json!([taint("example.com/other"), taint(AGENT_NOT_READY)]);
    own["status"]["conditions"] = json!([
        {"type": "Ready", "status": "True"}, {"type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated"},
    ]);
    own
}

fn is_announced(stage: &Stage) -> bool {
    let own = stage.server.object("nodes", "node0001").unwrap();
    let conditions = own["status"]["conditions"].as_array().cloned().unwrap_or_default();
    own["spec"]["taints"] == json!([taint("example.com/other")])
        && conditions.len() == 2
        && conditions.iter().any(|condition| {
            condition["type"] == "NetworkUnavailable"
                && condition["status"] == "False"
                && condition["reason"] == "PodlaneIsUp"
        })
}

#[tokio::test]
async fn a_node_that_is_ready_is_announced_and_keeps_other_taints_and_conditions() {
    let server = server();
    server.put("nodes", newborn());
    let mut stage = start(server);
    stage.cluster().await;
    stage.watching().await;
    assert_eq!(stage.requests("PATCH"), [] as [String; 0], "announced before it is ready");
    // Others write the node at the same time.
    stage.server.fail(|faults| faults.conflicts = 2);
    stage.ready.send_replace(true);
    stage.wait("announced", is_announced).await;
    // Registered anew, as after a reinstallation.
    stage.server.delete("nodes", "node0001");
    stage.server.put("nodes", newborn());
    stage.wait("announced again", is_announced).await;
    let elsewhere: Vec<_> =
        stage.requests("PATCH").into_iter().filter(|request| !request.contains("/node0001")).collect();
    assert_eq!(elsewhere, [] as [String; 0]);
}

#[tokio::test]
async fn a_condition_that_says_available_for_another_reason_is_ours_once() {
    let server = server();
    let mut own = node(1);
    own["status"]["conditions"] =
        json!([{"type": "NetworkUnavailable", "status": "False", "reason": "RouteCreated"}]);
    server.put("nodes", own.clone());
    let stage = start(server);
    stage.ready.send_replace(true);
    stage.wait("our reason", |stage| stage.requests("PATCH").len() == 1).await;
    // A cloud's controller insists on its reason: let it.
    stage.server.put("nodes", own);
    stage.server.put("nodes", newborn());
    stage
        .wait("no taint", |stage| {
            stage.server.object("nodes", "node0001").unwrap()["spec"]["taints"]
                == json!([taint("example.com/other")])
        })
        .await;
    let status = stage.requests("/status");
    assert_eq!(status.len(), 2, "{status:#?}");
}

fn pod(node: &str, name: &str, uid: &str) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "shop", "uid": uid, "labels": {"app": name}},
        "spec": {"nodeName": node},
    })
}

#[tokio::test]
async fn the_pods_of_this_node_are_known_by_name_with_their_labels() {
    let stage = stage(1);
    stage.server.put("pods", pod("node0001", "cart", "1"));
    stage.server.put("pods", pod("node0002", "far", "2"));
    let uid = |stage: &Stage| stage.pods.get("shop", "cart").map(|details| details.uid.clone());
    stage.wait("the pod", |stage| uid(stage).as_deref() == Some("1")).await;
    assert_eq!(stage.pods.get("shop", "cart").unwrap().labels["app"], "cart");
    // Replaced under the same name, while the watch is away.
    stage.server.tear_watches();
    stage.server.delete("pods", "shop/cart");
    stage.server.put("pods", pod("node0001", "cart", "3"));
    stage.wait("the new pod", |stage| uid(stage).as_deref() == Some("3")).await;
    stage.server.delete("pods", "shop/cart");
    stage.wait("no pod", |stage| stage.pods.is_empty()).await;
    let asked = stage.requests("/pods");
    assert!(
        asked.iter().all(|request| request.contains("fieldSelector=spec.nodeName%3Dnode0001")),
        "{asked:?}"
    );
}
