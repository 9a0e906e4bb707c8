//! Masquerade: packets from pods to destinations outside the cluster get the node's address, by an nftables table of
//! Podlane's own. Nobody else's rules are read or touched.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use anyhow::{Context as _, anyhow};
use ipnetwork::IpNetwork;
use nftables::{
    batch::Batch,
    helper::{self, NftablesError},
    schema::{NfListObject, NfObject, Nftables, Table},
    types::NfFamily,
};

use super::ruleset::{CHAIN, TABLE, table};
use crate::cluster::{Cluster, Node};

/// What the rules are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Masquerade {
    pub(super) uplinks: BTreeSet<String>,
    /// This node's pods.
    pub(super) pods: BTreeSet<IpNetwork>,
    /// Every node's pods and addresses.
    pub(super) cluster: BTreeSet<IpNetwork>,
}

impl Masquerade {
    pub(super) fn new<'a>(own: &Node, cluster: &Cluster, uplinks: impl IntoIterator<Item = &'a str>) -> Self {
        let networks = |node: &Node| -> Vec<IpNetwork> {
            node.addresses
                .iter()
                .copied()
                .map(IpNetwork::from)
                .chain(node.pod_cidrs.iter().copied())
                .collect()
        };
        Self {
            uplinks: uplinks.into_iter().map(str::to_owned).collect(),
            pods: own.pod_cidrs.iter().copied().collect(),
            cluster: cluster.nodes().flat_map(networks).collect(),
        }
    }

    /// Writes the table, whole or not at all, unless it is there already with these contents. Returns whether it wrote.
    ///
    /// # Errors
    /// Where nft is missing or refuses; the text names the way out.
    pub(super) async fn install(&self) -> anyhow::Result<bool> {
        let mark = self.mark();
        if installed_mark().await?.as_ref() == Some(&mark) {
            return Ok(false);
        }
        helper::apply_ruleset_async(&self.ruleset(&mark))
            .await
            .map_err(explain)
            .context("writing the masquerade rules")?;
        tracing::info!(table = TABLE, networks = self.cluster.len(), "masquerade rules written");
        Ok(true)
    }

    /// As [`Self::install`], where the table is likely to be that of `before`.
    pub(super) async fn install_after(&self, before: &Self) -> anyhow::Result<bool> {
        let changes = self.changes(before, &self.mark());
        if let Some(changes) = changes
            && helper::apply_ruleset_async(&changes).await.is_ok()
        {
            return Ok(true);
        }
        // Somebody else has changed or removed it.
        self.install().await
    }

    /// Tells these rules from others: the rules carry it as their comment.
    fn mark(&self) -> String {
        // FNV-1a: the standard library's hashers may differ between this agent and the one that reads it.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut add = |bytes: &[u8]| {
            for byte in bytes {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        };
        for uplink in &self.uplinks {
            add(uplink.as_bytes());
            // Ends it, as a slash is in no device's name.
            add(b"/");
        }
        for (place, networks) in [&self.pods, &self.cluster].into_iter().enumerate() {
            for network in networks {
                match network.ip() {
                    IpAddr::V4(address) => add(&address.octets()),
                    IpAddr::V6(address) => add(&address.octets()),
                }
                add(&[network.prefix(), u8::from(network.is_ipv4()), u8::from(place == 0)]);
            }
        }
        format!("podlane {hash:016x}")
    }
}

impl fmt::Display for Masquerade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the nftables table inet {TABLE} ({})", self.mark())
    }
}

/// Removes the table. Returns whether there was one; without nft there is none that we have made.
///
/// # Errors
/// Where nft refuses.
pub async fn remove_masquerade() -> anyhow::Result<bool> {
    let tables = match helper::get_current_ruleset_raw_async(helper::DEFAULT_NFT, ["list", "tables"]).await {
        Ok(tables) => tables,
        Err(NftablesError::NftExecution { .. }) => return Ok(false),
        Err(error) => return Err(explain(error)).context("listing the nftables tables"),
    };
    let tables: Nftables<'_> = serde_json::from_str(&tables).context("reading nft's list of tables")?;
    if !tables.objects.iter().any(|object| {
        matches!(
            object,
            NfObject::ListObject(NfListObject::Table(Table { family: NfFamily::INet, name, .. }))
                if name == TABLE
        )
    }) {
        return Ok(false);
    }
    let mut batch = Batch::new();
    batch.delete(table());
    helper::apply_ruleset_async(&batch.to_nftables())
        .await
        .map_err(explain)
        .context("removing the masquerade rules")?;
    Ok(true)
}

/// The mark of the rules that are there; `None` also where others have changed their number.
async fn installed_mark() -> anyhow::Result<Option<String>> {
    let arguments = ["list", "chain", "inet", TABLE, CHAIN];
    let text = match helper::get_current_ruleset_raw_async(helper::DEFAULT_NFT, arguments).await {
        Ok(text) => text,
        // No such table.
        Err(NftablesError::NftFailed { .. }) => return Ok(None),
        Err(error) => return Err(explain(error)),
    };
    Ok(mark_of(&serde_json::from_str(&text).context("reading nft's rules")?))
}

/// Read as plain JSON: what else is in the rules is of no matter, and may be of a newer nft.
fn mark_of(listing: &serde_json::Value) -> Option<String> {
    let rules = listing["nftables"].as_array()?.iter().filter_map(|object| object.get("rule"));
    let marks: BTreeSet<Option<&str>> = rules.map(|rule| rule["comment"].as_str()).collect();
    match marks.into_iter().collect::<Vec<_>>()[..] {
        [Some(mark)] => Some(mark.to_owned()),
        _ => None,
    }
}

