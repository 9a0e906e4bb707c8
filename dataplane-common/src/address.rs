use crate::plain_old_data;

/// An IP address as a map key or part of one: bytes in network order, aligned so that the programs load, mask and
/// compare it in whole words.
pub trait Address: Copy + Eq {
    /// Number of bits: 32 or 128.
    const BITS: u32;

    /// The address with all but its first `prefix_len` bits cleared; lengths above [`Self::BITS`] change nothing.
    #[must_use]
    fn masked(self, prefix_len: u32) -> Self;

    /// Whether the address begins with the first `prefix_len` bits (1 to [`Self::BITS`]) of `prefix`. The same as comparing
    /// what [`Self::masked`] makes of both, in fewer instructions.
    #[must_use]
    fn is_in(self, prefix: Self, prefix_len: u32) -> bool;

    /// The last bits of the address's first `prefix_len` (1 to [`Self::BITS`]), as a number: up to 32 of them, or
    /// those since the last multiple of 64.
    #[must_use]
    fn number(self, prefix_len: u32) -> u32;

    /// All of the address in one word; those of one node's pods have different ones.
    #[must_use]
    fn folded(self) -> u32;
}

/// An IPv4 address.
#[derive(Clone, Copy, Debug, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::derived_hash_with_manual_eq, reason = "what is equal by words has the same bytes")]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C, align(4))]
pub struct Ip4 {
    /// The address in network byte order.
    pub addr: [u8; 4],
}

/// An IPv6 address.
#[derive(Clone, Copy, Debug, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::derived_hash_with_manual_eq, reason = "what is equal by words has the same bytes")]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C, align(4))]
pub struct Ip6 {
    /// The address in network byte order.
    pub addr: [u8; 16],
}

plain_old_data!(Ip4, Ip6);

impl Address for Ip4 {
    const BITS: u32 = 32;

    #[inline(always)]
    fn masked(self, prefix_len: u32) -> Self {
        Self { addr: mask_word(u32::from_ne_bytes(self.addr), prefix_len).to_ne_bytes() }
    }

    #[inline(always)]
    fn is_in(self, prefix: Self, prefix_len: u32) -> bool {
        let differing = u32::from_be_bytes(self.addr) ^ u32::from_be_bytes(prefix.addr);
        differing >> (Self::BITS.wrapping_sub(prefix_len) & 31) == 0
    }

    #[inline(always)]
    fn number(self, prefix_len: u32) -> u32 {
        u32::from_be_bytes(self.addr) >> (Self::BITS.wrapping_sub(prefix_len) & 31)
    }

    #[inline(always)]
    fn folded(self) -> u32 {
        u32::from_be_bytes(self.addr)
    }
}

impl Address for Ip6 {
    const BITS: u32 = 128;

    #[inline(always)]
    fn masked(self, prefix_len: u32) -> Self {
        let [a, b, c, d] = self.words();
        Self::from_words([
            mask_word(a, prefix_len),
            mask_word(b, prefix_len.saturating_sub(32)),
            mask_word(c, prefix_len.saturating_sub(64)),
            mask_word(d, prefix_len.saturating_sub(96)),
        ])
    }

    #[inline(always)]
    fn is_in(self, prefix: Self, prefix_len: u32) -> bool {
        let ([a, b, c, d], [e, f, g, h]) = (self.words(), prefix.words());
        // Only the half that the prefix ends in has to be looked at by bits.
        let (whole, high, low) =
            if prefix_len > 64 { ((a ^ e) | (b ^ f), c ^ g, d ^ h) } else { (0, a ^ e, b ^ f) };
        whole == 0 && half(high, low) >> (0_u32.wrapping_sub(prefix_len) & 63) == 0
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
    fn number(self, prefix_len: u32) -> u32 {
        let [a, b, c, d] = self.words();
        let (high, low) = if prefix_len > 64 { (c, d) } else { (a, b) };
        (half(high, low) >> (0_u32.wrapping_sub(prefix_len) & 63)) as u32
    }

    #[inline(always)]
    fn folded(self) -> u32 {
        let [a, b, c, d] = self.words();
        u32::from_be(a ^ b ^ c ^ d)
    }
}

/// As the derive would have it, but in words: the derive compares the bytes as an array that may lie anywhere, and the
/// BPF target then loads them one by one.
impl PartialEq for Ip4 {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        // SAFETY: four plain bytes seen as a word, on both sides.
        let words = unsafe { core::mem::transmute::<[Self; 2], [u32; 2]>([*self, *other]) };
        words[0] == words[1]
    }
}

/// As for IPv4.
impl PartialEq for Ip6 {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let ([a, b, c, d], [e, f, g, h]) = (self.words(), other.words());
        a == e && b == f && c == g && d == h
    }
}

