//! Names and Ethernet addresses that follow from an attachment's identity alone: a second attempt, or a DEL without
//! a record, finds what the first one made.

use super::mac::Mac;
use super::record::Key;

/// Every host-side device starts with this.
pub const HOST_INTERFACE_PREFIX: &str = "pl";

/// `pl` and 11 hexadecimal digits.
pub fn host_interface(key: &Key) -> String {
    format!("{HOST_INTERFACE_PREFIX}{:011x}", hash(key, "") & 0xfff_ffff_ffff)
}

/// Whether a device's name has the form of ours.
pub fn is_host_interface(name: &str) -> bool {
    name.strip_prefix(HOST_INTERFACE_PREFIX).is_some_and(|digits| {
        digits.len() == 11 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// The pod's own address.
pub(super) fn pod_mac(key: &Key) -> Mac {
    Mac::from_hash(hash(key, "pod"))
}

/// The address of the host side.
pub(super) fn host_mac(key: &Key) -> Mac {
    Mac::from_hash(hash(key, "host"))
}

/// FNV-1a: the standard library's hashers may differ between the version that wrote a record and the one that reads
/// it. A slash occurs in neither part.
fn hash(key: &Key, salt: &str) -> u64 {
    let text = [key.container_id.as_str(), "/", &key.if_name, "/", salt];
    let fnv = text.iter().flat_map(|part| part.bytes()).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    // The last bytes hardly reach FNV's upper bits: fold them in.
    fnv ^ (fnv >> 32) ^ (fnv << 17)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_fit_and_stay_what_they_are() {
        let key = Key::new("0f3c", "eth0");
        let name = host_interface(&key);
        assert_eq!(name.len(), 13);
        assert!(is_host_interface(&name));
        assert_eq!(name, "pl0e0841e0cef", "a changed name would orphan the devices of running pods");
        for other in ["pl0", "eth0", "pl0123456789AB", "podlane.vxlan", "pl0123456789g"] {
            assert!(!is_host_interface(other), "{other}");
        }
    }

    #[test]
    fn ten_thousand_attachments_have_distinct_names_and_addresses() {
        let keys: Vec<_> = (0..5_000)
            .flat_map(|n| [Key::new(&format!("c{n}"), "eth0"), Key::new(&format!("c{n}"), "net1")])
            .collect();
        assert_eq!(keys.iter().map(host_interface).collect::<BTreeSet<_>>().len(), keys.len());
        let macs: BTreeSet<_> = keys.iter().flat_map(|key| [pod_mac(key).0, host_mac(key).0]).collect();
        assert_eq!(macs.len(), 2 * keys.len());
    }
}
