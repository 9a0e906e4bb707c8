//! The masquerade rules as nft reads them (`libnftables-json(5)`).

use std::{borrow::Cow, collections::HashSet};

use ipnetwork::IpNetwork;
use nftables::{
    batch::Batch,
    expr::{Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField, Prefix, SetItem},
    schema::{Chain, NfListObject, Nftables, Rule, Set, SetFlag, SetType, SetTypeValue, Table},
    stmt::{Match, NAT, NATFlag, Operator, Statement},
    types::{NfChainPolicy, NfChainType, NfFamily, NfHook},
};

use super::masquerade::Masquerade;

/// The table.
pub(super) const TABLE: &str = "podlane";
/// Not "masquerade": nft reads that as a keyword.
pub(super) const CHAIN: &str = "postrouting";
/// `srcnat`, nft's standard priority for source NAT.
const SRCNAT: i32 = 100;

impl Masquerade {
    /// The whole table; its rules carry `mark` as their comment.
    pub(super) fn ruleset(&self, mark: &str) -> Nftables<'static> {
        let mut batch = replaced_table();
        batch.add(NfListObject::Chain(Chain {
            family: NfFamily::INet,
            table: TABLE.into(),
            name: CHAIN.into(),
            _type: Some(NfChainType::NAT),
            hook: Some(NfHook::Postrouting),
            prio: Some(SRCNAT),
            policy: Some(NfChainPolicy::Accept),
            ..Chain::default()
        }));
        for v4 in [true, false] {
            let of_family = |network: &&IpNetwork| network.is_ipv4() == v4;
            let pods: Vec<Expression<'static>> = self.pods.iter().filter(of_family).map(prefix).collect();
            if pods.is_empty() {
                continue;
            }
            let (set, set_type, protocol) = if v4 {
                ("cluster4", SetType::Ipv4Addr, "ip")
            } else {
                ("cluster6", SetType::Ipv6Addr, "ip6")
            };
            batch.add(NfListObject::Set(Box::new(Set {
                family: NfFamily::INet,
                table: TABLE.into(),
                name: set.into(),
                set_type: SetTypeValue::Single(set_type),
                flags: Some(HashSet::from([SetFlag::Interval])),
                elem: Some(Cow::Owned(self.cluster.iter().filter(of_family).map(prefix).collect())),
                ..Set::default()
            })));
            let uplinks = self.uplinks.iter().map(|name| Expression::String(name.clone().into()));
            let out = Expression::Named(NamedExpression::Meta(Meta { key: MetaKey::Oifname }));
            let rule = [
                matches(out, Operator::EQ, anonymous_set(uplinks)),
                matches(field(protocol, "saddr"), Operator::EQ, anonymous_set(pods)),
                matches(
                    field(protocol, "daddr"),
                    Operator::NEQ,
                    Expression::String(format!("@{set}").into()),
                ),
                Statement::Masquerade(Some(NAT {
                    addr: None,
                    family: None,
                    port: None,
                    flags: Some(HashSet::from([NATFlag::FullyRandom])),
                })),
            ];
            batch.add(NfListObject::Rule(Rule {
                family: NfFamily::INet,
                table: TABLE.into(),
                chain: CHAIN.into(),
                expr: Cow::Owned(rule.to_vec()),
                comment: Some(mark.to_owned().into()),
                ..Rule::default()
            }));
        }
        batch.to_nftables()
    }
}

pub(super) fn table() -> NfListObject<'static> {
    NfListObject::Table(Table { family: NfFamily::INet, name: TABLE.into(), handle: None })
}

/// Removes the table, which may be there, and makes it anew: nft applies a batch in one transaction.
fn replaced_table() -> Batch<'static> {
    let mut batch = Batch::new();
    batch.add(table());
    batch.delete(table());
    batch.add(table());
    batch
}

fn matches(left: Expression<'static>, op: Operator, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match { left, right, op })
}

fn anonymous_set(items: impl IntoIterator<Item = Expression<'static>>) -> Expression<'static> {
    Expression::Named(NamedExpression::Set(items.into_iter().map(SetItem::Element).collect()))
}

fn field(protocol: &'static str, field: &'static str) -> Expression<'static> {
    let field = PayloadField { protocol: protocol.into(), field: field.into() };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

fn prefix(network: &IpNetwork) -> Expression<'static> {
    let whole = if network.is_ipv4() { 32 } else { 128 };
    let address = Expression::String(network.ip().to_string().into());
    if network.prefix() == whole {
        return address;
    }
    let len = u32::from(network.prefix());
    Expression::Named(NamedExpression::Prefix(Prefix { addr: Box::new(address), len }))
}
