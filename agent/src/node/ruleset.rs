//! The masquerade rules as nft reads them (`libnftables-json(5)`).

use std::{borrow::Cow, collections::HashSet};

use ipnetwork::IpNetwork;
use nftables::{
    batch::Batch,
    expr::{Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField, Prefix, SetItem},
    schema::{
        Chain, Element, FlushObject, NfCmd, NfListObject, Nftables, Rule, Set, SetFlag, SetType,
        SetTypeValue, Table,
    },
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
        for v4 in self.families() {
            let of_family = |network: &&IpNetwork| network.is_ipv4() == v4;
            batch.add(NfListObject::Set(Box::new(Set {
                family: NfFamily::INet,
                table: TABLE.into(),
                name: set(v4).into(),
                set_type: SetTypeValue::Single(if v4 { SetType::Ipv4Addr } else { SetType::Ipv6Addr }),
                flags: Some(HashSet::from([SetFlag::Interval])),
                elem: Some(Cow::Owned(self.cluster.iter().filter(of_family).map(prefix).collect())),
                ..Set::default()
            })));
            batch.add(self.rule(v4, mark));
        }
        batch.to_nftables()
    }

    /// What makes the table of `before` this one, if only the cluster's networks differ: far less work for nft and the
    /// kernel where they are thousands.
    pub(super) fn changes(&self, before: &Self, mark: &str) -> Option<Nftables<'static>> {
        if (&self.uplinks, &self.pods) != (&before.uplinks, &before.pods) {
            return None;
        }
        let mut batch = Batch::new();
        // The rules carry the mark.
        batch.add_cmd(NfCmd::Flush(FlushObject::Chain(Chain {
            family: NfFamily::INet,
            table: TABLE.into(),
            name: CHAIN.into(),
            ..Chain::default()
        })));
        for v4 in self.families() {
            let elements = |from: &Self, to: &Self| {
                let networks = from.cluster.difference(&to.cluster).filter(|network| network.is_ipv4() == v4);
                let elem: Vec<_> = networks.map(prefix).collect();
                let element = Element {
                    family: NfFamily::INet,
                    table: TABLE.into(),
                    name: set(v4).into(),
                    elem: Cow::Owned(elem),
                };
                (!element.elem.is_empty()).then_some(NfListObject::Element(element))
            };
            elements(before, self).into_iter().for_each(|gone| batch.delete(gone));
            elements(self, before).into_iter().for_each(|new| batch.add(new));
            batch.add(self.rule(v4, mark));
        }
        Some(batch.to_nftables())
    }

    /// The families that pods have.
    fn families(&self) -> impl Iterator<Item = bool> {
        [true, false].into_iter().filter(|v4| self.pods.iter().any(|pods| pods.is_ipv4() == *v4))
    }

    fn rule(&self, v4: bool, mark: &str) -> NfListObject<'static> {
        let pods = self.pods.iter().filter(|network| network.is_ipv4() == v4).map(prefix);
        let protocol = if v4 { "ip" } else { "ip6" };
        let uplinks = self.uplinks.iter().map(|name| Expression::String(name.clone().into()));
        let out = Expression::Named(NamedExpression::Meta(Meta { key: MetaKey::Oifname }));
        let rule = [
            matches(out, Operator::EQ, anonymous_set(uplinks)),
            matches(field(protocol, "saddr"), Operator::EQ, anonymous_set(pods)),
            matches(
                field(protocol, "daddr"),
                Operator::NEQ,
                Expression::String(format!("@{}", set(v4)).into()),
            ),
            Statement::Masquerade(Some(NAT {
                addr: None,
                family: None,
                port: None,
                flags: Some(HashSet::from([NATFlag::FullyRandom])),
            })),
        ];
        NfListObject::Rule(Rule {
            family: NfFamily::INet,
            table: TABLE.into(),
            chain: CHAIN.into(),
            expr: Cow::Owned(rule.to_vec()),
            comment: Some(mark.to_owned().into()),
            ..Rule::default()
        })
    }
}

/// The set of the cluster's networks of a family.
const fn set(v4: bool) -> &'static str {
    if v4 { "cluster4" } else { "cluster6" }
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
