//! The shape of a map: its kind, and the members of its keys and values with their places, from the map's BTF.

use anyhow::{Context as _, ensure};

use super::sys::{self, MapInfo};

/// One member of a structure.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    name: String,
    start: usize,
    length: usize,
}

/// A map's shape. Maps of the same shape mean the same by the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    kind: u32,
    pub(super) key_size: usize,
    pub(super) value_size: usize,
    key: Vec<Member>,
    value: Vec<Member>,
}

/// How entries of one map become another's.
#[derive(Debug)]
pub(super) struct Conversion<'a> {
    from: &'a Shape,
    to: &'a Shape,
}

impl Shape {
    /// Asks the kernel.
    pub(super) fn of(info: &MapInfo) -> anyhow::Result<Self> {
        let types = if info.btf == 0 { None } else { Some(Types::parse(sys::btf(info.btf)?)?) };
        let members = |id, size| match &types {
            Some(types) if id != 0 => types.members(id),
            // Nothing is known but how long it is.
            _ => Ok(vec![Member { name: String::new(), start: 0, length: size }]),
        };
        Ok(Self {
            kind: info.kind,
            key_size: info.key_size,
            value_size: info.value_size,
            key: members(info.key_type as usize, info.key_size)?,
            value: members(info.value_type as usize, info.value_size)?,
        })
    }

    #[cfg(test)]
    pub(super) fn key_members(&self) -> impl Iterator<Item = &str> {
        self.key.iter().map(|member| member.name.as_str())
    }

    /// How entries of this shape become those of `to`; `None` where their keys have different members.
    pub(super) fn to<'a>(&'a self, to: &'a Self) -> Option<Conversion<'a>> {
        let names = |members: &[Member]| {
            let mut names: Vec<_> = members.iter().map(|m| (m.name.clone(), m.length)).collect();
            names.sort();
            names
        };
        (names(&self.key) == names(&to.key)).then_some(Conversion { from: self, to })
    }
}

impl Conversion<'_> {
    pub(super) fn key(&self, bytes: &[u8]) -> Vec<u8> {
        convert(bytes, &self.from.key, &self.to.key, self.to.key_size)
    }

    /// Members that the old value does not have are zero; those that the new one does not have are lost.
    pub(super) fn value(&self, bytes: &[u8]) -> Vec<u8> {
        convert(bytes, &self.from.value, &self.to.value, self.to.value_size)
    }
}

fn convert(bytes: &[u8], from: &[Member], to: &[Member], size: usize) -> Vec<u8> {
    let mut converted = vec![0; size];
    for target in to {
        let same = |member: &&Member| member.name == target.name && member.length == target.length;
        if let Some(source) = from.iter().find(same)
            && let Some(bytes) = bytes.get(source.start..source.start + source.length)
            && let Some(place) = converted.get_mut(target.start..target.start + target.length)
        {
            place.copy_from_slice(bytes);
        }
    }
    converted
}

/// `BTF_KIND_…`.
const INT: usize = 1;
const POINTER: usize = 2;
const ARRAY: usize = 3;
const STRUCT: usize = 4;
const UNION: usize = 5;
const ENUM: usize = 6;
const TYPEDEF: usize = 8;
const VOLATILE: usize = 9;
const CONST: usize = 10;
const RESTRICT: usize = 11;
const FLOAT: usize = 16;
const ENUM64: usize = 19;

/// Types as a map's BTF lists them: the number of a type is its place in the list.
struct Types {
    bytes: Vec<u8>,
    places: Vec<usize>,
    strings: usize,
}

