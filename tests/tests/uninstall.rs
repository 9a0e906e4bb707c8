//! The hook that ends an agent's container: `podlane install-cni --remove --if-uninstalled`.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, ensure};
use podlane_tests::{Binaries, Finished, Run};
use serde_json::{Value, json};

/// Runs the hook against an API server that answers its one request so; gives what it asked for as well.
fn hook(folder: &std::path::Path, status: &str, body: &Value) -> anyhow::Result<(Finished, String)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let server = format!("http://{}", listener.local_addr()?);
    let body = body.to_string();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let api = std::thread::spawn(move || -> anyhow::Result<String> {
        let (mut stream, _) = listener.accept()?;
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            request.extend(byte);
        }
        stream.write_all(answer.as_bytes())?;
        Ok(String::from_utf8_lossy(&request).into_owned())
    });
    let done = run(folder, &server)?;
    let request = api.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok((done, request))
}

fn run(folder: &std::path::Path, server: &str) -> anyhow::Result<Finished> {
    let kubeconfig = folder.join("kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{ "name": "here", "cluster": { "server": server } }],
        "users": [{ "name": "me", "user": { "token": "secret" } }],
        "contexts": [{ "name": "here", "context": { "cluster": "here", "user": "me" } }],
    });
    fs_err::write(&kubeconfig, config.to_string())?;
    Run::new(Binaries::find()?.podlane)
        .args(["install-cni", "--remove", "--if-uninstalled", "kube-system/podlane", "--bin-dir"])
        .arg(folder)
        .arg("--conf-dir")
        .arg(folder)
        .arg("--kubernetes-kubeconfig")
        .arg(&kubeconfig)
        .finish()
}

#[test]
fn the_configuration_goes_with_the_daemon_set_and_stays_when_it_is_updated() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (plugin, conflist) = (folder.path().join("podlane-cni"), folder.path().join("10-podlane.conflist"));
    fs_err::write(&plugin, "#!/bin/sh\n")?;
    fs_err::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755))?;
    let set = |deleted: Option<&str>| {
        let metadata = json!({ "name": "podlane", "namespace": "kube-system", "deletionTimestamp": deleted });
        json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata })
    };
    let refused = |code: u16, reason: &str| json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code });
    for (status, body, stays, code) in [
        ("200 OK", set(None), true, 0),
        ("200 OK", set(Some("2026-01-01T00:00:00Z")), false, 0),
        ("404 Not Found", refused(404, "NotFound"), false, 0),
        // Its permissions went first, or its account.
        ("403 Forbidden", refused(403, "Forbidden"), false, 0),
        ("401 Unauthorized", refused(401, "Unauthorized"), false, 0),
        // An API server in trouble is no uninstallation.
        ("500 Internal Server Error", refused(500, "InternalError"), true, 1),
        ("429 Too Many Requests", refused(429, "TooManyRequests"), true, 1),
    ] {
        fs_err::write(&conflist, "{}")?;
        let (done, request) = hook(folder.path(), status, &body)?;
        ensure!(done.code == Some(code), "{status}: {done:?}");
        ensure!(conflist.exists() == stays, "{status}: {done:?}");
        ensure!(plugin.exists(), "{status}: the plugin detaches what is left");
        let line = request.lines().next().context("no request")?;
        ensure!(line == "GET /apis/apps/v1/namespaces/kube-system/daemonsets/podlane HTTP/1.1", "{request}");
    }
    // Nobody answers at all.
    fs_err::write(&conflist, "{}")?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let done = run(folder.path(), &format!("http://127.0.0.1:{port}"))?;
    ensure!(done.code == Some(1) && conflist.exists(), "{done:?}");
    ensure!(done.stderr.contains("kube-system/podlane"), "{done:?}");
    Ok(())
}
