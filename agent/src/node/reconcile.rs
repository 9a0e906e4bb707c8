//! One pass: what should be, what is, the difference.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::SystemTime,
};

use anyhow::{Context as _, bail};
use dataplane_common::Hook;
use ipnetwork::IpNetwork;

use super::{
    NodeStatus, NodeTask,
    files::NodeFile,
    ledger::Ledger,
    masquerade::{Masquerade, remove_masquerade},
    mtu, overlay,
    path::{self, Path, Policy},
    peers::{PeerPaths, mac_collisions},
    plan::{Here, Plan},
    sysctl, uplinks,
};
use crate::{
    cluster::{Cluster, Node},
    config::TunnelSetting,
    datapath::{Contents, Device, OwnAddresses, XdpMode},
    netlink::{Link, Route, Rule},
    pods::{NodeNetwork, gateway},
};

/// Any more specific or preferred route wins over the `unreachable` one for the whole pod CIDR.
const LAST_RESORT: u32 = 0xffff;

impl NodeTask {
    /// Never fails as a whole: what goes wrong is a problem in the status, and the rest is done.
    pub(super) async fn reconcile(&mut self, cluster: &Cluster) -> NodeStatus {
        let mut status = NodeStatus::default();
        let mut ledger = std::mem::take(&mut self.ledger);
        // Until a pass has succeeded, the next one trusts nothing.
        let trusted = std::mem::take(&mut self.memory.trusted);
        let result = self.try_reconcile(cluster, &mut status, &mut ledger, trusted).await;
        ledger.end(result.is_ok() && !trusted);
        self.ledger = ledger;
        match result {
            Ok(()) => status.reconciled = Some(SystemTime::now()),
            Err(error) => status.problems.push(format!("{error:#}")),
        }
        status.ready = status.mtu != 0;
        status
    }

    async fn try_reconcile(
        &mut self,
        cluster: &Cluster,
        status: &mut NodeStatus,
        ledger: &mut Ledger,
        trusted: bool,
    ) -> anyhow::Result<()> {
        let name = self.config.node_name.clone();
        let Some(node) = cluster.node(&name) else {
            bail!(
                "this node, {name}, is not in the cluster ({}): add it, or set nodeName",
                cluster.some_names()
            );
        };
        status.pod_cidrs.clone_from(&node.pod_cidrs);
        let has_ipv6 = node.pod_cidrs.iter().any(IpNetwork::is_ipv6);

        let links = self.netlink.links().await?;
        let addresses = self.netlink.addresses().await?;
        let uplinks = uplinks::find(&self.config.uplinks, &name, &node.addresses, &links, &addresses)?;
        let shared: Vec<Arc<Link>> = uplinks.iter().cloned().map(Arc::new).collect();
        let uplink_mtu = uplinks.iter().map(|link| link.mtu).min().context("no uplinks")?;
        let names = || uplinks.iter().map(|link| link.name.as_str());
        status.uplinks = names().map(str::to_owned).collect();
        let has_ipv4 = node.pod_cidrs.iter().any(IpNetwork::is_ipv4);
        sysctl::enable_forwarding(has_ipv4, has_ipv6, names(), ledger)?;

        self.give_addresses(node, &links, &addresses, &uplinks, ledger).await?;
        let look = std::mem::take(&mut self.memory.look_at_maps);
        let damaged = if look { self.datapath.damage()? } else { Vec::new() };
        let peer_addresses = || cluster.peers(&name).flat_map(|peer| peer.addresses.iter().copied());
        self.datapath.set_nodes(&peer_addresses().collect())?;
        self.datapath.set_own_addresses(&own_addresses(node, &uplinks))?;
        let policy = Policy { tunnel: self.config.tunnel, routed: self.config.routed };
        let wanted = peer_addresses().collect();
        self.memory.ways.learn(&self.netlink, wanted).await;
        let find = |peer| PeerPaths::find(node, peer, policy, &self.memory.ways, &shared);
        let found: Vec<PeerPaths<'_>> = cluster.peers(&name).map(find).collect();
        let mut plan = Plan::default();
        let wanted = self.wanted_overlay(node, uplink_mtu, &found, overlay::find(&links).is_some());
        let overlay = match wanted {
            Some(wanted) => {
                plan.problems.extend(mac_collisions(cluster.nodes()));
                self.ensure_overlay(&links, wanted, ledger)
                    .await
                    // No peer behind a router can be reached.
                    .map_err(|error| status.problems.push(format!("{error:#}")))
                    .ok()
            }
            None => None,
        };
        self.memory.overlay = overlay.as_ref().map(|overlay| overlay.index);
        let path_mtus = self.path_mtus(overlay.is_some(), trusted)?;
        let here = Here {
            node,
            overlay: overlay.as_ref(),
            vni: self.config.vni,
            wraps: self.datapath.features().tunnel_wrap,
            path_mtus: &path_mtus,
        };
        for peer in &found {
            plan.add(here, peer);
        }
        plan.slow.extend(
            node.pod_cidrs
                .iter()
                .map(|cidr| Route { metric: Some(LAST_RESORT), ..Route::unreachable(*cidr) }),
        );
        // The slow path first: the fast path is never the only one.
        if let Some(overlay) = &overlay {
            self.address_overlay(overlay, node, &addresses, ledger).await?;
            self.write_neighbours(overlay, &plan.neighbours, &mut plan.problems, ledger).await?;
        }
        let slow = std::mem::take(&mut plan.slow);
        let whole = self.write_routes(slow, &mut plan.problems, ledger, trusted).await?;
        self.write_rules(&plan.rules, ledger).await?;
        self.attach(&uplinks, &mut plan.problems, ledger).await?;
        plan.problems.extend(self.datapath.set_routes(&plan.fast)?);
        for damage in damaged {
            ledger.mended(damage, "written again");
        }
        plan.problems.extend(self.attach_xdp(&uplinks, ledger));
        self.datapath.filled(Contents::Peers)?;
        if wanted.is_none() {
            self.remove_overlay(&links).await?;
        }

        status.overlay_mtu = overlay.as_ref().map(|overlay| overlay.mtu);
        // Of the overlay as it should be, even where it could not be made just now: pods live longer than a pass.
        status.mtu = self.config.mtu.unwrap_or(wanted.map_or(uplink_mtu, |wanted| wanted.mtu));
        status.problems.extend(mtu::problem(status.mtu, status.overlay_mtu, uplink_mtu, has_ipv6));
        status.xdp_uplinks = match self.datapath.xdp_mode() {
            XdpMode::Off => Vec::new(),
            _ => self.memory.xdp.keys().cloned().collect(),
        };
        status.peers = plan.peers;
        status.warnings.extend(plan.problems);
        let network = NodeNetwork { name: name.clone(), pod_cidrs: node.pod_cidrs.clone(), mtu: status.mtu };
        self.network.send_if_modified(|old| {
            let changed = old.as_ref() != Some(&network);
            *old = Some(network);
            changed
        });
        // Last, as it runs another program, which takes its time.
        let rules = self.config.masquerade.then(|| Masquerade::new(node, cluster, names()));
        status.warnings.extend(self.masquerade(rules, ledger).await);
        self.memory.trusted = whole;
        Ok(())
    }

