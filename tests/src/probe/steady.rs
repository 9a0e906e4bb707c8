//! Traffic that goes on while something else happens: datagrams a millisecond apart and TCP conversations, all of
//! which have to survive it.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use super::source::connect;
use crate::lab::Pod;

/// Between two messages.
const INTERVAL: Duration = Duration::from_millis(1);
/// For answers that are still on their way at the end.
const PATIENCE: Duration = Duration::from_secs(2);
/// A connection that stands still for so long is broken; on a busy machine a thread may have to wait for seconds.
const STALL: Duration = Duration::from_secs(30);
/// Seconds of datagrams: a busy machine's scheduler must not look like a lossy network.
const BUFFER: usize = 8 << 20;
/// More than a segment.
const TCP_MESSAGE: usize = 4096;

/// What a conversation saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Messages sent.
    pub sent: usize,
    /// Messages whose answer never came.
    pub lost: usize,
    /// The longest time that a message took there and back.
    pub slowest: Duration,
}

/// A conversation that is under way, until [`Self::finish`].
#[derive(Debug)]
pub struct Steady {
    label: String,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<Seen>>,
}

impl Steady {
    /// Datagrams from `client` to `server`, which echoes them.
    pub fn udp(client: &Pod, server: &Pod) -> anyhow::Result<Self> {
        let bind = |pod: &Pod| -> anyhow::Result<UdpSocket> {
            let socket = pod.namespace().run(|| UdpSocket::bind((pod.address(), 0)))??;
            setsockopt(&socket, RcvBufForce, &BUFFER)?;
            Ok(socket)
        };
        let (near, far) = (bind(client)?, bind(server)?);
        near.connect(far.local_addr()?)?;
        Self::start(format!("UDP {} -> {}", client.label(), server.label()), move |stop| {
            let over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let echo = scope.spawn(|| echo(&far, &over));
                let seen = ask(&near, stop);
                over.store(true, Ordering::Relaxed);
                echo.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                seen
            })
        })
    }

    /// A TCP connection from `client` to `server`, which echoes all. It ends with an error if it is reset or stalls.
    pub fn tcp(client: &Pod, server: &Pod) -> anyhow::Result<Self> {
        let ((far, _), near) = connect(client.namespace(), server.namespace(), server.address())?;
        Self::over_tcp(format!("TCP {} -> {}", client.label(), server.label()), near, far)
    }

    pub(super) fn over_tcp(label: String, mut near: TcpStream, mut far: TcpStream) -> anyhow::Result<Self> {
        for stream in [&near, &far] {
            stream.set_read_timeout(Some(STALL))?;
        }
        Self::start(label, move |stop| {
            std::thread::scope(|scope| {
                let echo = scope.spawn(move || -> anyhow::Result<()> {
                    let mut buffer = [0; TCP_MESSAGE];
                    loop {
                        match far.read(&mut buffer).context("the echoing end")? {
                            0 => return Ok(()),
                            length => far.write_all(&buffer[..length])?,
                        }
                    }
                });
                let seen = converse(&mut near, stop);
                drop(near);
                echo.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                seen
            })
        })
    }

    pub(super) fn start(
        label: String,
        work: impl FnOnce(&AtomicBool) -> anyhow::Result<Seen> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        Ok(Self { label, stop, thread: std::thread::Builder::new().spawn(move || work(&flag))? })
    }

    /// Ends it and tells what it saw.
    pub fn finish(self) -> anyhow::Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let seen = seen.with_context(|| self.label.clone())?;
        ensure!(seen.sent > 0, "{}: nothing was sent", self.label);
        ensure!(seen.lost == 0, "{}: {} of {} messages were lost", self.label, seen.lost, seen.sent);
        Ok(seen)
    }
}

/// The messages say when they were sent, so that the two threads share nothing.
fn ask(socket: &UdpSocket, stop: &AtomicBool) -> anyhow::Result<Seen> {
    let (sent, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (sent, over, begin) = (&sent, &over, Instant::now());
    std::thread::scope(|scope| {
        let answers = scope.spawn(move || -> anyhow::Result<(usize, Duration)> {
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            let (mut buffer, mut count, mut slowest) = ([0; 8], 0, Duration::ZERO);
            let mut last = Instant::now();
            while !over.load(Ordering::Relaxed)
                || (count < sent.load(Ordering::Relaxed) && last.elapsed() < PATIENCE)
            {
                match socket.recv(&mut buffer) {
                    Ok(_) => {
                        last = Instant::now();
                        let asked = Duration::from_nanos(u64::from_be_bytes(buffer));
                        slowest = slowest.max(begin.elapsed().saturating_sub(asked));
                        count += 1;
                    }
                    Err(error) if is_nothing(&error) => {}
                    Err(error) => return Err(error).context("receiving"),
                }
            }
            Ok((count, slowest))
        });
        let mut next = begin;
        let asked = loop {
            if stop.load(Ordering::Relaxed) {
                break Ok(());
            }
            let now = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
            if let Err(error) = socket.send(&now.to_be_bytes()) {
                break Err(error).context("sending");
            }
            sent.fetch_add(1, Ordering::Relaxed);
            next += INTERVAL;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        };
        over.store(true, Ordering::Relaxed);
        let answers = answers.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        asked?;
        let ((count, slowest), sent) = (answers?, sent.load(Ordering::Relaxed));
        Ok(Seen { sent, lost: sent - count, slowest })
    })
}

/// Nothing came in time; or the process was stopped meanwhile and continued (`signal(7)`), as a virtual machine's may be.
fn is_nothing(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted)
}

fn echo(socket: &UdpSocket, over: &AtomicBool) -> anyhow::Result<()> {
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut buffer = [0; 8];
    while !over.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => drop(socket.send_to(&buffer[..length], from).context("echoing")?),
            Err(error) if is_nothing(&error) => {}
            Err(error) => return Err(error).context("the echoing end"),
        }
    }
    Ok(())
}

fn converse(stream: &mut TcpStream, stop: &AtomicBool) -> anyhow::Result<Seen> {
    let mut seen = Seen::default();
    let mut answer = [0; TCP_MESSAGE];
    while !stop.load(Ordering::Relaxed) {
        let message = [u8::try_from(seen.sent % 251)?; TCP_MESSAGE];
        let start = Instant::now();
        stream.write_all(&message).context("sending")?;
        stream.read_exact(&mut answer).context("waiting for the answer")?;
        ensure!(answer == message, "the answer is another one");
        seen.slowest = seen.slowest.max(start.elapsed());
        seen.sent += 1;
        std::thread::sleep(INTERVAL);
    }
    Ok(seen)
}