impl Ip6 {
    /// `::`, the address of a host that has none yet.
    pub const UNSPECIFIED: Self = Self { addr: [0; 16] };

    #[inline(always)]
    const fn words(self) -> [u32; 4] {
        // SAFETY: sixteen plain bytes seen as four words; through the bytes one by one, LLVM would shuffle each.
        unsafe { core::mem::transmute(self) }
    }

    #[inline(always)]
    const fn from_words(words: [u32; 4]) -> Self {
        // SAFETY: as above.
        Self { addr: unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(words) } }
    }
}

/// Two words as they stand in a packet, as a number.
#[inline(always)]
const fn half(high: u32, low: u32) -> u64 {
    (u32::from_be(high) as u64) << 32 | u32::from_be(low) as u64
}

/// The first `bits` bits (in network order) of a word loaded from a packet.
#[inline(always)]
const fn mask_word(word: u32, bits: u32) -> u32 {
    if bits >= 32 { word } else { word & (!(u32::MAX >> bits)).to_be() }
}

impl From<core::net::Ipv4Addr> for Ip4 {
    fn from(address: core::net::Ipv4Addr) -> Self {
        Self { addr: address.octets() }
    }
}

impl From<core::net::Ipv6Addr> for Ip6 {
    fn from(address: core::net::Ipv6Addr) -> Self {
        Self { addr: address.octets() }
    }
}

impl From<Ip4> for core::net::IpAddr {
    fn from(address: Ip4) -> Self {
        Self::from(address.addr)
    }
}

impl From<Ip6> for core::net::IpAddr {
    fn from(address: Ip6) -> Self {
        Self::from(address.addr)
    }
}

// The kernel hashes keys whose size is a multiple of 4 word by word (jhash2), others byte by byte.
const _: () = assert!(size_of::<Ip4>() == 4 && size_of::<Ip6>() == 16);

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn masking_an_ipv4_address_keeps_its_first_bits() {
        let address = Ip4::from(Ipv4Addr::new(10, 244, 255, 255));
        for (bits, expected) in [(0, [0, 0, 0, 0]), (8, [10, 0, 0, 0]), (20, [10, 244, 240, 0])] {
            assert_eq!(address.masked(bits).addr, expected, "/{bits}");
        }
        assert_eq!(address.masked(32), address);
        assert_eq!(address.masked(200), address);
    }

    #[test]
    fn the_number_of_a_prefix_is_its_last_bits() {
        let address = Ip4::from(Ipv4Addr::new(10, 244, 3, 7));
        assert_eq!([32, 24, 8].map(|bits| address.number(bits)), [0x0af4_0307, 0x000a_f403, 10]);
        let address = Ip6::from(Ipv6Addr::new(0xfd00, 0x244, 0, 5, 0, 0, 0xabcd, 0x1234));
        let numbers = [128, 112, 64, 48, 32].map(|bits| address.number(bits));
        assert_eq!(numbers, [0xabcd_1234, 0xabcd, 5, 0x0244_0000, 0xfd00_0244]);
    }

    #[test]
    fn an_address_is_in_a_prefix_as_far_as_their_bits_agree() {
        fn check<A: Address + core::fmt::Debug>(address: A, flipped: impl Fn(u32) -> A) {
            for bit in 0..A::BITS {
                let other = flipped(bit);
                for len in 1..=A::BITS {
                    let same = address.masked(len) == other.masked(len);
                    assert_eq!(same, len <= bit, "bit {bit}, /{len}");
                    assert_eq!(address.is_in(other, len), same, "bit {bit}, /{len}");
                    assert_eq!(address.is_in(other.masked(len), len), same, "bit {bit}, /{len}");
                }
            }
        }
        let v4 = 0x0af4_8301_u32;
        check(Ip4 { addr: v4.to_be_bytes() }, |bit| Ip4 { addr: (v4 ^ 1 << (31 - bit)).to_be_bytes() });
        let v6 = 0xfd00_0244_ffff_1234_abcd_ffff_8001_ffff_u128;
        check(Ip6 { addr: v6.to_be_bytes() }, |bit| Ip6 { addr: (v6 ^ 1 << (127 - bit)).to_be_bytes() });
    }

    #[test]
    fn masking_an_ipv6_address_agrees_with_128_bit_arithmetic_at_every_length() {
        let address = Ipv6Addr::new(0xfd00, 0x244, 0xffff, 0x1234, 0xabcd, 0xffff, 0x8001, 0xffff);
        for bits in 0..=128u32 {
            let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits) };
            let expected = Ip6::from(Ipv6Addr::from(u128::from(address) & mask));
            assert_eq!(Ip6::from(address).masked(bits), expected, "/{bits}");
        }
    }
}
