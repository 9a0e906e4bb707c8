//! Wishes for a pod: the capabilities `ips`, `mac`, `ipRanges` and `dns` in `runtimeConfig`, the same in `args.cni`, and
//! `IP` and `MAC` in `CNI_ARGS`, by the specification's conventions. The first that says something is heard.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::{Map, Value, json};

use super::error::{Error, code};
use crate::pods::{AddressRange, Mac};

/// What is wished; nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    pub(super) addresses: Option<Vec<IpAddr>>,
    pub(super) mac: Option<Mac>,
    pub(super) ranges: Option<Vec<Vec<AddressRange>>>,
    /// As results have it.
    pub(super) dns: Option<Value>,
}

impl Wishes {
    /// Reads a network configuration.
    pub(super) fn of(config: &Map<String, Value>) -> Result<Self, Error> {
        let runtime = Self::parse("runtimeConfig", config.get("runtimeConfig"))?;
        let args = Self::parse("args.cni", config.get("args").and_then(|args| lookup(args, "cni")))?;
        Ok(runtime.or(args))
    }

    /// Reads the values of `IP` and `MAC` in `CNI_ARGS`.
    pub(super) fn from_arguments(ip: Option<&str>, mac: Option<&str>) -> Result<Self, Error> {
        let addresses = ip.map(|ip| ip.split(',').map(|one| address("CNI_ARGS IP", one.trim())).collect());
        Ok(Self {
            addresses: addresses.transpose()?,
            mac: mac.map(|text| parse_mac("CNI_ARGS MAC", text)).transpose()?,
            ..Self::default()
        })
    }

    /// These, and `other`'s where they say nothing.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            addresses: self.addresses.or(other.addresses),
            mac: self.mac.or(other.mac),
            ranges: self.ranges.or(other.ranges),
            dns: self.dns.or(other.dns),
        }
    }

    fn parse(place: &str, value: Option<&Value>) -> Result<Self, Error> {
        let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(Self::default()) };
        if !value.is_object() {
            return Err(invalid(place, value, "an object"));
        }
        let given = |key: &str| lookup(value, key).filter(|value| !value.is_null());
        let addresses = given("ips").map(|ips| {
            let place = format!("{place}.ips");
            texts(&place, ips)?.into_iter().map(|text| address(&place, text)).collect::<Result<Vec<_>, _>>()
        });
        let mac = given("mac").map(|mac| {
            let place = format!("{place}.mac");
            parse_mac(&place, mac.as_str().ok_or_else(|| invalid(&place, mac, "a string"))?)
        });
        let ranges = given("ipRanges").map(|sets| ranges(&format!("{place}.ipRanges"), sets));
        let dns = given("dns").map(|dns| dns_of(&format!("{place}.dns"), dns));
        Ok(Self {
            // An empty list asks for nothing.
            addresses: addresses.transpose()?.filter(|addresses| !addresses.is_empty()),
            mac: mac.transpose()?,
            ranges: ranges.transpose()?.filter(|ranges| !ranges.is_empty()),
            dns: dns.transpose()?,
        })
    }
}

/// Runtimes disagree on the case of letters.
fn lookup<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    value.as_object()?.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value)
}

fn invalid(place: &str, value: &Value, wanted: &str) -> Error {
    Error::new(code::INVALID_CONFIG, format!("{place} {value} must be {wanted}"))
}

fn texts<'a>(place: &str, value: &'a Value) -> Result<Vec<&'a str>, Error> {
    let list: Option<Vec<_>> = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
    list.ok_or_else(|| invalid(place, value, "a list of strings"))
}

/// With or without a prefix length, which means nothing here: pods have whole addresses.
fn address(place: &str, text: &str) -> Result<IpAddr, Error> {
    text.parse().map(|network: IpNetwork| network.ip()).map_err(|_| {
        Error::new(code::INVALID_CONFIG, format!("{place} {text:?} must be an IP address like 10.244.1.5"))
    })
}

fn parse_mac(place: &str, text: &str) -> Result<Mac, Error> {
    text.parse().map_err(|error| Error::new(code::INVALID_CONFIG, format!("{place}: {error}")))
}

/// Sets of `{"subnet", "rangeStart"?, "rangeEnd"?}`.
fn ranges(place: &str, sets: &Value) -> Result<Vec<Vec<AddressRange>>, Error> {
    let wrong = |value: &Value| invalid(place, value, "a list of lists of ranges with a subnet");
    let list = |value: &Value| value.as_array().cloned().ok_or_else(|| wrong(value));
    let range = |value: &Value| {
        let subnet = lookup(value, "subnet").and_then(Value::as_str).ok_or_else(|| wrong(value))?;
        let subnet: IpNetwork = subnet.parse().map_err(|_| wrong(value))?;
        let end = |key: &str, default: IpAddr| match lookup(value, key).filter(|end| !end.is_null()) {
            None => Ok(default),
            Some(end) => address(place, end.as_str().ok_or_else(|| wrong(value))?),
        };
        Ok(AddressRange {
            first: end("rangeStart", subnet.network())?,
            last: end("rangeEnd", subnet.broadcast())?,
        })
    };
    list(sets)?.iter().map(|set| list(set)?.iter().map(range).collect()).collect()
}