    /// What routers have told the programs of the paths to the peers' ends of the overlay.
    fn path_mtus(&mut self, overlay: bool, trusted: bool) -> anyhow::Result<BTreeMap<IpAddr, u32>> {
        // Counted first: what is told meanwhile makes another pass.
        let errors = overlay.then(|| self.datapath.path_mtu_errors()).transpose()?;
        if !trusted || errors != self.memory.path_mtu_errors {
            self.memory.path_mtus = if overlay { self.datapath.path_mtus()? } else { BTreeMap::new() };
            self.memory.path_mtu_errors = errors;
        }
        Ok(self.memory.path_mtus.clone())
    }

    /// The overlay device, if one is needed. One that is there stays while a peer is out of reach: that may be for a
    /// moment, and pods that come meanwhile should get the right MTU.
    fn wanted_overlay(
        &self,
        node: &Node,
        uplink_mtu: u32,
        found: &[PeerPaths<'_>],
        present: bool,
    ) -> Option<overlay::Wanted> {
        let paths = || found.iter().flat_map(PeerPaths::paths);
        let needed = match self.config.tunnel {
            TunnelSetting::Always => true,
            TunnelSetting::Never => false,
            TunnelSetting::Auto => {
                paths().any(|path| matches!(path, Path::Tunnel(_)))
                    || (present && found.iter().any(PeerPaths::incomplete))
            }
        };
        let mac = path::mac(&node.addresses).filter(|_| needed)?;
        let mtu = mtu::overlay(uplink_mtu, &node.addresses, paths());
        Some(overlay::Wanted { mac, mtu, port: self.config.vxlan_port })
    }

    /// Looks after the masquerade rules, where they have changed or have not been looked at for a while.
    async fn masquerade(&mut self, wanted: Option<Masquerade>, ledger: &mut Ledger) -> Option<String> {
        let thing = wanted.as_ref().map(Masquerade::to_string);
        match &self.memory.masquerade {
            Some((last, problem)) if *last == wanted => {
                if problem.is_none() {
                    thing.into_iter().for_each(|thing| ledger.found(thing));
                }
                problem.clone()
            }
            _ => {
                let result = match &wanted {
                    Some(rules) => match &self.memory.masquerade {
                        Some((Some(last), None)) => rules.install_after(last).await,
                        _ => rules.install().await,
                    }
                    .map(|written| {
                        thing.into_iter().for_each(|thing| ledger.keep(thing, !written, "written again"));
                    }),
                    None => remove_masquerade().await.map(drop),
                };
                let problem = result.err().map(|error| format!("{error:#}"));
                self.memory.masquerade = Some((wanted, problem.clone()));
                problem
            }
        }
    }

    /// Puts the gateway addresses on `lo`, takes former ones away, and remembers both these and the uplinks.
    async fn give_addresses(
        &self,
        node: &Node,
        links: &[Link],
        addresses: &[(u32, IpNetwork)],
        uplinks: &[Link],
        ledger: &mut Ledger,
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
            let found =
                addresses.iter().any(|(index, network)| *index == lo.index && network.ip() == *gateway);
            if !found {
                self.netlink.add_address(lo.index, IpNetwork::from(*gateway)).await?;
            }
            ledger.keep(format_args!("the gateway address {gateway} on {}", lo.name), found, "added again");
        }
        for former in before.gateways.difference(&gateways) {
            self.netlink.delete_address(lo.index, IpNetwork::from(*former)).await?;
        }
        for former in before.uplinks.difference(&after.uplinks) {
            self.datapath.detach_xdp(former)?;
            for hook in [Hook::FromWire, Hook::ToWire] {
                self.datapath.detach(hook, former)?;
            }
        }
        if before != after {
            after.write(&self.config.run_dir)?;
        }
        Ok(())
    }

