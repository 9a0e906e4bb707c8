//! TTL and its checksum.

/// The IPv4 header checksum (as loaded from the packet) after the TTL has gone down by one.
///
/// RFC 1624: TTL is the high byte of its 16-bit word, so the sum falls by 0x0100 and the complement grows by it.
#[inline(always)]
#[must_use]
pub fn checksum_after_decrement(checksum: u16) -> u16 {
    let grown = u32::from(checksum) + u32::from(0x0100u16.to_be());
    // One's complement: the carry comes back in; 0xffff stands for zero and is written so.
    (grown + u32::from(grown >= 0xffff)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The checksum of RFC 791, from scratch, as it is stored in the packet.
    fn checksum(words: &[u16; 10]) -> u16 {
        let mut sum: u32 = words.iter().map(|word| u32::from(*word)).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_be()
    }

    #[test]
    fn the_incremental_checksum_is_the_full_one_for_every_identification_and_several_ttls() {
        for ttl in [1u16, 2, 63, 64, 65, 128, 255] {
            for identification in 0..=u16::MAX {
                let mut words =
                    [0x4500, 0x0054, identification, 0x4000, ttl << 8 | 6, 0, 0x0af4, 0x0102, 0x0af4, 0x0203];
                let before = checksum(&words);
                words[4] -= 0x0100;
                let after = checksum(&words);
                let computed = checksum_after_decrement(before);
                // Both are zero in one's complement.
                let same = computed == after || (computed ^ after) == 0xffff && [0, 0xffff].contains(&after);
                assert!(same, "ttl {ttl} id {identification:#06x}: {computed:#06x}, not {after:#06x}");
            }
        }
    }
}
