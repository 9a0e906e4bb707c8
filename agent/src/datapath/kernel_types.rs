//! Where the running kernel's structures have their members, from its BTF (`Documentation/bpf/btf.rst`). aya keeps what
//! it reads of it to itself.

use anyhow::{Context as _, anyhow, ensure};

/// Where the kernel describes its types.
const PATH: &str = "/sys/kernel/btf/vmlinux";

/// `BTF_KIND_STRUCT`, `BTF_KIND_UNION`.
const STRUCT: u32 = 4;
const UNION: u32 = 5;

/// Bytes of a type's fixed part, and of one member.
const HEAD: usize = 12;
const MEMBER: usize = 12;

/// The types and the strings of a BTF file.
pub(super) struct KernelTypes {
    bytes: Vec<u8>,
    /// Where each type starts, from number 1 on.
    types: Vec<u32>,
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
        let types = starts(&bytes, start, start + length as usize).context("BTF types cut short")?;
        Ok(Self { types, strings: header as usize + strings as usize, bytes })
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
        let is_it =
            |at: &usize| self.kind(*at) == Some(STRUCT) && self.name(*at) == Some(structure.as_bytes());
        let at = self.types.iter().map(|at| *at as usize).find(is_it)?;
        Some(self.bits(at, member.as_bytes())? / 8)
    }

    /// Where the structure or union at this place has a member, in bits; also where that is a member's that has no name.
    fn bits(&self, at: usize, member: &[u8]) -> Option<u32> {
        let info = word(&self.bytes, at + 4)?;
        // With bit fields in it, the upper byte of a member's offset is a width.
        let mask = if info >> 31 == 1 { 0x00ff_ffff } else { u32::MAX };
        (0..(info & 0xffff) as usize).map(|index| at + HEAD + index * MEMBER).find_map(|place| {
            let offset = word(&self.bytes, place + 8)? & mask;
            match self.name(place)? {
                name if name == member => Some(offset),
                [] => {
                    let number = word(&self.bytes, place + 4)?.checked_sub(1)?;
                    let inner = *self.types.get(number as usize)? as usize;
                    let nested = matches!(self.kind(inner)?, STRUCT | UNION);
                    Some(offset + nested.then(|| self.bits(inner, member)).flatten()?)
                }
                _ => None,
            }
        })
    }

    fn kind(&self, at: usize) -> Option<u32> {
        Some(word(&self.bytes, at + 4)? >> 24 & 0x1f)
    }

    /// The name of the type or member at this place: the first word of either.
    fn name(&self, at: usize) -> Option<&[u8]> {
        let start = self.strings + word(&self.bytes, at)? as usize;
        self.bytes.get(start..)?.split(|byte| *byte == 0).next()
    }
}

/// Where the types between these places start.
fn starts(bytes: &[u8], mut at: usize, end: usize) -> Option<Vec<u32>> {
    let mut starts = Vec::new();
    while at < end {
        starts.push(u32::try_from(at).ok()?);
        let info = word(bytes, at + 4)?;
        let count = (info & 0xffff) as usize;
        let more = match info >> 24 & 0x1f {
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
        at += HEAD + more;
    }
    Some(starts)
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
        // In a union without a name, in a structure without one.
        let (mark, len) = (types.offset("sk_buff", "mark").unwrap(), types.offset("sk_buff", "len").unwrap());
        assert!(mark > len && mark.is_multiple_of(4), "{mark} {len}");
        let error = types.offset("net_device", "nonsense").unwrap_err().to_string();
        assert!(error.contains("no member nonsense in struct net_device"), "{error}");
        assert!(types.mention("BPF_F_ADJ_ROOM_ENCAP_L2_ETH") && !types.mention("ADJ_ROOM_ENCAP_L2_ETH"));
        assert!(KernelTypes::parse(vec![0; 64]).is_err());
    }
}
