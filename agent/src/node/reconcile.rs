//! One pass: what should be, what is, the difference.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::{Context as _, bail};
use dataplane_common::Hook;
use ipnetwork::IpNetwork;

use super::{NodeStatus, NodeTask, files::NodeFile, peers::Plan, sysctl, uplinks};
use crate::{
    cluster::{Cluster, Node},
    netlink::{Link, Route, RouteKind},
    pods::{NodeNetwork, gateway},
};

/// Any more specific or preferred route wins over the `unreachable` one for the whole pod CIDR.
const LAST_RESORT: u32 = 0xffff;

impl NodeTask {
    /// Never fails as a whole: what goes wrong is a problem in the status, and the rest is done.
    pub(super) async fn reconcile(&self, cluster: &Cluster) -> NodeStatus {
        let mut status = NodeStatus::default();
        if let Err(error) = self.try_reconcile(cluster, &mut status).await {
            status.problems.push(format!("{error:#}"));
        }
        status.ready = status.mtu != 0;
        status
    }

    async fn try_reconcile(&self, cluster: &Cluster, status: &mut NodeStatus) -> anyhow::Result<()> {
        let name = &self.config.node_name;
        let Some(node) = cluster.node(name) else {
            bail!(
                "this node, {name}, is not in the cluster ({}): add it, or set nodeName",
                cluster.names().collect::<Vec<_>>().join(", ")
            );
        };
        status.pod_cidrs.clone_from(&node.pod_cidrs);
        sysctl::enable_forwarding(
            node.pod_cidrs.iter().any(IpNetwork::is_ipv4),
            node.pod_cidrs.iter().any(IpNetwork::is_ipv6),
        )?;

        let links = self.netlink.links().await?;
        let addresses = self.netlink.addresses().await?;
        let uplinks = uplinks::find(&self.config.uplinks, name, &node.addresses, &links, &addresses)?;
        status.uplinks = uplinks.iter().map(|link| link.name.clone()).collect();
        let mtu = match self.config.mtu {
            Some(mtu) => mtu,
            None => uplinks.iter().map(|link| link.mtu).min().context("no uplinks")?,
        };

        self.give_addresses(node, &links, &addresses, &uplinks).await?;
        let mut plan = Plan::default();
        for peer in cluster.peers(name) {
            plan.add(peer, &self.netlink, &uplinks).await;
        }
        plan.slow.extend(
            node.pod_cidrs
                .iter()
                .map(|cidr| Route { metric: Some(LAST_RESORT), ..Route::unreachable(*cidr) }),
        );
        // The slow path first: the fast path is never the only one.
        self.write_routes(&plan.slow, &mut plan.problems).await?;
        plan.problems.extend(self.datapath.set_routes(&plan.fast)?);
        self.attach(&uplinks, &mut plan.problems)?;

        status.mtu = mtu;
        status.peers = plan.peers;
        status.problems.extend(plan.problems);
        let network = NodeNetwork { name: name.clone(), pod_cidrs: node.pod_cidrs.clone(), mtu };
        self.network.send_if_modified(|old| {
            let changed = old.as_ref() != Some(&network);
            *old = Some(network);
            changed
        });
        Ok(())
    }

    /// Puts the gateway addresses on `lo`, takes former ones away, and remembers both these and the uplinks.
    async fn give_addresses(
        &self,
        node: &Node,
        links: &[Link],
        addresses: &[(u32, IpNetwork)],
        uplinks: &[Link],
    ) -> anyhow::Result<()> {
        let lo = links
            .iter()
            .find(|link| link.loopback)
            .context("this network namespace has no loopback device")?;
        let gateways: BTreeSet<IpAddr> = node.pod_cidrs.iter().map(gateway).collect();
        let before = NodeFile::read(&self.config.run_dir)?;
        let names = uplinks.iter().map(|link| link.name.clone()).collect();
        let after = NodeFile { version: 1, gateways: gateways.clone(), uplinks: names };
        if before != after {
            // First everything that may be there, so that nothing is forgotten if this process ends here.
            let both = NodeFile {
                version: 1,
                gateways: before.gateways.union(&gateways).copied().collect(),
                uplinks: before.uplinks.union(&after.uplinks).cloned().collect(),
            };
            both.write(&self.config.run_dir)?;
        }
        for gateway in &gateways {
            if !addresses.iter().any(|(index, network)| *index == lo.index && network.ip() == *gateway) {
                self.netlink.add_address(lo.index, IpNetwork::from(*gateway)).await?;
            }
        }
        for former in before.gateways.difference(&gateways) {
            self.netlink.delete_address(lo.index, IpNetwork::from(*former)).await?;
        }
        for former in before.uplinks.difference(&after.uplinks) {
            self.datapath.detach(Hook::FromWire, former)?;
        }
        if before != after {
            after.write(&self.config.run_dir)?;
        }
        Ok(())
    }

    /// The node's routes (a pod's have neither gateway nor kind `unreachable`: those are the pods' own).
    async fn write_routes(&self, wanted: &[Route], problems: &mut Vec<String>) -> anyhow::Result<()> {
        let of_the_node = |route: &Route| route.gateway.is_some() || route.kind == RouteKind::Unreachable;
        let wanted: BTreeMap<(IpNetwork, Option<u32>), Route> = wanted
            .iter()
            .map(|route| route.clone().canonical())
            .map(|route| ((route.destination, route.metric), route))
            .collect();
        let present = self.netlink.routes().await?;
        for route in wanted.values() {
            if !present.contains(route)
                && let Err(error) = self.netlink.replace_route(route).await
            {
                problems.push(format!("{error:#}"));
            }
        }
        for route in present.iter().filter(|route| of_the_node(route)) {
            if !wanted.contains_key(&(route.destination, route.metric)) {
                self.netlink.delete_route(route).await?;
            }
        }
        Ok(())
    }

    /// Attaches `from_wire` where this agent's program is not attached yet.
    fn attach(&self, uplinks: &[Link], problems: &mut Vec<String>) -> anyhow::Result<()> {
        for uplink in uplinks {
            if !self.datapath.is_attached(Hook::FromWire, &uplink.name)?
                && let Err(error) = self.datapath.attach(Hook::FromWire, &uplink.name)
            {
                problems.push(format!("{error:#}"));
            }
        }
        Ok(())
    }
}
