//! A small client of the agent's API, for the plugin and the CLI. It blocks, and needs no runtime: a runtime like that of
//! a daemon would take the plugin longer to start than the request takes.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt::SendTimeout,
};
use nix::sys::time::TimeVal;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cni::{Error, code};
use crate::pods::{AttachRequest, Key, Record};

/// Longer than a busy agent needs to accept, shorter than anybody's patience.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(800);
/// Kubelet gives a pod's set-up minutes; an agent that needs this long is stuck.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Enough for what the agent says before the body.
const MOST_HEADERS: usize = 32;

/// The answer to `GET /healthz`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Health {
    /// Why the agent is not healthy; empty when it is.
    pub problems: Vec<String>,
    /// Whether it has started: from then on a problem may concern pods that are there.
    #[serde(default)]
    pub ready: bool,
}

/// The agent behind a socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
}

impl Client {
    /// A client of the agent on this socket. Does not connect yet.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), timeout: REQUEST_TIMEOUT }
    }

    /// The same with another limit for a whole request.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Makes an attachment.
    pub fn attach(&self, request: &AttachRequest) -> Result<Record, Error> {
        let body =
            serde_json::to_vec(request).map_err(|error| Error::new(code::DECODE, error.to_string()))?;
        decode(&self.call("POST", "/v1/attachments", &body)?)
    }

    /// Removes an attachment; fine when there is none.
    pub fn detach(&self, key: &Key) -> Result<(), Error> {
        self.call("DELETE", &path(key), &[]).map(drop)
    }

    /// Checks an attachment.
    pub fn check(&self, key: &Key) -> Result<Record, Error> {
        decode(&self.call("GET", &format!("{}/check", path(key)), &[])?)
    }

    /// All attachments.
    pub fn list(&self) -> Result<Vec<Record>, Error> {
        decode(&self.call("GET", "/v1/attachments", &[])?)
    }

    /// The agent's status.
    pub fn status(&self) -> Result<Value, Error> {
        decode(&self.call("GET", "/v1/status", &[])?)
    }

    /// How the agent is.
    pub fn health(&self) -> Result<Health, Error> {
        let (_, body) = self.exchange("GET", "/healthz", &[])?;
        decode(&body)
    }

    fn call(&self, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>, Error> {
        let (status, body) = self.exchange(method, path, body)?;
        if (200..300).contains(&status) {
            return Ok(body);
        }
        Err(serde_json::from_slice(&body).unwrap_or_else(|_| {
            Error::new(code::IO, format!("the agent answered {status} to {path}"))
                .details(String::from_utf8_lossy(&body))
        }))
    }

    /// One request and its answer: the status and the body.
    fn exchange(&self, method: &str, path: &str, body: &[u8]) -> Result<(u16, Vec<u8>), Error> {
        let socket = self.socket.display();
        let absent = |why: String| {
            Error::new(code::AGENT_ABSENT, format!("the podlane agent is not reachable on {socket}"))
                .details(why)
        };
        let mut stream = reach(&self.socket).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => absent(format!("no connection within {CONNECT_TIMEOUT:?}")),
            _ => absent(error.to_string()),
        })?;
        let answer = self.converse(&mut stream, method, path, body).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => absent(format!("no answer within {:?}", self.timeout)),
            _ => absent(format!("the connection broke: {error}")),
        })?;
        split(&answer).map_err(|why| absent(format!("the connection broke: {why}")))
    }

    fn converse(
        &self,
        stream: &mut UnixStream,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> io::Result<Vec<u8>> {
        stream.set_write_timeout(Some(self.timeout))?;
        stream.set_read_timeout(Some(self.timeout))?;
        // Closed behind the answer, whose end is then the connection's.
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nhost: podlane\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        stream.write_all(&request)?;
        let mut answer = Vec::with_capacity(4096);
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    }
}

/// Connects; the kernel waits for room in the agent's queue, as long as it is told.
fn reach(path: &Path) -> io::Result<UnixStream> {
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let patience = TimeVal::new(0, CONNECT_TIMEOUT.subsec_micros().into());
    setsockopt(&socket, SendTimeout, &patience)?;
    loop {
        match connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &UnixAddr::new(path)?) {
            Err(Errno::EINTR) => {}
            other => return other.map(|()| UnixStream::from(socket)).map_err(Into::into),
        }
    }
}

/// The status and the body of an answer.
fn split(answer: &[u8]) -> Result<(u16, Vec<u8>), String> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let parsed = head.parse(answer).map_err(|error| error.to_string())?;
    let (httparse::Status::Complete(length), Some(status)) = (parsed, head.code) else {
        return Err("the answer breaks off in its head".to_owned());
    };
    let body = answer.get(length..).unwrap_or_default();
    let header = |name: &str| {
        let header = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok()
    };
    // The agent always knows how long its answer is.
    match header("content-length").and_then(|length| length.trim().parse::<usize>().ok()) {
        Some(length) if length == body.len() => Ok((status, body.to_owned())),
        Some(length) => Err(format!("the answer breaks off after {} of {length} bytes", body.len())),
        None => Err("the answer does not say how long it is".to_owned()),
    }
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body)
        .map_err(|error| Error::new(code::DECODE, "the agent's answer is odd").details(error.to_string()))
}

fn path(key: &Key) -> String {
    format!("/v1/attachments/{}/{}", escape(&key.container_id), escape(&key.if_name))
}

/// Percent-encodes what is not plain in a path segment.
fn escape(segment: &str) -> String {
    let mut escaped = String::new();
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    // A segment of dots alone would be walked like a folder.
    if escaped.chars().all(|c| c == '.') { escaped.replace('.', "%2E") } else { escaped }
}
