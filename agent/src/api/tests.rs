//! The API over a real socket, with pods in namespaces (needs root).

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::bind;
use super::client::Client;
use super::testing::TestAgent;
use crate::cni::code;
use crate::netlink::testing::{in_own_namespace, new_namespace, path_of};
use crate::pods::{AttachRequest, Key};

/// Sends bytes as they are, returns the whole answer.
async fn raw(socket: &Path, request: &str) -> String {
    let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Asks beside the agent's runtime: the client blocks.
async fn ask<A: Clone + Send + 'static, T: Send + 'static>(
    client: &Client,
    argument: &A,
    call: fn(&Client, &A) -> T,
) -> T {
    let (client, argument) = (client.clone(), argument.clone());
    tokio::task::spawn_blocking(move || call(&client, &argument)).await.unwrap()
}

#[test]
fn the_api_attaches_lists_checks_and_detaches() {
    in_own_namespace(|| async {
        let agent = TestAgent::start().await;
        let (path, manager, status) = (agent.socket(), agent.manager.clone(), agent.status.clone());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let client = Client::new(&path);
        let pod: OwnedFd = new_namespace();
        let request = AttachRequest {
            container_id: "a1".to_owned(),
            netns: path_of(&pod).to_str().unwrap().to_owned(),
            if_name: "et#0 ".trim().to_owned(),
            namespace: None,
            pod: None,
            uid: None,
            mac: None,
            wanted: Default::default(),
        };
        let key = request.key();

        // Before the restore.
        assert_eq!(ask(&client, &request, Client::attach).await.unwrap_err().code, code::TRY_AGAIN_LATER);
        assert_eq!(
            ask(&client, &(), |client, ()| client.health()).await.unwrap().problems,
            ["still starting"]
        );
        manager.restore().await.unwrap();
        status.ready.store(true, Ordering::Relaxed);
        assert!(ask(&client, &(), |client, ()| client.health()).await.unwrap().problems.is_empty());
        assert_eq!(ask(&client, &(), |client, ()| client.status()).await.unwrap()["node"], "node1");

        let record = ask(&client, &request, Client::attach).await.unwrap();
        assert_eq!(record.addresses[0].to_string(), "10.244.1.2");
        assert_eq!(
            ask(&client, &(), |client, ()| client.list()).await.unwrap(),
            std::slice::from_ref(&record)
        );
        assert_eq!(ask(&client, &key, Client::check).await.unwrap(), record);
        ask(&client, &key, Client::detach).await.unwrap();
        ask(&client, &key, Client::detach).await.expect("again is fine");
        assert_eq!(ask(&client, &key, Client::check).await.unwrap_err().code, code::UNKNOWN_CONTAINER);
        assert_eq!(
            ask(&client, &Key::new("..", "eth0"), Client::detach).await.unwrap_err().code,
            code::INVALID_ENVIRONMENT
        );

        // Odd requests get answers that help.
        let post = |body: &str| {
            format!(
                "POST /v1/attachments HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        for (body, why) in [("{", "EOF"), ("{}", "containerID"), ("", "EOF"), ("[1]", "attachment request")] {
            let answer = raw(&path, &post(body)).await;
            assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
            assert!(answer.contains("\"code\":6") && answer.contains(why), "{answer}");
        }
        let answer = raw(&path, "GET /v2 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("no such path: /v2"), "{answer}");
        let answer = raw(&path, "PUT /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 405") && answer.contains("no such method"), "{answer}");

        agent.stop().await;
        assert!(!path.exists(), "the socket is gone");
        assert_eq!(ask(&client, &(), |client, ()| client.list()).await.unwrap_err().code, code::AGENT_ABSENT);
    });
}

#[test]
fn a_runtimes_call_is_answered_in_its_own_words() {
    in_own_namespace(|| async {
        let agent = TestAgent::start().await;
        let path = agent.socket();
        let pod: OwnedFd = new_namespace();
        let netns = path_of(&pod).to_str().unwrap().to_owned();
        let call = |command: &str, config: &str| {
            let body = format!(
                "CNI_COMMAND={command}\0CNI_CONTAINERID=a1\0CNI_NETNS={netns}\0CNI_IFNAME=eth0\0\0{config}"
            );
            let length = body.len();
            format!(
                "POST /v1/cni HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
            )
        };
        let plain = r#"{"cniVersion":"1.0.0","name":"podlane"}"#;
        let answered = async |command: &str, config: &str, status: &str, what: &str| {
            let answer = raw(&path, &call(command, config)).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(what), "{answer}");
        };
        // Before the restore: the plugin has its own patience.
        answered("ADD", plain, "503", "content-length: 0").await;
        agent.manager.restore().await.unwrap();
        answered("ADD", plain, "200", r#""address":"10.244.1.2/32""#).await;
        answered("ADD", plain, "200", r#""address":"10.244.1.2/32""#).await;
        answered("CHECK", plain, "503", "content-length: 0").await;
        let delegated = plain.replace("\"name\"", "\"ipam\":{\"type\":\"host-local\"},\"name\"");
        answered("ADD", &delegated, "503", "content-length: 0").await;
        answered("ADD", &plain.replace("podlane", "?"), "422", r#""cniVersion":"1.0.0","code":7"#).await;
        answered("DEL", plain, "200", "content-length: 0").await;
        answered("DEL", plain, "200", "content-length: 0").await;
        assert!(agent.manager.is_empty());
        agent.stop().await;
    });
}

#[tokio::test]
async fn a_stale_socket_is_replaced_a_served_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/agent.sock");
    let first = bind(&path).unwrap();
    let error = bind(&path).unwrap_err().to_string();
    assert!(error.contains("another agent is serving"), "{error}");
    drop(first);
    assert!(!path.exists());
    // A killed agent leaves the file behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(bind(&path).unwrap());
    // Or a child in whose hands the socket lives a little longer.
    let going = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let child = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(50));
        drop(going);
    });
    drop(bind(&path).unwrap());
    child.join().unwrap();
    std::fs::write(&path, "a file").unwrap();
    let error = bind(&path).unwrap_err().to_string();
    assert!(error.contains("is not a socket"), "{error}");
}
