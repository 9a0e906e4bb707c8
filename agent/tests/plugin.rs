//! The plugin as a runtime calls it: a process with an environment, stdin and stdout. No agent, no root.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests stop at the first broken expectation")]

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const CONFIG: &str =
    r#"{"cniVersion":"1.0.0","name":"podlane","type":"podlane-cni","socket":"/nowhere/agent.sock"}"#;
const ADD: [(&str, &str); 4] = [
    ("CNI_COMMAND", "ADD"),
    ("CNI_CONTAINERID", "a1"),
    ("CNI_NETNS", "/run/netns/x"),
    ("CNI_IFNAME", "eth0"),
];

/// Exit status and stdout.
fn plugin(variables: &[(&str, &str)], stdin: &str) -> (bool, Value) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_podlane-cni"))
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It need not read stdin when the environment is wrong already.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let value = if stdout.is_empty() { Value::Null } else { serde_json::from_str(&stdout).expect(&stdout) };
    (output.status.success(), value)
}

fn error(variables: &[(&str, &str)], stdin: &str) -> (u64, String) {
    let (success, value) = plugin(variables, stdin);
    assert!(!success, "{value}");
    assert!(value["cniVersion"].is_string(), "{value}");
    (value["code"].as_u64().unwrap(), value["msg"].as_str().unwrap().to_owned())
}

#[test]
fn versions_are_told_without_an_agent() {
    let expected =
        json!({ "cniVersion": "1.1.0", "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] });
    assert_eq!(plugin(&[("CNI_COMMAND", "VERSION")], r#"{"cniVersion":"1.1.0"}"#), (true, expected));
    let (success, value) = plugin(&[("CNI_COMMAND", "VERSION")], "");
    assert!(success && value["cniVersion"] == "1.0.0", "{value}");
}

#[test]
fn a_bad_environment_is_error_4_and_names_the_variable() {
    let (code, msg) = error(&[], CONFIG);
    assert!(code == 4 && msg.contains("CNI_COMMAND"), "{code} {msg}");
    for (missing, _) in &ADD[1..] {
        let variables: Vec<_> = ADD.into_iter().filter(|(name, _)| name != missing).collect();
        let (code, msg) = error(&variables, CONFIG);
        assert!(code == 4 && msg.contains(missing), "{code} {msg}");
    }
    let (code, msg) = error(&[("CNI_COMMAND", "DESTROY")], CONFIG);
    assert!(code == 4 && msg.contains("DESTROY"), "{code} {msg}");
}

#[test]
fn bad_configurations_have_their_codes() {
    assert_eq!(error(&ADD, "{").0, 6);
    assert_eq!(error(&ADD, "").0, 6);
    assert_eq!(error(&ADD, r#"{"cniVersion":"9.9.9","name":"p"}"#).0, 1);
    assert_eq!(error(&ADD, r#"{"cniVersion":"1.0.0"}"#).0, 7);
    let (code, msg) = error(&ADD, r#"{"cniVersion":"1.0.0","name":"p","ipam":{"type":"host-local"}}"#);
    assert!(code == 7 && msg.contains("CNI_PATH"), "{code} {msg}");
    let gc = [("CNI_COMMAND", "GC")];
    assert_eq!(error(&gc, CONFIG).0, 1, "1.0.0 has no GC");
    assert_eq!(error(&gc, &CONFIG.replace("1.0.0", "1.1.0")).0, 7, "without a list nothing is collected");
}

#[test]
fn without_an_agent_it_is_try_again_later_at_once() {
    let start = Instant::now();
    let (code, msg) = error(&ADD, CONFIG);
    assert!(code == 11 && msg.contains("/nowhere/agent.sock"), "{code} {msg}");
    let del = [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "a1"), ("CNI_NETNS", ""), ("CNI_IFNAME", "eth0")];
    assert_eq!(error(&del, CONFIG).0, 11);
    assert_eq!(error(&[("CNI_COMMAND", "STATUS")], &CONFIG.replace("1.0.0", "1.1.0")).0, 50);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[test]
fn an_agent_that_does_not_accept_is_try_again_later_within_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    // A listener whose backlog is full: further connections wait.
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
    let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).unwrap();
    bind(std::os::fd::AsRawFd::as_raw_fd(&listener), &UnixAddr::new(&path).unwrap()).unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let _waiting = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let start = Instant::now();
    let (code, msg) = error(&ADD, &CONFIG.replace("/nowhere/agent.sock", path.to_str().unwrap()));
    assert_eq!(code, 11, "{msg}");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}
