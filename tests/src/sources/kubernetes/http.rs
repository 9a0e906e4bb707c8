//! As much of HTTP/1.1 as an API client speaks to a server.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use anyhow::Context as _;
use serde_json::{Value, json};

/// A request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Request {
    /// The next one of a connection; `None` when the client has closed it.
    pub(super) fn read(stream: &mut BufReader<TcpStream>) -> anyhow::Result<Option<Self>> {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, target) = (words.next().context("no method")?, words.next().context("no target")?);
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(':') else { break };
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").map_or(Ok(0), |length| length.parse())?;
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        Ok(Some(Self { method, target, headers, body }))
    }

    /// The parts of the path behind `/api/v1`.
    pub(super) fn path(&self) -> Vec<&str> {
        let path = self.target.split('?').next().unwrap_or_default();
        path.trim_start_matches("/api/v1/").split('/').collect()
    }

    /// A parameter of the query.
    pub(super) fn parameter(&self, key: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.find(|(name, _)| *name == key)?;
        Some(value.replace("%3D", "=").replace("%3A", ":"))
    }

    /// Whether only metadata is asked for.
    pub(super) fn metadata_only(&self) -> bool {
        self.headers.get("accept").is_some_and(|accept| accept.contains("as=PartialObjectMetadata"))
    }

    /// The body.
    pub(super) fn json(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&self.body)?)
    }
}

/// An answer.
pub(super) fn respond(stream: &mut TcpStream, status: u16, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status} Scripted\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes())
}

/// The head of an answer without an end, to be followed by [`send_line`].
pub(super) fn begin_lines(stream: &mut TcpStream) -> std::io::Result<()> {
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
}

/// A part of that answer.
pub(super) fn send_line(stream: &mut TcpStream, line: &str) -> std::io::Result<()> {
    stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes())
}

/// The end of that answer.
pub(super) fn end_lines(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"0\r\n\r\n")
}

/// What the API answers instead of what was asked for.
pub(super) fn refusal(code: u16, reason: &str, message: &str) -> (u16, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                        "message": message, "reason": reason, "code": code});
    (code, status)
}
