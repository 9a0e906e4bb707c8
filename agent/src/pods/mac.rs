//! Ethernet addresses in records: written as people write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The lower 46 bits of a hash as a locally administered unicast address.
    pub(super) fn from_hash(hash: u64) -> Self {
        let [_, _, first, rest @ ..] = hash.to_be_bytes();
        let [b, c, d, e, f] = rest;
        Self([(first & 0xfc) | 0x02, b, c, d, e, f])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

/// The text is not an Ethernet address.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an Ethernet address like 02:00:00:00:00:01")]
pub struct MacError(String);

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let wrong = || MacError(text.to_owned());
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() { Err(wrong()) } else { Ok(Self(mac)) }
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_text() {
        let mac = Mac([2, 0, 0xab, 1, 2, 0xff]);
        assert_eq!(mac.to_string(), "02:00:ab:01:02:ff");
        assert_eq!(mac.to_string().parse::<Mac>().unwrap(), mac);
        for bad in ["", "02:00:ab:01:02", "02:00:ab:01:02:ff:00", "2:0:ab:1:2:ff", "02-00-ab-01-02-ff"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_from_hashes_are_local_unicast() {
        for hash in [0, u64::MAX, 0x0123_4567_89ab_cdef] {
            assert_eq!(Mac::from_hash(hash).0[0] & 0b11, 0b10);
        }
    }
}
