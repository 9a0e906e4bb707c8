//! What client and server say to each other: one line each over TCP says what is to be measured, and UDP packets carry a
//! kind and the number of a run.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, bail};

/// What a TCP connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Every message of [`MESSAGE`] bytes comes back.
    Echo,
    /// Everything is read; at the end the number of bytes comes back.
    Sink,
    /// How many packets of this run have come?
    Count(u64),
    /// Starts iperf3 for one test; it is ended with this connection.
    Iperf3,
}

/// Bytes of an echoed message, TCP and UDP.
pub(super) const MESSAGE: usize = 64;

/// Kind of a UDP packet that comes back.
pub(super) const ECHO: u8 = b'E';
/// Kind of a UDP packet that is counted.
pub(super) const COUNT: u8 = b'C';
/// Bytes that kind and run take.
pub(super) const HEADER: usize = 9;

/// A side that says nothing for so long is gone.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The first bytes of a UDP packet.
pub(super) fn header(kind: u8, run: u64) -> [u8; HEADER] {
    let mut header = [kind; HEADER];
    header[1..].copy_from_slice(&run.to_be_bytes());
    header
}

/// Kind and run of a UDP packet; `None` where it is none of ours.
pub(super) fn parse(packet: &[u8]) -> Option<(u8, u64)> {
    let (&kind, rest) = packet.split_first()?;
    let run = rest.first_chunk::<8>()?;
    matches!(kind, ECHO | COUNT).then(|| (kind, u64::from_be_bytes(*run)))
}

impl Request {
    /// Sends it, and reads the server's consent: a line that may say more.
    pub(super) fn send(self, stream: &mut TcpStream) -> anyhow::Result<String> {
        let line = match self {
            Self::Echo => "podlane-bench echo\n".to_owned(),
            Self::Sink => "podlane-bench sink\n".to_owned(),
            Self::Count(run) => format!("podlane-bench count {run}\n"),
            Self::Iperf3 => "podlane-bench iperf3\n".to_owned(),
        };
        stream.write_all(line.as_bytes()).context("asking the server")?;
        let answer = read_line(stream).context("reading the server's answer")?;
        match answer.split_once(' ') {
            Some(("ok", more)) => Ok(more.to_owned()),
            Some(("no", why)) => bail!("the server cannot: {why}"),
            _ => bail!("\"{answer}\" is no answer of a bench server: is it `podlane bench server`?"),
        }
    }

    /// Reads one.
    pub(super) fn receive(stream: &mut TcpStream) -> anyhow::Result<Self> {
        let line = read_line(stream)?;
        let mut words = line.split(' ');
        match (words.next(), words.next(), words.next()) {
            (Some("podlane-bench"), Some("echo"), None) => Ok(Self::Echo),
            (Some("podlane-bench"), Some("sink"), None) => Ok(Self::Sink),
            (Some("podlane-bench"), Some("count"), Some(run)) => Ok(Self::Count(run.parse()?)),
            (Some("podlane-bench"), Some("iperf3"), None) => Ok(Self::Iperf3),
            _ => bail!("\"{line}\" is no request of a bench client"),
        }
    }
}

/// A line, and not a byte more: what follows may not be one.
fn read_line(stream: &mut TcpStream) -> anyhow::Result<String> {
    let mut line = Vec::new();
    BufReader::with_capacity(1, stream).take(200).read_until(b'\n', &mut line)?;
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_say_what_they_are_and_strangers_are_not_understood() {
        assert_eq!(parse(&header(COUNT, 7)), Some((COUNT, 7)));
        assert_eq!(parse(&header(b'x', 7)), None);
        assert_eq!(parse(b"E1234567"), None);
    }
}