/// nft's own words, and the way out.
fn explain(error: NftablesError) -> anyhow::Error {
    match error {
        NftablesError::NftExecution { program, inner } => anyhow!(
            "packets from pods to destinations outside the cluster keep the pod's address, as {} cannot be run ({inner}): install nftables, or set masquerade to false where the network routes pod addresses",
            program.display()
        ),
        NftablesError::NftFailed { stderr, hint, .. } => anyhow!("nft failed {hint}: {}", stderr.trim()),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dual_stack() -> Masquerade {
        let own = Node::of("node1", &["192.168.1.11", "fd00:1::11"], &["10.244.1.0/24", "fd00:244:1::/64"]);
        let peer = Node::of("node2", &["192.168.1.12"], &["10.244.2.0/24"]);
        let cluster = Cluster::of([own.clone(), peer]);
        Masquerade::new(&own, &cluster, ["uplink"])
    }

    #[test]
    fn the_ruleset_replaces_the_table_and_spares_the_cluster() {
        let json = serde_json::to_value(dual_stack().ruleset("podlane 0")).unwrap();
        let objects = json["nftables"].as_array().unwrap();
        let commands: Vec<String> = objects
            .iter()
            .flat_map(|object| object.as_object().unwrap())
            .map(|(verb, what)| format!("{verb} {}", what.as_object().unwrap().keys().next().unwrap()))
            .collect();
        assert_eq!(
            commands,
            [
                "add table",
                "delete table",
                "add table",
                "add chain",
                "add set",
                "add rule",
                "add set",
                "add rule"
            ]
        );
        assert_eq!(
            objects[4]["add"]["set"]["elem"],
            serde_json::json!([
                {"prefix": {"addr": "10.244.1.0", "len": 24}},
                {"prefix": {"addr": "10.244.2.0", "len": 24}},
                "192.168.1.11",
                "192.168.1.12",
            ])
        );
        let rule = &objects[5]["add"]["rule"];
        assert_eq!(rule["comment"], "podlane 0");
        assert_eq!(rule["expr"][0]["match"]["right"], serde_json::json!({"set": ["uplink"]}));
        assert_eq!(rule["expr"][2]["match"]["op"], "!=");
        assert_eq!(rule["expr"][2]["match"]["right"], "@cluster4");
    }

    #[test]
    fn the_mark_changes_with_the_contents_and_is_found_again() {
        let mark = dual_stack().mark();
        assert_eq!(mark, dual_stack().mark());
        assert_ne!(mark, Masquerade { uplinks: ["eth1".to_owned()].into(), ..dual_stack() }.mark());
        let mut other = dual_stack();
        other.cluster.remove(&"10.244.2.0/24".parse().unwrap());
        assert_ne!(mark, other.mark());
        let rule = |comment: &str| serde_json::json!({"rule": {"comment": comment, "expr": []}});
        let listing = |rules: &[serde_json::Value]| serde_json::json!({"nftables": rules});
        assert_eq!(mark_of(&listing(&[rule(&mark), rule(&mark)])).as_deref(), Some(mark.as_str()));
        assert_eq!(mark_of(&listing(&[rule(&mark), rule("mine")])), None);
        assert_eq!(mark_of(&listing(&[])), None);
    }

    #[test]
    fn the_kernel_takes_the_ruleset_and_nothing_else_is_touched() {
        crate::netlink::testing::in_own_namespace(|| async {
            let mut others = Batch::new();
            others.add(NfListObject::Table(Table {
                family: NfFamily::INet,
                name: "others".into(),
                handle: None,
            }));
            helper::apply_ruleset(&others.to_nftables()).unwrap();
            let masquerade = dual_stack();
            assert_eq!(installed_mark().await.unwrap(), None);
            for _ in 0..2 {
                masquerade.install().await.unwrap();
                assert_eq!(installed_mark().await.unwrap(), Some(masquerade.mark()));
            }
            // Two nodes come, one goes, and back.
            let mut other = dual_stack();
            for network in ["10.244.3.0/24", "192.168.1.13/32", "fd00:244:3::/64"] {
                other.cluster.insert(network.parse().unwrap());
            }
            other.cluster.remove(&"10.244.2.0/24".parse().unwrap());
            for (before, after) in [(&masquerade, &other), (&other, &masquerade)] {
                assert!(after.changes(before, "podlane 0").is_some());
                assert!(after.install_after(before).await.unwrap());
                assert_eq!(installed_mark().await.unwrap(), Some(after.mark()));
                let table =
                    helper::get_current_ruleset_raw(helper::DEFAULT_NFT, ["list", "table", "inet", TABLE]);
                let table = table.unwrap();
                for network in &after.cluster {
                    assert!(table.contains(&format!("\"{}\"", network.ip())), "{network}: {table}");
                }
                for network in before.cluster.difference(&after.cluster) {
                    assert!(!table.contains(&format!("\"{}\"", network.ip())), "{network}: {table}");
                }
            }
            // Not the table that it is thought to be.
            let mut third = other.clone();
            third.cluster.remove(&"10.244.3.0/24".parse().unwrap());
            assert!(third.install_after(&other).await.unwrap());
            assert_eq!(installed_mark().await.unwrap(), Some(third.mark()));
            assert!(remove_masquerade().await.unwrap());
            assert!(!remove_masquerade().await.unwrap());
            let left = helper::get_current_ruleset_raw(helper::DEFAULT_NFT, ["list", "tables"]).unwrap();
            assert!(left.contains("others") && !left.contains("podlane"), "{left}");
        });
    }
}
