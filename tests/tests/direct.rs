//! What the plugin does before its C library starts, against an agent that is scripted here: a real one gives no broken
//! answers. With a real one all other tests go the same way.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use podlane_tests::{Binaries, Finished, Run};

const DIRECT: &str = "POST /v1/cni HTTP/1.1";
const PROPER: &str = "POST /v1/attachments HTTP/1.1";
/// What an agent answers to the plugin proper in these tests.
const REFUSAL: &str = r#"{"code":101,"msg":"no address is left"}"#;

/// An agent that answers `POST /v1/cni` with these bytes, and everything else with [`REFUSAL`].
struct Scripted {
    socket: PathBuf,
    requests: mpsc::Receiver<String>,
    _dir: tempfile::TempDir,
}

impl Scripted {
    fn start(answer: &'static [u8]) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&socket)?;
        let (sender, requests) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let request = read_request(&mut stream).unwrap_or_else(|error| format!("{error:#}"));
                let answer = if request.starts_with(DIRECT) {
                    answer.to_vec()
                } else {
                    let length = REFUSAL.len();
                    format!("HTTP/1.1 507 Insufficient Storage\r\ncontent-length: {length}\r\n\r\n{REFUSAL}")
                        .into_bytes()
                };
                if sender.send(request).is_err() {
                    return;
                }
                // In pieces: an answer comes as it comes.
                for piece in answer.chunks(20) {
                    let _ = stream.write_all(piece);
                }
            }
        });
        Ok(Self { socket, requests, _dir: dir })
    }

    fn request(&self) -> anyhow::Result<String> {
        self.requests.recv_timeout(Duration::from_secs(20)).context("the plugin did not ask")
    }
}

fn read_request(stream: &mut UnixStream) -> anyhow::Result<String> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let read = stream.read(&mut piece)?;
        ensure!(read > 0, "the request breaks off: {}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&piece[..read]);
        let text = String::from_utf8(bytes.clone())?;
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.context("the request does not say how long it is")?.parse()? {
            return Ok(text);
        }
    }
}

fn plugin() -> anyhow::Result<PathBuf> {
    let path = Binaries::find()?.podlane_cni;
    // Statically linked where the C library's archive is there: libc6-dev has it.
    let executable = fs_err::read(&path)?;
    let is_dynamic = executable.windows(6).any(|bytes| bytes == b"/ld-li");
    ensure!(!is_dynamic, "{} is not linked statically: is libc.a missing?", path.display());
    Ok(path)
}

fn add(config: &str) -> anyhow::Result<Finished> {
    let environment = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "a1"),
        ("CNI_NETNS", "/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "K8S_POD_NAME=cart"),
        ("PATH", "/usr/bin:/bin"),
        ("SECRET", "hidden"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    Run::new(plugin()?).environment(environment).stdin(config.to_owned()).finish()
}

fn config(socket: &Path) -> String {
    format!(r#"{{"cniVersion":"1.0.0","name":"podlane","socket":"{}"}}"#, socket.display())
}

#[test]
fn an_agents_answer_is_handed_back_as_it_is() -> anyhow::Result<()> {
    let agent = Scripted::start(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{\"a\": 1}")?;
    let config = config(&agent.socket);
    let finished = add(&config)?;
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(0), r#"{"a": 1}"#));
    assert_eq!(finished.stderr, "");
    let request = agent.request()?;
    let (head, body) = request.split_once("\r\n\r\n").context("no body")?;
    assert!(head.starts_with(DIRECT), "{head}");
    let (environment, text) = body.split_once("\0\0").context("no environment")?;
    assert_eq!(text, config);
    let variables: Vec<_> = environment.split('\0').collect();
    assert!(variables.contains(&"CNI_COMMAND=ADD") && variables.contains(&"CNI_ARGS=K8S_POD_NAME=cart"));
    assert!(!body.contains("hidden"), "other variables are nobody's business: {body}");
    assert!(agent.requests.try_recv().is_err(), "there is a second request");
    Ok(())
}

#[test]
fn an_agents_refusal_is_printed_and_the_call_fails() -> anyhow::Result<()> {
    let agent = Scripted::start(
        b"HTTP/1.1 422 Unprocessable Entity\r\ncontent-length: 25\r\n\r\n{\"code\":102,\"msg\":\"why?\"}",
    )?;
    let finished = add(&config(&agent.socket))?;
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(1), r#"{"code":102,"msg":"why?"}"#));
    assert!(finished.stderr.contains("why?"), "{}", finished.stderr);
    Ok(())
}

#[test]
fn without_a_good_answer_the_plugin_proper_asks_for_itself() -> anyhow::Result<()> {
    for answer in [
        // An agent that does not know the path yet.
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}".as_slice(),
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{\"a\"",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"garbage\r\n\r\n",
        b"",
    ] {
        let shown = String::from_utf8_lossy(answer);
        let agent = Scripted::start(answer)?;
        let finished = add(&config(&agent.socket))?;
        ensure!(agent.request()?.starts_with(DIRECT), "{shown}");
        let proper = agent.request().with_context(|| format!("after {shown:?}"))?;
        ensure!(proper.starts_with(PROPER) && proper.contains("cart"), "after {shown:?}: {proper}");
        ensure!(finished.code == Some(1) && finished.stdout.contains("no address is left"), "{finished:?}");
    }
    Ok(())
}

#[test]
fn an_agent_that_says_nothing_is_asked_again() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&socket)?;
    let call = std::thread::spawn({
        let config = config(&socket);
        move || add(&config)
    });
    let (mut silent, _) = listener.accept()?;
    ensure!(read_request(&mut silent)?.starts_with(DIRECT));
    let (mut second, _) = listener.accept()?;
    ensure!(read_request(&mut second)?.starts_with(PROPER));
    drop((silent, second));
    let finished = call.join().map_err(|_| anyhow::anyhow!("the call died"))??;
    ensure!(finished.code == Some(1) && finished.stdout.contains("\"code\":11"), "{finished:?}");
    Ok(())
}

#[test]
fn what_is_not_plain_is_the_plugin_propers_from_the_beginning() -> anyhow::Result<()> {
    let good = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
    let padding = "x".repeat(100_000);
    for field in [r#""dns":{"domain":"a\u002eb"}"#.to_owned(), format!(r#""comment":"{padding}""#)] {
        let agent = Scripted::start(good)?;
        let config = config(&agent.socket).replace("\"name\"", &format!("{field},\"name\""));
        let finished = add(&config)?;
        // It has read its whole configuration, though a part had been read before.
        ensure!(agent.request()?.starts_with(PROPER), "{finished:?}");
    }
    // Nobody listens, and it says so.
    let finished = add(&config(Path::new("/nonexistent/agent.sock")))?;
    ensure!(finished.code == Some(1) && finished.stdout.contains("/nonexistent/agent.sock"), "{finished:?}");
    Ok(())
}
