//! The side that measures.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context as _;

use super::protocol::PATIENCE;
use super::report::Row;
use super::{latency, throughput};

/// Who answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Server {
    pub(super) address: IpAddr,
    pub(super) port: u16,
}

impl Server {
    pub(super) fn connect(self) -> anyhow::Result<TcpStream> {
        let to = SocketAddr::from((self.address, self.port));
        let stream = TcpStream::connect_timeout(&to, PATIENCE)
            .with_context(|| format!("connecting to {to}: does `podlane bench server` run there?"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }
}

/// Everything, one measure after the other.
pub(super) fn measure(server: Server, duration: Duration, iperf3: bool) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut take = |metric: &'static str, unit, value, tool| rows.push(Row { metric, unit, value, tool });

    let mut tcp = latency::tcp(server, duration).context("measuring TCP round trips")?;
    take("tcp-rtt-p50", "µs", tcp.percentile(50), "podlane");
    take("tcp-rtt-p99", "µs", tcp.percentile(99), "podlane");
    let mut udp = latency::udp(server, duration).context("measuring UDP round trips")?;
    take("udp-rtt-p50", "µs", udp.percentile(50), "podlane");
    take("udp-rtt-p99", "µs", udp.percentile(99), "podlane");
    take("udp-rtt-lost", "packets", f64::from(u32::try_from(udp.lost).unwrap_or(u32::MAX)), "podlane");
    let connections = latency::connections(server, duration).context("counting connections")?;
    take("tcp-connections", "connections/s", connections, "podlane");
    for (metric, lost, payload) in
        [("udp-64-pps", "udp-64-lost", 64), ("udp-1400-pps", "udp-1400-lost", 1400)]
    {
        let (rate, share) = throughput::packets(server, payload, duration).context("counting packets")?;
        take(metric, "packets/s", rate, "podlane");
        take(lost, "%", share * 100.0, "podlane");
    }
    for (metric, streams) in [("tcp-1-throughput", 1), ("tcp-8-throughput", 8)] {
        let by_iperf3 = if iperf3 { throughput::iperf3(server, streams, duration)? } else { None };
        let (rate, tool) = match by_iperf3 {
            Some(rate) => (rate, "iperf3"),
            None => (throughput::bulk(server, streams, duration).context("sending in bulk")?, "podlane"),
        };
        take(metric, "Gbit/s", rate, tool);
    }
    Ok(rows)
}
