//! Podlane's routing rules: `ip rule`, by their protocol. Others' are never listed and never deleted.

use std::fmt;

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use ipnetwork::IpNetwork;
use nix::errno::Errno;
use rtnetlink::IpVersion;
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

use super::error::{to_io, tolerate};
use super::{Netlink, PEER_TABLE, ROUTE_PROTOCOL};

/// Where Podlane's rules stand: behind the table `local` (0), before `main` (32766).
const PRIORITY: u32 = 1080;

/// Packets from these addresses are routed by [`PEER_TABLE`] first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Their source.
    pub from: IpNetwork,
}

impl Rule {
    fn to_message(self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = super::address::family(self.from.ip());
        message.header.src_len = self.from.prefix();
        message.header.table = PEER_TABLE;
        message.header.action = RuleAction::ToTable;
        message.attributes = vec![
            RuleAttribute::Source(self.from.network()),
            RuleAttribute::Priority(PRIORITY),
            RuleAttribute::Protocol(RouteProtocol::from(ROUTE_PROTOCOL)),
        ];
        message
    }

    /// `None` for a rule of somebody else.
    fn from_message(message: &RuleMessage) -> Option<Self> {
        let ours = RuleAttribute::Protocol(RouteProtocol::from(ROUTE_PROTOCOL));
        if !message.attributes.contains(&ours) {
            return None;
        }
        let from = message.attributes.iter().find_map(|attribute| match attribute {
            RuleAttribute::Source(address) => Some(*address),
            _ => None,
        })?;
        Some(Self { from: IpNetwork::new(from, message.header.src_len).ok()? })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {} lookup {PEER_TABLE}", self.from)
    }
}

impl Netlink {
    /// Podlane's rules, both families.
    pub async fn rules(&self) -> anyhow::Result<Vec<Rule>> {
        let _one_at_a_time = self.dumping.lock().await;
        let mut rules = Vec::new();
        for family in [IpVersion::V4, IpVersion::V6] {
            let messages = self.handle.rule().get(family).execute().try_collect::<Vec<_>>().await;
            match messages.map_err(to_io) {
                Ok(messages) => rules.extend(messages.iter().filter_map(Rule::from_message)),
                // A kernel without the family.
                Err(error) if error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) => {}
                Err(error) => return Err(error).context("listing the routing rules"),
            }
        }
        Ok(rules)
    }

    /// Adds a rule. Fine when it is there already.
    pub async fn add_rule(&self, rule: Rule) -> anyhow::Result<()> {
        let mut request = self.handle.rule().add();
        *request.message_mut() = rule.to_message();
        tolerate(request.execute().await, &[Errno::EEXIST]).with_context(|| format!("adding the rule {rule}"))
    }

    /// Removes a rule. Fine when it is gone already.
    pub async fn delete_rule(&self, rule: Rule) -> anyhow::Result<()> {
        let result = self.handle.rule().del(rule.to_message()).execute().await;
        tolerate(result, &[Errno::ENOENT, Errno::EAFNOSUPPORT])
            .with_context(|| format!("deleting the rule {rule}"))
    }
}
