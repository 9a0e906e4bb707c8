//! A small client of the agent's API, for the plugin and the CLI. One connection per request; works on any tokio
//! runtime with I/O and time.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::cni::{Error, code};
use crate::pods::{AttachRequest, Key, Record};

/// Longer than a busy agent needs to accept, shorter than anybody's patience.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(800);
/// How often to knock at an agent whose queue is full.
const CONNECT_RETRY: Duration = Duration::from_millis(20);
/// Kubelet gives a pod's set-up minutes; an agent that needs this long is stuck.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

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
    pub async fn attach(&self, request: &AttachRequest) -> Result<Record, Error> {
        let body =
            serde_json::to_vec(request).map_err(|error| Error::new(code::DECODE, error.to_string()))?;
        decode(&self.call(Method::POST, "/v1/attachments", body).await?)
    }

    /// Removes an attachment; fine when there is none.
    pub async fn detach(&self, key: &Key) -> Result<(), Error> {
        self.call(Method::DELETE, &path(key), Vec::new()).await.map(drop)
    }

    /// Checks an attachment.
    pub async fn check(&self, key: &Key) -> Result<Record, Error> {
        decode(&self.call(Method::GET, &format!("{}/check", path(key)), Vec::new()).await?)
    }

    /// All attachments.
    pub async fn list(&self) -> Result<Vec<Record>, Error> {
        decode(&self.call(Method::GET, "/v1/attachments", Vec::new()).await?)
    }

    /// The agent's status.
    pub async fn status(&self) -> Result<Value, Error> {
        decode(&self.call(Method::GET, "/v1/status", Vec::new()).await?)
    }

    /// How the agent is.
    pub async fn health(&self) -> Result<Health, Error> {
        let (_, body) = self.exchange(Method::GET, "/healthz", Vec::new()).await?;
        decode(&body)
    }

    async fn call(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Bytes, Error> {
        let (status, body) = self.exchange(method, path, body).await?;
        if status.is_success() {
            return Ok(body);
        }
        Err(serde_json::from_slice(&body).unwrap_or_else(|_| {
            Error::new(code::IO, format!("the agent answered {status} to {path}"))
                .details(String::from_utf8_lossy(&body))
        }))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), Error> {
        let socket = self.socket.display();
        let absent = |why: String| {
            Error::new(code::AGENT_ABSENT, format!("the podlane agent is not reachable on {socket}"))
                .details(why)
        };
        let stream = timeout(CONNECT_TIMEOUT, connect(&self.socket))
            .await
            .map_err(|_| absent(format!("no connection within {CONNECT_TIMEOUT:?}")))?
            .map_err(|error| absent(error.to_string()))?;
        let exchange = async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            let driver = tokio::spawn(connection);
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header("host", "podlane")
                .header("content-type", "application/json")
                .body(Full::new(Bytes::from(body)));
            let request = match request {
                Ok(request) => request,
                Err(error) => return Ok(Err(Error::new(code::IO, format!("asking for {path}: {error}")))),
            };
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            driver.abort();
            Ok::<_, hyper::Error>(Ok((status, body)))
        };
        timeout(self.timeout, exchange)
            .await
            .map_err(|_| absent(format!("no answer within {:?}", self.timeout)))?
            .map_err(|error| absent(format!("the connection broke: {error}")))?
    }
}

/// Connects; waits where the agent's queue is full, which the kernel reports instead of waiting itself.
async fn connect(socket: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(socket).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(CONNECT_RETRY).await
            }
            other => return other,
        }
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
