//! The packets that are measured, and what must become of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, bail};
use dataplane_common::bench::{Scenario, Series};
use dataplane_common::{Forwarded, Hook, PassReason, Verdict};
use etherparse::PacketBuilder;

/// How much a node has to do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub flows: u32,
    pub pods: u32,
    pub nodes: u32,
}

/// Where packets come from or go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The local pod whose interface the packets come in at.
    Client,
    /// The local pods, one after the other.
    LocalPods,
    /// A pod on each peer node, one after the other.
    RemotePods,
    /// Something that is no pod.
    Outside,
}

/// A way through a program.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    pub program: &'static str,
    pub name: &'static str,
    pub from: End,
    pub to: End,
    pub ipv6: bool,
    /// The return code (`linux/pkt_cls.h`).
    pub action: i32,
    /// What our own programs count.
    pub counted: Option<(Hook, Verdict)>,
}

const UNSPEC: i32 = -1;
const REDIRECT: i32 = 7;

const fn ours(hook: Hook, name: &'static str, from: End, to: End, ipv6: bool, verdict: Verdict) -> Path {
    let action = if matches!(verdict, Verdict::Forwarded(_)) { REDIRECT } else { UNSPEC };
    Path { program: hook.name(), name, from, to, ipv6, action, counted: Some((hook, verdict)) }
}

const fn floor(program: &'static str, name: &'static str, to: End) -> Path {
    Path { program, name, from: End::Client, to, ipv6: false, action: REDIRECT, counted: None }
}

const TO_POD: Verdict = Verdict::Forwarded(Forwarded::ToPod);
const TO_PEER: Verdict = Verdict::Forwarded(Forwarded::ToPeer);
const NOT_POD: Verdict = Verdict::Pass(PassReason::NotPod);

/// Every way that is measured; `floor_return` is subtracted from each.
pub const PATHS: [Path; 12] = [
    ours(Hook::FromPod, "to-local-pod", End::Client, End::LocalPods, false, TO_POD),
    ours(Hook::FromPod, "to-peer", End::Client, End::RemotePods, false, TO_PEER),
    ours(Hook::FromPod, "pass", End::Client, End::Outside, false, NOT_POD),
    ours(Hook::FromWire, "to-local-pod", End::RemotePods, End::LocalPods, false, TO_POD),
    ours(Hook::FromWire, "pass", End::Outside, End::Outside, false, NOT_POD),
    ours(Hook::FromPod, "to-local-pod", End::Client, End::LocalPods, true, TO_POD),
    ours(Hook::FromPod, "to-peer", End::Client, End::RemotePods, true, TO_PEER),
    ours(Hook::FromPod, "pass", End::Client, End::Outside, true, NOT_POD),
    ours(Hook::FromWire, "to-local-pod", End::RemotePods, End::LocalPods, true, TO_POD),
    ours(Hook::FromWire, "pass", End::Outside, End::Outside, true, NOT_POD),
    floor("floor_lookup", "to-local-pod", End::LocalPods),
    floor("floor_fib", "to-peer", End::RemotePods),
];

/// Two MAC addresses as they stand in a frame: destination, source.
pub type Macs = ([u8; 6], [u8; 6]);

impl Path {
    /// Whether it is one of those that have targets: by our own programs to a pod, IPv4.
    pub const fn is_named_by_a_target(&self) -> bool {
        !self.ipv6 && matches!(self.counted, Some((_, Verdict::Forwarded(_))))
    }

    /// What `restore4` or `restore6` need to know.
    pub fn scenario(&self, load: Load, macs: Macs) -> Result<Scenario> {
        let packet = self.packet(load, macs)?;
        let word =
            |at: usize| u32::from_ne_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
        Ok(Scenario {
            counter: 0,
            flow_mask: load.flows - 1,
            macs: [word(0), word(4), word(8)],
            hop: word(if self.ipv6 { 20 } else { 22 }),
            source: self.series(self.from, load),
            destination: self.series(self.to, load),
        })
    }

    /// The first packet: 64 bytes on the wire with IPv4.
    pub fn packet(&self, load: Load, (destination, source): Macs) -> Result<Vec<u8>> {
        let address = |end| address(self.series(end, load), self.ipv6);
        let frame = PacketBuilder::ethernet2(source, destination);
        let frame = match (address(self.from), address(self.to)) {
            (IpAddr::V4(from), IpAddr::V4(to)) => frame.ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => frame.ipv6(from.octets(), to.octets(), 64),
            _ => bail!("the ends are of different families"),
        };
        let mut bytes = Vec::new();
        frame.udp(1024, 5201).write(&mut bytes, &[0; 18])?;
        Ok(bytes)
    }

    fn series(&self, end: End, load: Load) -> Series {
        // One flow has one source and one destination.
        let count = |all: u32| if load.flows == 1 { 1 } else { all };
        let at = |first: IpAddr| Series { first: words(first), count: 1, step_prefix: 0, step_host: 0 };
        match end {
            End::Client => at(local_pod(0, self.ipv6)),
            End::Outside if self.ipv6 => at(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
            End::Outside => at(Ipv4Addr::new(192, 0, 2, 1).into()),
            End::LocalPods => {
                Series { count: count(load.pods - 1), step_host: 1, ..at(local_pod(1, self.ipv6)) }
            }
            End::RemotePods if self.ipv6 => {
                Series { count: count(load.nodes), step_prefix: 0x1_0000, ..at(remote_pod(0, true)) }
            }
            End::RemotePods => {
                Series { count: count(load.nodes), step_host: 256, ..at(remote_pod(0, false)) }
            }
        }
    }
}

/// Local pod `index`: 10.0.0.2 and on, fd00:244::2 and on.
pub fn local_pod(index: u32, ipv6: bool) -> IpAddr {
    if ipv6 {
        Ipv6Addr::from(u128::from(Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 2)) + u128::from(index)).into()
    } else {
        Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 2)) + index).into()
    }
}

/// The first pod of peer node `index`: 10.1.0.2, 10.1.1.2 …, fd00:244:1::2, fd00:244:2::2 …
pub fn remote_pod(index: u32, ipv6: bool) -> IpAddr {
    if ipv6 {
        let node = u128::from(index + 1) << 80;
        Ipv6Addr::from(u128::from(Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 2)) + node).into()
    } else {
        Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 1, 0, 2)) + 256 * index).into()
    }
}

fn words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(address) => [0, 0, 0, u32::from(address)],
        IpAddr::V6(address) => {
            let [a, b, c, d, e, f, g, h] = address.segments().map(u32::from);
            [a << 16 | b, c << 16 | d, e << 16 | f, g << 16 | h]
        }
    }
}

fn address(series: Series, ipv6: bool) -> IpAddr {
    let [a, b, c, d] = series.first;
    if ipv6 {
        let bits = [a, b, c, d].into_iter().fold(0u128, |bits, word| bits << 32 | u128::from(word));
        Ipv6Addr::from(bits).into()
    } else {
        Ipv4Addr::from(d).into()
    }
}
