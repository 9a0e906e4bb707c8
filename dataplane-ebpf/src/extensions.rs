//! IPv6 extension headers (RFC 8200, 4), followed within bounds.

use crate::{
    context::Readable,
    transport::{Part, Transport},
};

/// How many extension headers are followed: more than any that is seen in practice, and a bound for the verifier.
const MOST: usize = 4;

/// IANA protocol numbers of the extension headers that say where the next one is.
mod next_header {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION: u8 = 60;
}

/// What follows the extension headers, the first of which is a `protocol` at `offset`.
#[inline(always)]
pub fn follow(packet: &impl Readable, offset: usize, protocol: u8) -> Option<Transport> {
    let mut transport = Transport { protocol, offset, part: Part::Whole };
    for _ in 0..MOST {
        let length = match transport.protocol {
            next_header::HOP_BY_HOP | next_header::ROUTING | next_header::DESTINATION => {
                let [_, units] = packet.load::<[u8; 2]>(transport.offset)?;
                (usize::from(units) + 1) * 8
            }
            next_header::AUTHENTICATION => {
                let [_, words] = packet.load::<[u8; 2]>(transport.offset)?;
                (usize::from(words) + 2) * 4
            }
            next_header::FRAGMENT => {
                let [_, _, high, low] = packet.load::<[u8; 4]>(transport.offset)?;
                // The low three bits are flags: the last says that more fragments follow.
                if high != 0 || low & 0xf8 != 0 {
                    transport.part = Part::Later;
                    return Some(transport);
                }
                if low & 1 != 0 {
                    transport.part = Part::First;
                }
                8
            }
            _ => return Some(transport),
        };
        let [next] = packet.load::<[u8; 1]>(transport.offset)?;
        transport.protocol = next;
        transport.offset += length;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet in memory.
    struct Bytes(Vec<u8>);

    impl Readable for Bytes {
        fn size(&self) -> u32 {
            self.0.len() as u32
        }

        fn load<T: Copy>(&self, offset: usize) -> Option<T> {
            let bytes = self.0.get(offset..offset + size_of::<T>())?;
            // SAFETY: as many bytes as the type has, of a type that any bytes are valid for in these tests.
            Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
        }
    }

    #[test]
    fn headers_are_followed_to_the_transport() {
        // Destination options of 8 bytes, routing of 16, then TCP.
        let mut bytes = vec![next_header::ROUTING, 0, 0, 0, 0, 0, 0, 0, 6, 1];
        bytes.resize(24, 0);
        let found = follow(&Bytes(bytes), 0, next_header::DESTINATION).unwrap();
        assert_eq!(found, Transport { protocol: 6, offset: 24, part: Part::Whole });
    }

    #[test]
    fn a_first_fragment_has_ports_and_a_later_one_has_not() {
        let first = follow(&Bytes(vec![17, 0, 0, 1, 0, 0, 0, 7]), 0, next_header::FRAGMENT).unwrap();
        assert_eq!(first, Transport { protocol: 17, offset: 8, part: Part::First });
        let only = follow(&Bytes(vec![17, 0, 0, 0, 0, 0, 0, 7]), 0, next_header::FRAGMENT).unwrap();
        assert_eq!(only.part, Part::Whole);
        for offset in [[0, 8], [1, 0], [0xff, 0xf9]] {
            let packet = Bytes(vec![17, 0, offset[0], offset[1], 0, 0, 0, 7]);
            assert_eq!(follow(&packet, 0, next_header::FRAGMENT).unwrap().part, Part::Later, "{offset:?}");
        }
    }

    #[test]
    fn too_many_and_truncated_headers_end_the_search() {
        let endless = Bytes([next_header::DESTINATION, 0].repeat(64));
        assert_eq!(follow(&endless, 0, next_header::DESTINATION), None);
        assert_eq!(follow(&Bytes(vec![6]), 0, next_header::DESTINATION), None);
    }
}
