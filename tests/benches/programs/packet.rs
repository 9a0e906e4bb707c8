//! The packets that are measured.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, bail};
use dataplane_common::bench::{Scenario, Series};
use etherparse::PacketBuilder;

use crate::path::{End, Given, Load, Path};

/// This node and the peer that all others are behind.
pub const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 11);
pub const PEER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 12);

/// The overlay's network, and its port, as the programs have them when nobody tells them otherwise.
const VNI: u32 = 1;
const VXLAN_PORT: u16 = 8472;

/// Two MAC addresses as they stand in a frame: destination, source.
pub type Macs = ([u8; 6], [u8; 6]);

impl Path {
    /// What the program that restores packets needs to know.
    pub fn scenario(&self, load: Load, macs: Macs) -> Result<Scenario> {
        let packet = self.frame(load, macs, 0)?;
        let word =
            |at: usize| u32::from_ne_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
        Ok(Scenario {
            counter: 0,
            flow_mask: load.flows - 1,
            macs: [word(0), word(4), word(8)],
            vni: VNI,
            peer: u32::from(PEER),
            hop: word(if self.ipv6 { 20 } else { 22 }),
            source: self.series(self.from, load),
            destination: self.series(self.to, load),
        })
    }

    /// The first packet of a flow: 64 bytes on the wire with IPv4, or more with the overlay's headers.
    pub fn packet(&self, load: Load, macs: Macs, flow: u32) -> Result<Vec<u8>> {
        let inner = self.frame(load, macs, flow)?;
        if self.given != Given::NewWrapped {
            return Ok(inner);
        }
        let (destination, source) = macs;
        let mut payload = [[8, 0, 0, 0], (VNI << 8).to_be_bytes()].concat();
        payload.extend(inner);
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2(source, destination)
            .ipv4(PEER.octets(), NODE.octets(), 64)
            .udp(33_000, VXLAN_PORT)
            .write(&mut bytes, &payload)?;
        Ok(bytes)
    }

    fn frame(&self, load: Load, (destination, source): Macs, flow: u32) -> Result<Vec<u8>> {
        let address = |end| address(self.series(end, load), self.ipv6, flow);
        let frame = PacketBuilder::ethernet2(source, destination);
        let frame = match (address(self.from), address(self.to)) {
            (IpAddr::V4(from), IpAddr::V4(to)) => frame.ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => frame.ipv6(from.octets(), to.octets(), 64),
            _ => bail!("the ends are of different families"),
        };
        let mut bytes = Vec::new();
        frame.udp(1024 + u16::try_from(flow)?, 5201).write(&mut bytes, &[0; 18])?;
        Ok(bytes)
    }

    fn series(&self, end: End, load: Load) -> Series {
        let at = |first: IpAddr| Series { first: words(first), count: 1, step_prefix: 0, step_host: 0 };
        match end {
            End::Client => at(local_pod(0, self.ipv6)),
            End::Outside if self.ipv6 => at(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
            End::Outside => at(Ipv4Addr::new(192, 0, 2, 1).into()),
            End::TunnelledPod => at(TUNNELLED.into()),
            End::LocalPods => Series { count: load.pods - 1, step_host: 1, ..at(local_pod(1, self.ipv6)) },
            End::RemotePods if self.ipv6 => {
                Series { count: load.nodes, step_prefix: 0x1_0000, ..at(remote_pod(0, true)) }
            }
            End::RemotePods => Series { count: load.nodes, step_host: 256, ..at(remote_pod(0, false)) },
        }
    }
}

/// The pod behind the overlay: of a pod CIDR whose slot none of [`remote_pod`]'s has.
pub const TUNNELLED: Ipv4Addr = Ipv4Addr::new(10, 127, 0, 2);

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

/// The series' address of a flow, as the restoring programs have it.
fn address(series: Series, ipv6: bool, flow: u32) -> IpAddr {
    let [a, b, c, d] = series.first;
    let place = flow % series.count;
    let (b, d) = (b + place * series.step_prefix, d + place * series.step_host);
    if ipv6 {
        let bits = [a, b, c, d].into_iter().fold(0u128, |bits, word| bits << 32 | u128::from(word));
        Ipv6Addr::from(bits).into()
    } else {
        Ipv4Addr::from(d).into()
    }
}
