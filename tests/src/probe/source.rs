//! Whose address a server sees: without NAT, the client pod's own.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::{PairResult, probe_pairs};
use crate::lab::{Namespace, Pod};

const PATIENCE: Duration = Duration::from_secs(2);
/// More than one segment, so that a broken checksum or MTU shows as well.
const MESSAGE: [u8; 5000] = [0x42; 5000];

/// A TCP connection from a process in `client` to one in `server` at `address`. Both ends, the server's first.
pub fn connect(
    client: &Namespace,
    server: &Namespace,
    address: IpAddr,
) -> anyhow::Result<((TcpStream, SocketAddr), TcpStream)> {
    let listener = server.run(|| TcpListener::bind((address, 0)))?;
    let listener = listener.with_context(|| format!("listening on {address} in {}", server.name()))?;
    let target = listener.local_addr()?;
    let outgoing = client.run(|| TcpStream::connect_timeout(&target, PATIENCE))?;
    let outgoing = outgoing.with_context(|| format!("connecting to {target} from {}", client.name()))?;
    // The handshake's last packet may still be on its way, or lost.
    setsockopt(&listener, ReceiveTimeout, &TimeVal::milliseconds(PATIENCE.as_millis().try_into()?))?;
    let accepted = listener.accept().with_context(|| format!("accepting a connection on {target}"))?;
    for stream in [&accepted.0, &outgoing] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
    }
    Ok((accepted, outgoing))
}

/// The client's address as a server at `address` sees it; some data passes as well.
pub fn seen_by(client: &Namespace, server: &Namespace, address: IpAddr) -> anyhow::Result<IpAddr> {
    let ((mut accepted, peer), mut outgoing) = connect(client, server, address)?;
    outgoing.write_all(&MESSAGE).context("sending")?;
    let mut received = [0; MESSAGE.len()];
    accepted.read_exact(&mut received).context("receiving")?;
    ensure!(received == MESSAGE, "the data arrived changed");
    Ok(peer.ip())
}

/// Checks for every pair that the second pod sees the first's own address, in every family it has.
pub fn check_pairs(pairs: &[(Pod, Pod)], progress: impl Fn() + Sync) -> Vec<PairResult> {
    let probe = |client: &Pod, server: &Pod| {
        server.addresses().try_for_each(|address| {
            let seen = seen_by(client.namespace(), server.namespace(), address)?;
            ensure!(client.addresses().any(|own| own == seen), "the server sees {seen}");
            Ok(())
        })
    };
    probe_pairs(pairs, 8, probe, progress)
}