impl Types {
    fn parse(bytes: Vec<u8>) -> anyhow::Result<Self> {
        let header = |at| word(&bytes, at).context("a map's BTF is cut short");
        ensure!(bytes.starts_with(&0xeb9f_u16.to_ne_bytes()), "a map's BTF does not start like BTF");
        let (head, types, length, strings) = (header(4)?, header(8)?, header(12)?, header(16)?);
        let mut at = head + types;
        let end = at + length;
        // Type 0 is void.
        let mut places = vec![usize::MAX];
        while at < end {
            places.push(at);
            let info = word(&bytes, at + 4).context("a map's BTF is cut short")?;
            let (kind, count) = (info >> 24 & 0x1f, info & 0xffff);
            at += 12
                + match kind {
                    // Integers, variables, declaration tags: one word more.
                    INT | 14 | 17 => 4,
                    ARRAY => 12,
                    // Structures, unions, sections, 64-bit enumerations: three words for each member.
                    STRUCT | UNION | 15 | ENUM64 => count * 12,
                    // Enumerations and function prototypes: two.
                    ENUM | 13 => count * 8,
                    _ => 0,
                };
        }
        Ok(Self { places, strings: head + strings, bytes })
    }

    /// The members of a structure; anything else is one member without a name.
    fn members(&self, id: usize) -> anyhow::Result<Vec<Member>> {
        self.find_members(id).with_context(|| format!("a map's BTF makes no sense at type {id}"))
    }

    fn find_members(&self, id: usize) -> Option<Vec<Member>> {
        let at = *self.places.get(id)?;
        let info = word(&self.bytes, at + 4)?;
        if info >> 24 & 0x1f != STRUCT {
            return Some(vec![Member { name: String::new(), start: 0, length: self.size(id)? }]);
        }
        let mut members = Vec::new();
        for index in 0..info & 0xffff {
            let at = at + 12 + index * 12;
            members.push(Member {
                name: self.name(at)?,
                // Map types have no bit fields.
                start: (word(&self.bytes, at + 8)? & 0x00ff_ffff) / 8,
                length: self.size(word(&self.bytes, at + 4)?)?,
            });
        }
        Some(members)
    }

    fn size(&self, id: usize) -> Option<usize> {
        let at = *self.places.get(id)?;
        let info = word(&self.bytes, at + 4)?;
        match info >> 24 & 0x1f {
            INT | STRUCT | UNION | ENUM | ENUM64 | FLOAT => word(&self.bytes, at + 8),
            POINTER => Some(8),
            ARRAY => Some(self.size(word(&self.bytes, at + 12)?)? * word(&self.bytes, at + 20)?),
            TYPEDEF | VOLATILE | CONST | RESTRICT => self.size(word(&self.bytes, at + 8)?),
            _ => None,
        }
    }

    /// The name of the type or member at this place: the first word of either.
    fn name(&self, at: usize) -> Option<String> {
        let start = self.strings + word(&self.bytes, at)?;
        let name = self.bytes.get(start..)?.split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(name).into_owned())
    }
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word = u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?);
    usize::try_from(word).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(key: &[(&str, usize)], value: &[(&str, usize)]) -> Shape {
        let lay_out = |members: &[(&str, usize)]| {
            let mut start = 0;
            let mut laid = Vec::new();
            for (name, length) in members {
                laid.push(Member { name: (*name).to_owned(), start, length: *length });
                start += length;
            }
            (laid, start)
        };
        let ((key, key_size), (value, value_size)) = (lay_out(key), lay_out(value));
        Shape { kind: 9, key_size, value_size, key, value }
    }

    #[test]
    fn entries_are_converted_by_their_members_names() {
        let old = shape(&[("source", 2), ("port", 1)], &[("seen", 2), ("gone", 1)]);
        let new = shape(&[("port", 1), ("source", 2)], &[("fresh", 2), ("seen", 2)]);
        assert_ne!(old, new);
        let conversion = old.to(&new).unwrap();
        assert_eq!(conversion.key(&[1, 2, 3]), [3, 1, 2]);
        assert_eq!(conversion.value(&[1, 2, 3]), [0, 0, 1, 2]);
    }

    #[test]
    fn keys_of_other_members_cannot_be_converted() {
        let old = shape(&[("source", 4)], &[("seen", 8)]);
        assert!(old.to(&shape(&[("source", 16)], &[("seen", 8)])).is_none());
        assert!(old.to(&shape(&[("source", 4), ("zone", 2)], &[("seen", 8)])).is_none());
    }
}
