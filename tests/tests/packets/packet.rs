//! The packets of the tables, built by etherparse.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6Header,
    PacketBuilder,
};

/// What differs between the packets of the tables.
#[derive(Clone)]
pub struct Packet {
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    pub source: Ip,
    pub ttl: u8,
    pub options: Vec<u8>,
    /// Fragment offset in units of eight bytes, and whether more follow.
    pub fragment: Option<(u16, bool)>,
    pub payload: usize,
    pub protocol: IpNumber,
}

/// Source and destination of one family.
#[derive(Clone, Copy)]
pub enum Ip {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

impl Packet {
    /// A UDP packet with TTL 64 and a payload of 26 bytes: a frame of 60 bytes with IPv4.
    pub fn udp(source_mac: [u8; 6], destination_mac: [u8; 6], source: Ip) -> Self {
        Self {
            source_mac,
            destination_mac,
            source,
            ttl: 64,
            options: Vec::new(),
            fragment: None,
            payload: 18,
            protocol: IpNumber::UDP,
        }
    }

    /// The frame, with right checksums.
    pub fn bytes(&self) -> Vec<u8> {
        let mut transport = Vec::new();
        if self.protocol == IpNumber::TCP {
            let header = etherparse::TcpHeader::new(40000, 5201, 1, 1000);
            transport.extend(header.to_bytes());
            transport.extend(vec![0xab; self.payload]);
        } else {
            let length = u16::try_from(8 + self.payload).unwrap();
            transport.extend([0x9c, 0x40, 0x14, 0x51]);
            transport.extend(length.to_be_bytes());
            transport.extend([0, 0]);
            transport.extend(vec![0xab; self.payload]);
        }
        let mut frame = Vec::new();
        let ether_type = match self.source {
            Ip::V4(..) => EtherType::IPV4,
            Ip::V6(..) => EtherType::IPV6,
        };
        frame.extend(
            Ethernet2Header { source: self.source_mac, destination: self.destination_mac, ether_type }
                .to_bytes(),
        );
        match self.source {
            Ip::V4(source, destination) => {
                let mut header = Ipv4Header::new(
                    u16::try_from(transport.len()).unwrap_or(0),
                    self.ttl,
                    self.protocol,
                    source.octets(),
                    destination.octets(),
                )
                .unwrap();
                header.identification = 0x1234;
                header.options = Ipv4Options::try_from(self.options.as_slice()).unwrap();
                header.total_len = u16::try_from(header.header_len() + transport.len()).unwrap();
                if let Some((offset, more)) = self.fragment {
                    header.dont_fragment = false;
                    header.fragment_offset = IpFragOffset::try_new(offset).unwrap();
                    header.more_fragments = more;
                }
                header.header_checksum = header.calc_header_checksum();
                frame.extend(header.to_bytes());
            }
            Ip::V6(source, destination) => {
                let header = Ipv6Header {
                    traffic_class: 0,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: u16::try_from(transport.len()).unwrap(),
                    next_header: self.protocol,
                    hop_limit: self.ttl,
                    source: source.octets(),
                    destination: destination.octets(),
                };
                frame.extend(header.to_bytes());
            }
        }
        frame.extend(transport);
        frame
    }
}

/// As an ICMP error in the place of the packet: destination unreachable, about `subject`.
pub fn about(packet: Packet, subject: &[u8]) -> Vec<u8> {
    let mut bytes = error(packet).bytes();
    quote(&mut bytes, subject);
    bytes
}

/// The packet as an ICMP error, about nothing yet.
pub fn error(packet: Packet) -> Packet {
    let protocol = if matches!(packet.source, Ip::V4(..)) { IpNumber::ICMP } else { IpNumber::IPV6_ICMP };
    Packet { protocol, payload: 48, ..packet }
}

/// Writes type and quoted packet of an ICMP error into a frame. Nobody looks at its checksum.
pub fn quote(frame: &mut [u8], subject: &[u8]) {
    let (offset, kind, header_len) = if frame[12..14] == [0x08, 0x00] { (34, 3, 20) } else { (54, 1, 40) };
    frame[offset] = kind;
    let quoted = &subject[14..14 + header_len + 8];
    frame[offset + 8..offset + 8 + quoted.len()].copy_from_slice(quoted);
}

/// A packet of the same flow in the other direction.
pub fn back(packet: &Packet) -> Vec<u8> {
    let (source, ports) = match packet.source {
        Ip::V4(source, destination) => (Ip::V4(destination, source), 34),
        Ip::V6(source, destination) => (Ip::V6(destination, source), 54),
    };
    let mut bytes = Packet { source, ..packet.clone() }.bytes();
    bytes[ports..ports + 4].rotate_left(2);
    bytes
}

/// An ARP request, as broadcast.
pub fn arp(source_mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let packet = etherparse::ArpPacket::new(
        etherparse::ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        etherparse::ArpOperation::REQUEST,
        &source_mac,
        &sender.octets(),
        &[0; 6],
        &target.octets(),
    )
    .unwrap();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(source_mac, [0xff; 6]).arp(packet).write(&mut frame).unwrap();
    frame
}
