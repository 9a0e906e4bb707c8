//! What a runtime is answered, in the words of the version that it speaks.

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use super::error::Error;
use super::version::Version;
use crate::pods::Record;

/// The result of an ADD.
pub(super) fn add(record: &Record, version: Version, dns: Option<&Value>) -> Value {
    let mut host = json!({ "name": record.host_interface, "mac": record.host_mac });
    let mut pod = json!({ "name": record.if_name, "mac": record.mac, "sandbox": record.netns });
    if version >= Version::V1_1_0 {
        host["mtu"] = record.mtu.into();
        pod["mtu"] = record.mtu.into();
    }
    let mut ips = Vec::new();
    let mut routes = Vec::new();
    for (address, gateway) in record.leases() {
        let mut ip = json!({
            "address": IpNetwork::from(address).to_string(),
            "gateway": gateway,
            // The pod's interface, in the list above.
            "interface": 1,
        });
        if version < Version::V1_0_0 {
            ip["version"] = if address.is_ipv4() { "4" } else { "6" }.into();
        }
        ips.push(ip);
        let any = if address.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        routes.push(json!({ "dst": any, "gw": gateway }));
    }
    let mut result = json!({
        "cniVersion": version.as_str(),
        "interfaces": [host, pod],
        "ips": ips,
        "routes": routes,
    });
    if let Some(dns) = dns {
        result["dns"] = dns.clone();
    }
    result
}

/// What a runtime is told of an error.
pub(super) fn failure(error: &Error, version: Version) -> Value {
    let mut body = json!({ "cniVersion": version.as_str(), "code": error.code, "msg": error.msg });
    if !error.details.is_empty() {
        body["details"] = error.details.clone().into();
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        serde_json::from_value(json!({
            "version": 1, "state": "ready", "containerID": "a1", "netns": "/run/netns/x", "ifName": "eth0",
            "hostInterface": "pl01234567890", "hostIfIndex": 7, "mac": "02:00:00:00:00:01",
            "hostMAC": "02:00:00:00:00:02", "addresses": ["10.244.1.2", "fd00:244:1::2"],
            "gateways": ["10.244.1.1", "fd00:244:1::1"], "mtu": 1450,
        }))
        .unwrap()
    }

    #[test]
    fn a_1_0_0_result_is_as_the_specification_wants_it() {
        let expected = json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                { "name": "pl01234567890", "mac": "02:00:00:00:00:02" },
                { "name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/x" },
            ],
            "ips": [
                { "address": "10.244.1.2/32", "gateway": "10.244.1.1", "interface": 1 },
                { "address": "fd00:244:1::2/128", "gateway": "fd00:244:1::1", "interface": 1 },
            ],
            "routes": [
                { "dst": "0.0.0.0/0", "gw": "10.244.1.1" },
                { "dst": "::/0", "gw": "fd00:244:1::1" },
            ],
        });
        assert_eq!(add(&record(), Version::V1_0_0, None), expected);
    }

    #[test]
    fn older_results_say_the_family_and_newer_ones_the_mtu() {
        for version in [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0] {
            let result = add(&record(), version, None);
            assert_eq!(
                (&result["ips"][0]["version"], &result["ips"][1]["version"]),
                (&json!("4"), &json!("6"))
            );
            assert_eq!(result["interfaces"][1].get("mtu"), None);
        }
        let result = add(&record(), Version::V1_1_0, Some(&json!({ "nameservers": ["10.0.0.10"] })));
        assert_eq!(result["ips"][0].get("version"), None);
        assert_eq!(
            (&result["interfaces"][0]["mtu"], &result["interfaces"][1]["mtu"]),
            (&json!(1450), &json!(1450))
        );
        assert_eq!(result["dns"]["nameservers"][0], "10.0.0.10");
    }
}
