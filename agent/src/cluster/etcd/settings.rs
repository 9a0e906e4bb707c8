//! The settings under `etcd`; `docs/etcd.md` documents them.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use ipnetwork::IpNetwork;
use serde::Deserialize;

/// The settings of the etcd source as they can be given, each key optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EtcdSettings {
    /// URL of an etcd member; may be repeated [default: http://127.0.0.1:2379]
    #[arg(long = "etcd-endpoint", env = "PODLANE_ETCD_ENDPOINTS", value_name = "URL", value_delimiter = ',')]
    pub endpoints: Option<Vec<String>>,

    /// What the cluster's keys in etcd begin with [default: /podlane]
    #[arg(long = "etcd-prefix", env = "PODLANE_ETCD_PREFIX", value_name = "PREFIX")]
    pub prefix: Option<String>,

    /// Name of the etcd user, where etcd asks for one
    #[arg(long = "etcd-username", env = "PODLANE_ETCD_USERNAME", value_name = "NAME")]
    pub username: Option<String>,

    /// File with that user's password
    #[arg(long = "etcd-password-file", env = "PODLANE_ETCD_PASSWORD_FILE", value_name = "FILE")]
    pub password_file: Option<PathBuf>,

    /// PEM file with the certificates to trust for https [default: the system's]
    #[arg(long = "etcd-ca-file", env = "PODLANE_ETCD_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,

    /// PEM file with the agent's own certificate, where etcd asks for one
    #[arg(long = "etcd-cert-file", env = "PODLANE_ETCD_CERT_FILE", value_name = "FILE")]
    pub cert_file: Option<PathBuf>,

    /// PEM file with that certificate's key
    #[arg(long = "etcd-key-file", env = "PODLANE_ETCD_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    /// Range that nodes take their pod CIDRs from; may be repeated, for two families or to widen it
    #[arg(
        long = "etcd-cluster-cidr",
        env = "PODLANE_ETCD_CLUSTER_CIDRS",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    #[serde(rename = "clusterCIDRs")]
    pub cluster_cidrs: Option<Vec<IpNetwork>>,

    /// Prefix length of a node's IPv4 pod CIDR [default: 24]
    #[arg(
        long = "etcd-node-prefix-length-ipv4",
        env = "PODLANE_ETCD_NODE_PREFIX_LENGTH_IPV4",
        value_name = "N"
    )]
    #[serde(rename = "nodePrefixLengthIPv4")]
    pub node_prefix_length_ipv4: Option<u8>,

    /// Prefix length of a node's IPv6 pod CIDR [default: 64]
    #[arg(
        long = "etcd-node-prefix-length-ipv6",
        env = "PODLANE_ETCD_NODE_PREFIX_LENGTH_IPV6",
        value_name = "N"
    )]
    #[serde(rename = "nodePrefixLengthIPv6")]
    pub node_prefix_length_ipv6: Option<u8>,

    /// Address by which other nodes reach this one; may be repeated [default: the first uplink's, or the default route's]
    #[arg(
        long = "etcd-node-address",
        env = "PODLANE_ETCD_NODE_ADDRESSES",
        value_name = "IP",
        value_delimiter = ','
    )]
    pub node_addresses: Option<Vec<IpAddr>>,

    /// Seconds after which the other nodes forget a node that is away [default: 300]
    #[arg(long = "etcd-lease-ttl", env = "PODLANE_ETCD_LEASE_TTL", value_name = "SECONDS")]
    #[serde(rename = "leaseTTL")]
    pub lease_ttl: Option<u32>,
}

/// The settings in force, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdConfig {
    /// `endpoints`, with their scheme.
    pub endpoints: Vec<String>,
    /// `prefix`, without a slash at its end.
    pub prefix: String,
    /// `username` and `passwordFile`.
    pub user: Option<(String, PathBuf)>,
    /// `caFile`.
    pub ca_file: Option<PathBuf>,
    /// `certFile` and `keyFile`.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// `clusterCIDRs`.
    pub cluster_cidrs: Vec<IpNetwork>,
    /// `nodePrefixLengthIPv4`.
    pub node_prefix_length_ipv4: u8,
    /// `nodePrefixLengthIPv6`.
    pub node_prefix_length_ipv6: u8,
    /// `nodeAddresses`; empty means that they are found.
    pub node_addresses: Vec<IpAddr>,
    /// `leaseTTL`.
    pub lease_ttl: Duration,
}