    /// The rules by which packets from pods are routed by Podlane's own table first.
    async fn write_rules(&self, wanted: &BTreeSet<Rule>, ledger: &mut Ledger) -> anyhow::Result<()> {
        let present: BTreeSet<Rule> = self.netlink.rules().await?.into_iter().collect();
        for rule in wanted {
            let found = present.contains(rule);
            if !found {
                self.netlink.add_rule(*rule).await?;
            }
            ledger.keep(format_args!("the routing rule {rule}"), found, "added again");
        }
        for rule in present.difference(wanted) {
            self.netlink.delete_rule(*rule).await?;
        }
        Ok(())
    }

    /// Attaches the uplinks' programs where this agent's are not attached yet. What notes flows comes first: no packet may
    /// be forwarded past flows that nobody has noted.
    async fn attach(
        &self,
        uplinks: &[Link],
        problems: &mut Vec<String>,
        ledger: &mut Ledger,
    ) -> anyhow::Result<()> {
        match self.datapath.ensure_post_routing() {
            Ok(Some(found)) => {
                ledger.keep(
                    format_args!("the program {}", Hook::PostRouting.name()),
                    found,
                    "attached again",
                );
            }
            Ok(None) => {}
            Err(error) => problems.push(format!("{error:#}")),
        }
        for uplink in uplinks {
            for hook in self.datapath.hooks(Device::Uplink) {
                if let Err(error) = self.ensure_attached(hook, uplink, ledger).await {
                    problems.push(format!("{error:#}"));
                }
            }
        }
        Ok(())
    }

    /// Attaches a program where this agent's is not attached.
    pub(super) async fn ensure_attached(
        &self,
        hook: Hook,
        device: &Link,
        ledger: &mut Ledger,
    ) -> anyhow::Result<()> {
        let found = match self.datapath.filter(hook)? {
            Some((program, ingress)) => {
                self.netlink.classifiers(device.index, ingress).await?.contains(&program)
            }
            None => self.datapath.is_attached(hook, &device.name)?,
        };
        if !found {
            self.datapath.attach(hook, &device.name)?;
        }
        if self.datapath.handover().is_none() {
            let thing = format!("the program {} on {} (index {})", hook.name(), device.name, device.index);
            ledger.keep(thing, found, "attached again");
        }
        Ok(())
    }
}

/// Where overlay frames to this node end (its first address of each family, which peers send to), and the MAC
/// addresses that XDP takes for the node's.
fn own_addresses(node: &Node, uplinks: &[Link]) -> OwnAddresses {
    OwnAddresses {
        v4: node.addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        }),
        v6: node.addresses.iter().find_map(|address| match address {
            IpAddr::V6(address) => Some(*address),
            IpAddr::V4(_) => None,
        }),
        uplink_macs: uplinks.iter().filter_map(|uplink| uplink.mac).collect(),
    }
}
