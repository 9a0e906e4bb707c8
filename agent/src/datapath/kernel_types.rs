//! Where the running kernel's structures have their members, from its BTF (`Documentation/bpf/btf.rst`). aya keeps what
//! it reads of it to itself.

use anyhow::{Context as _, anyhow, ensure};

/// Where the kernel describes its types.
const PATH: &str = "/sys/kernel/btf/vmlinux";

/// `BTF_KIND_STRUCT`.
const STRUCT: u32 = 4;

/// The type section and the strings of a BTF file.
pub(super) struct KernelTypes {
    bytes: Vec<u8>,
    types: std::ops::Range<usize>,
    strings: usize,
}

impl KernelTypes {
    /// Reads the running kernel's.
    pub(super) fn read() -> anyhow::Result<Self> {
        Self::parse(fs_err::read(PATH).context("reading the kernel's types")?)
    }

    fn parse(bytes: Vec<u8>) -> anyhow::Result<Self> {
        let word = |at| word(&bytes, at).context("BTF header cut short");
        ensure!(bytes.starts_with(&0xeb9f_u16.to_ne_bytes()), "{PATH} does not start like BTF");
        let (header, types, length, strings) = (word(4)?, word(8)?, word(12)?, word(16)?);
        let start = header as usize + types as usize;
        Ok(Self { types: start..start + length as usize, strings: header as usize + strings as usize, bytes })
    }

    /// The offset of a member of a structure, in bytes.
    pub(super) fn offset(&self, structure: &str, member: &str) -> anyhow::Result<u32> {
        self.find(structure, member)
            .ok_or_else(|| anyhow!("the kernel's BTF has no member {member} in struct {structure}"))
    }

    /// Whether anything in the kernel has this name: an enumerator, for one.
    pub(super) fn mention(&self, name: &str) -> bool {
        let strings = self.bytes.get(self.strings..).unwrap_or_default();
        strings.split(|byte| *byte == 0).any(|found| found == name.as_bytes())
    }

    fn find(&self, structure: &str, member: &str) -> Option<u32> {
        /// Bytes of a type's fixed part, and of one member.
        const HEAD: usize = 12;
        const MEMBER: usize = 12;
        let mut at = self.types.start;
        while at < self.types.end {
            let info = word(&self.bytes, at + 4)?;
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            if kind == STRUCT && self.name(at)? == structure.as_bytes() {
                // With bit fields in it, the upper byte of a member's offset is a width.
                let mask = if info >> 31 == 1 { 0x00ff_ffff } else { u32::MAX };
                let mut members = (0..count).map(|index| at + HEAD + index * MEMBER);
                let found = members.find(|place| self.name(*place) == Some(member.as_bytes()))?;
                return Some((word(&self.bytes, found + 8)? & mask) / 8);
            }
            at += HEAD
                + match kind {
                    // Integers, variables, declaration tags: one word more.
                    1 | 14 | 17 => 4,
                    // Arrays.
                    3 => 12,
                    // Structures, unions, sections, 64-bit enumerations: three words for each member.
                    4 | 5 | 15 | 19 => count * 12,
                    // Enumerations and function prototypes: two.
                    6 | 13 => count * 8,
                    _ => 0,
                };
        }
        None
    }

    /// The name of the type or member at this place: the first word of either.
    fn name(&self, at: usize) -> Option<&[u8]> {
        let start = self.strings + word(&self.bytes, at)? as usize;
        self.bytes.get(start..)?.split(|byte| *byte == 0).next()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_the_running_kernels_structures_are_found() {
        let types = KernelTypes::read().unwrap();
        let ifindex = types.offset("net_device", "ifindex").unwrap();
        let namespace = types.offset("net_device", "nd_net").unwrap();
        assert!(
            ifindex != namespace && ifindex.is_multiple_of(4) && namespace.is_multiple_of(8),
            "{ifindex} {namespace}"
        );
        assert_eq!(types.offset("list_head", "prev").unwrap(), 8);
        let error = types.offset("net_device", "nonsense").unwrap_err().to_string();
        assert!(error.contains("no member nonsense in struct net_device"), "{error}");
        assert!(types.mention("BPF_F_ADJ_ROOM_ENCAP_L2_ETH") && !types.mention("ADJ_ROOM_ENCAP_L2_ETH"));
        assert!(KernelTypes::parse(vec![0; 64]).is_err());
    }
}
