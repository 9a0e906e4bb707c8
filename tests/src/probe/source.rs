//! Whose address a server sees: without NAT, the client pod's own.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};

use anyhow::{Context as _, ensure};

use super::path::Path;
use super::{PairResult, probe_pairs, tcp};
use crate::lab::{Namespace, Pod};

/// More than one segment, so that a broken checksum or MTU shows as well.
const MESSAGE: [u8; 5000] = [0x42; 5000];

/// A TCP connection from a process in `client` to one in `server` at `address`. Both ends, the server's first.
pub fn connect(
    client: &Namespace,
    server: &Namespace,
    address: IpAddr,
) -> anyhow::Result<((TcpStream, SocketAddr), TcpStream)> {
    let tcp::Connection { accepted, outgoing, .. } = tcp::connect(&Path::new(client, server, address))?;
    let peer = accepted.peer_addr()?;
    Ok(((accepted, peer), outgoing))
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