impl EtcdSettings {
    /// These settings, and `other`'s where they say nothing.
    #[must_use]
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            endpoints: self.endpoints.or(other.endpoints),
            prefix: self.prefix.or(other.prefix),
            username: self.username.or(other.username),
            password_file: self.password_file.or(other.password_file),
            ca_file: self.ca_file.or(other.ca_file),
            cert_file: self.cert_file.or(other.cert_file),
            key_file: self.key_file.or(other.key_file),
            cluster_cidrs: self.cluster_cidrs.or(other.cluster_cidrs),
            node_prefix_length_ipv4: self.node_prefix_length_ipv4.or(other.node_prefix_length_ipv4),
            node_prefix_length_ipv6: self.node_prefix_length_ipv6.or(other.node_prefix_length_ipv6),
            node_addresses: self.node_addresses.or(other.node_addresses),
            lease_ttl: self.lease_ttl.or(other.lease_ttl),
        }
    }

    /// Checks them as far as it goes without etcd.
    ///
    /// # Errors
    /// Names the key, the value and what is allowed.
    pub(crate) fn check(self) -> anyhow::Result<EtcdConfig> {
        let endpoints = self.endpoints.unwrap_or_else(|| vec!["http://127.0.0.1:2379".to_owned()]);
        ensure!(
            !endpoints.is_empty(),
            "etcd.endpoints is empty: list at least one, such as http://127.0.0.1:2379"
        );
        for endpoint in &endpoints {
            ensure!(
                endpoint.starts_with("http://") || endpoint.starts_with("https://"),
                "etcd.endpoints: \"{endpoint}\" is not a URL: write http://{endpoint} or https://{endpoint}"
            );
        }
        let prefix = self.prefix.unwrap_or_else(|| "/podlane".to_owned()).trim_end_matches('/').to_owned();
        ensure!(!prefix.is_empty(), "etcd.prefix is empty: give the cluster a prefix, such as /podlane");
        let together = |one: Option<_>, other: Option<_>, names: &str| match (one, other) {
            (Some(one), Some(other)) => Ok(Some((one, other))),
            (None, None) => Ok(None),
            _ => Err(anyhow::anyhow!("etcd: {names} belong together: give both or none")),
        };
        let identity = together(self.cert_file, self.key_file, "certFile and keyFile")?;
        let user =
            together(self.username.map(PathBuf::from), self.password_file, "username and passwordFile")?
                .map(|(name, file)| (name.to_string_lossy().into_owned(), file));
        let lease_ttl = self.lease_ttl.unwrap_or(300);
        ensure!(
            (5..=2_592_000).contains(&lease_ttl),
            "etcd.leaseTTL: {lease_ttl} is out of range: 5 to 2592000 seconds"
        );
        let config = EtcdConfig {
            endpoints,
            prefix,
            user,
            ca_file: self.ca_file,
            identity,
            cluster_cidrs: self.cluster_cidrs.unwrap_or_default(),
            node_prefix_length_ipv4: self.node_prefix_length_ipv4.unwrap_or(24),
            node_prefix_length_ipv6: self.node_prefix_length_ipv6.unwrap_or(64),
            node_addresses: self.node_addresses.unwrap_or_default(),
            lease_ttl: Duration::from_secs(lease_ttl.into()),
        };
        for cidr in &config.cluster_cidrs {
            config.check_range(*cidr)?;
        }
        Ok(config)
    }
}

impl EtcdConfig {
    /// The prefix length of a node's pod CIDR.
    #[must_use]
    pub const fn node_prefix_length(&self, v4: bool) -> u8 {
        if v4 { self.node_prefix_length_ipv4 } else { self.node_prefix_length_ipv6 }
    }

    /// Reads a file that a setting names.
    pub(super) fn read(key: &str, path: &Path) -> anyhow::Result<String> {
        fs_err::read_to_string(path).with_context(|| format!("etcd.{key}"))
    }

    fn check_range(&self, cidr: IpNetwork) -> anyhow::Result<()> {
        ensure!(
            cidr.ip() == cidr.network(),
            "etcd.clusterCIDRs: {cidr} has host bits set: write {}/{}",
            cidr.network(),
            cidr.prefix()
        );
        let (key, longest) =
            if cidr.is_ipv4() { ("nodePrefixLengthIPv4", 30) } else { ("nodePrefixLengthIPv6", 126) };
        let length = self.node_prefix_length(cidr.is_ipv4());
        ensure!(
            (cidr.prefix().max(1)..=longest).contains(&length),
            "etcd.{key}: {length} is out of range: {} (the range {cidr} itself) to {longest}",
            cidr.prefix()
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_key_the_value_and_the_way_out() {
        for (text, expected) in [
            ("endpoints: [etcd:2379]", "etcd.endpoints: \"etcd:2379\" is not a URL: write http://etcd:2379"),
            ("prefix: /", "etcd.prefix is empty"),
            ("certFile: /a", "certFile and keyFile belong together"),
            ("username: me", "username and passwordFile belong together"),
            ("leaseTTL: 1", "etcd.leaseTTL: 1 is out of range: 5 to"),
            ("clusterCIDRs: [10.244.1.0/16]", "10.244.1.0/16 has host bits set: write 10.244.0.0/16"),
            (
                "{clusterCIDRs: [10.0.0.0/8], nodePrefixLengthIPv4: 7}",
                "nodePrefixLengthIPv4: 7 is out of range: 8",
            ),
            ("clusterCIDRs: ['fd00::/72']", "nodePrefixLengthIPv6: 64 is out of range: 72"),
        ] {
            let settings: EtcdSettings = serde_norway::from_str(text).unwrap();
            let error = settings.check().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