/// The capability says `servers` and `searches` where results say `nameservers` and `search`.
fn dns_of(place: &str, value: &Value) -> Result<Value, Error> {
    let mut dns = json!({});
    for (key, names) in [
        ("nameservers", ["servers", "nameservers"]),
        ("search", ["searches", "search"]),
        ("options", ["options"; 2]),
    ] {
        if let Some(list) =
            names.into_iter().find_map(|name| lookup(value, name)).filter(|list| !list.is_null())
        {
            dns[key] = texts(place, list)?.into();
        }
    }
    if let Some(domain) = lookup(value, "domain").filter(|domain| !domain.is_null()) {
        dns["domain"] = domain.clone();
    }
    Ok(dns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wishes(config: Value) -> Result<Wishes, Error> {
        Wishes::of(config.as_object().unwrap())
    }

    #[test]
    fn capabilities_are_read_whatever_the_case_of_their_letters() {
        for keys in
            [["ips", "mac", "ipRanges", "dns", "servers"], ["IPs", "MAC", "IPRanges", "DNS", "Servers"]]
        {
            let [ips, mac, ranges, dns, servers] = keys;
            let wishes = wishes(json!({ "runtimeConfig": {
                ips: ["10.244.1.5/24", "fd00::5"],
                mac: "02:00:00:00:00:05",
                ranges: [[{ "subnet": "10.244.1.0/28" }, { "subnet": "10.244.1.0/24", "rangeStart": "10.244.1.9", "rangeEnd": "10.244.1.10" }]],
                dns: { servers: ["10.0.0.10"], "searches": ["svc"] },
                "PortMappings": [{ "HostPort": 80 }],
            } }))
            .unwrap();
            let addresses = ["10.244.1.5", "fd00::5"].map(|a| a.parse().unwrap()).to_vec();
            assert_eq!(wishes.addresses, Some(addresses));
            assert_eq!(wishes.mac.unwrap().to_string(), "02:00:00:00:00:05");
            let ranges = wishes.ranges.unwrap();
            let ends: Vec<_> = ranges[0].iter().map(|r| format!("{}-{}", r.first, r.last)).collect();
            assert_eq!(ends, ["10.244.1.0-10.244.1.15", "10.244.1.9-10.244.1.10"]);
            assert_eq!(wishes.dns, Some(json!({ "nameservers": ["10.0.0.10"], "search": ["svc"] })));
        }
    }

    #[test]
    fn the_first_place_wins() {
        let config = json!({
            "runtimeConfig": { "mac": "02:00:00:00:00:01", "ips": [] },
            "args": { "cni": { "mac": "02:00:00:00:00:02", "ips": ["10.244.1.2"] } },
        });
        let arguments =
            Wishes::from_arguments(Some("10.244.1.3, fd00::3"), Some("02:00:00:00:00:03")).unwrap();
        assert_eq!(arguments.addresses.as_ref().unwrap().len(), 2);
        let wishes = wishes(config).unwrap().or(arguments);
        assert_eq!(wishes.mac.unwrap().to_string(), "02:00:00:00:00:01");
        assert_eq!(wishes.addresses.unwrap(), ["10.244.1.2".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn what_makes_no_sense_is_error_7_and_named() {
        for (config, why) in [
            (json!({ "runtimeConfig": [] }), "runtimeConfig"),
            (json!({ "runtimeConfig": { "ips": "10.0.0.1" } }), "runtimeConfig.ips"),
            (json!({ "runtimeConfig": { "ips": ["ten"] } }), "ten"),
            (json!({ "runtimeConfig": { "mac": "ten" } }), "runtimeConfig.mac"),
            (json!({ "runtimeConfig": { "ipRanges": [{ "subnet": "10.0.0.0/8" }] } }), "ipRanges"),
            (json!({ "runtimeConfig": { "ipRanges": [[{ "rangeStart": "10.0.0.1" }]] } }), "subnet"),
            (json!({ "runtimeConfig": { "dns": { "servers": "x" } } }), "dns"),
            (json!({ "args": { "cni": { "ips": [1] } } }), "args.cni.ips"),
        ] {
            let error = wishes(config).unwrap_err();
            assert_eq!(error.code, code::INVALID_CONFIG);
            assert!(error.msg.contains(why), "{error}");
        }
    }
}
