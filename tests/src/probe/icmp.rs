//! ICMP echo, with a look at the server who asks.

use std::net::IpAddr;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, bail};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, recvfrom, setsockopt, socket,
    sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::path::{PATIENCE, Path};

/// Echo requests there, replies back; gives the client's address as the server sees it.
pub fn echo(path: &Path<'_>) -> anyhow::Result<IpAddr> {
    let address = path.listen.ip();
    let (family, protocol, request) = if address.is_ipv4() {
        (AddressFamily::Inet, SockProtocol::Icmp, 8)
    } else {
        (AddressFamily::Inet6, SockProtocol::IcmpV6, 128)
    };
    let witness =
        path.server.run(|| socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, Some(protocol)))?;
    let witness = witness.with_context(|| format!("a raw socket in {}", path.server.name()))?;
    setsockopt(&witness, ReceiveTimeout, &TimeVal::seconds(i64::try_from(PATIENCE.as_secs())?))?;
    let target = path.target(path.listen).ip().to_string();
    let ping = ["ping", "-n", "-q", "-c", "3", "-i", "0.01", "-W", "4", "-s", "1000", &target];
    path.client.command(ping).read()?;
    let mut buffer = vec![0; 2048];
    loop {
        let (length, source) = recvfrom::<SockaddrStorage>(witness.as_raw_fd(), &mut buffer)
            .context("the server saw no echo request")?;
        let message = buffer.get(..length).unwrap_or_default();
        // With IPv4, the header comes along.
        let start = match (address, message.first()) {
            (IpAddr::V4(_), Some(first)) => usize::from(first & 0x0f) * 4,
            _ => 0,
        };
        if message.get(start) == Some(&request) {
            let source = source.context("an echo request without a source")?;
            let v4 = source.as_sockaddr_in().map(|source| IpAddr::V4(source.ip()));
            let v6 = source.as_sockaddr_in6().map(|source| IpAddr::V6(source.ip()));
            match v4.or(v6) {
                Some(source) => return Ok(source),
                None => bail!("an echo request from {source}"),
            }
        }
    }
}
