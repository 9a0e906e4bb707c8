//! ICMP echo, by the `ping` everybody has.

use std::net::IpAddr;

use super::{PairResult, probe_pairs};
use crate::lab::{Namespace, Pod};

/// Sends one echo request from `namespace` and waits up to two seconds for its reply.
pub fn ping(namespace: &Namespace, target: IpAddr) -> anyhow::Result<()> {
    namespace.command(["ping", "-n", "-q", "-c", "1", "-W", "2", &target.to_string()]).read().map(|_| ())
}

/// Pings every pair's second pod from its first, at all addresses it has.
pub fn ping_pairs(pairs: &[(Pod, Pod)], progress: impl Fn() + Sync) -> Vec<PairResult> {
    let probe = |client: &Pod, server: &Pod| {
        server.addresses().try_for_each(|address| ping(client.namespace(), address))
    };
    probe_pairs(pairs, 12, probe, progress)
}
