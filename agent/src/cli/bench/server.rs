//! The side that answers.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::protocol::{COUNT, ECHO, MESSAGE, PATIENCE, Request, parse};

/// So many runs at once are counted.
const MOST_RUNS: usize = 1000;

/// Packets by run.
type Counts = Arc<Mutex<HashMap<u64, u64>>>;

pub(super) fn run(port: u16) -> anyhow::Result<()> {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    // On `::` both families arrive; where there is no IPv6, IPv4 only.
    let (listener, socket) = match TcpListener::bind(any) {
        Ok(listener) => (listener, UdpSocket::bind(any)),
        Err(_) => {
            let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            let listener = TcpListener::bind(any).with_context(|| format!("listening on TCP port {port}"))?;
            (listener, UdpSocket::bind(any))
        }
    };
    let socket = socket.with_context(|| format!("listening on UDP port {port}"))?;
    let counts = Counts::default();
    let counting = counts.clone();
    std::thread::spawn(move || answer_packets(&socket, &counting));
    println!("answering on TCP and UDP port {port}");
    for stream in listener.incoming() {
        let (stream, counts) = (stream.context("accepting a client")?, counts.clone());
        std::thread::spawn(move || {
            if let Err(error) = answer(stream, &counts, port) {
                eprintln!("a client: {error:#}");
            }
        });
    }
    Ok(())
}

fn answer_packets(socket: &UdpSocket, counts: &Counts) {
    let mut packet = [0; 2048];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut packet) else { continue };
        match parse(&packet[..length]) {
            Some((ECHO, _)) => {
                // A client that is gone needs no answer.
                let _ = socket.send_to(&packet[..length], from);
            }
            Some((COUNT, run)) => {
                let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
                // Of runs whose clients never asked.
                if counts.len() > MOST_RUNS {
                    counts.clear();
                }
                *counts.entry(run).or_default() += 1;
            }
            _ => {}
        }
    }
}

fn answer(mut stream: TcpStream, counts: &Counts, port: u16) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    match Request::receive(&mut stream)? {
        Request::Echo => {
            stream.write_all(b"ok go\n")?;
            let mut message = [0; MESSAGE];
            // The client ends by leaving.
            while stream.read_exact(&mut message).is_ok() {
                stream.write_all(&message)?;
            }
        }
        Request::Sink => {
            stream.write_all(b"ok go\n")?;
            let (mut buffer, mut total) = (vec![0; 256 * 1024], 0_u64);
            loop {
                match stream.read(&mut buffer)? {
                    0 => break,
                    length => total += length as u64,
                }
            }
            stream.write_all(&total.to_be_bytes())?;
        }
        Request::Count(run) => {
            // What the client has sent last may still be on its way.
            std::thread::sleep(Duration::from_millis(100));
            let count = counts.lock().unwrap_or_else(PoisonError::into_inner).remove(&run).unwrap_or(0);
            writeln!(stream, "ok {count}")?;
        }
        Request::Iperf3 => serve_iperf3(&mut stream, port.wrapping_add(1))?,
    }
    Ok(())
}

/// Runs iperf3's server for one test, for as long as the client is there.
fn serve_iperf3(stream: &mut TcpStream, port: u16) -> anyhow::Result<()> {
    let started = Command::new("iperf3")
        .args(["--server", "--one-off", "--port", &port.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut server = match started {
        Ok(server) => server,
        Err(error) => {
            writeln!(stream, "no iperf3 here: {error}")?;
            return Ok(());
        }
    };
    let done = wait_listening(port).and_then(|()| {
        writeln!(stream, "ok {port}")?;
        stream.set_read_timeout(None)?;
        // Nothing comes: the connection's end is what is waited for.
        let _ = stream.read(&mut [0]);
        Ok(())
    });
    // It may have ended by itself, as it should.
    let _ = server.kill();
    server.wait().context("waiting for iperf3")?;
    done
}

/// Until somebody listens on a TCP port; connecting would be the one test.
fn wait_listening(port: u16) -> anyhow::Result<()> {
    // `local_address` as the kernel prints it, state 0A: listening.
    let wanted = format!(":{port:04X}");
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
            let lines = std::fs::read_to_string(table).unwrap_or_default();
            let listening = |line: &str| {
                let mut words = line.split_whitespace().skip(1);
                words.next().is_some_and(|local| local.ends_with(&wanted)) && words.nth(1) == Some("0A")
            };
            if lines.lines().any(listening) {
                return Ok(());
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("iperf3 does not listen on port {port}")
}
