//! The classic pod network: a bridge on each node, static routes or one VXLAN device between the nodes (flannel's
//! `host-gw` and `vxlan`), the ordinary `ip` tool.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, bail};
use serde_json::json;

use super::cluster::Cluster;
use super::cni::Plugin;
use super::{Lab, Node, UPLINK};

/// The CNI plugin that users of such a network write by hand.
const PLUGIN: &str = include_str!("../../baselines/classic-cni.sh");
const BRIDGE: &str = "cni0";
const OVERLAY: &str = "flannel.1";

/// What is between the nodes of a classic network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// A static route per peer: one segment.
    Routes,
    /// VXLAN as flannel sets it up, but for the Ethernet addresses, which follow from the nodes' as Podlane's do.
    Vxlan,
}

/// Sets all nodes up and gives them the plugin; they keep an agent that is prepared.
pub(super) fn start(lab: &mut Lab, between: Between) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = lab.dir().join("classic-cni.sh");
    fs_err::write(&path, PLUGIN)?;
    fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;

    let cluster = lab.cluster();
    for node in &mut lab.nodes {
        let cidr = node.pod_cidrs().iter().find(|cidr| cidr.is_ipv4());
        let cidr = *cidr.with_context(|| format!("{} has no IPv4 pod CIDR for its bridge", node.name()))?;
        let gateway = cidr.iter().nth(1).with_context(|| format!("{cidr} has no room for a gateway"))?;
        let prefix = cidr.prefix();
        let mut lines = vec![
            format!("link add {BRIDGE} type bridge"),
            format!("address add {gateway}/{prefix} dev {BRIDGE}"),
            format!("link set {BRIDGE} up"),
        ];
        match between {
            Between::Routes => lines.extend(routes(node, &cluster)?),
            Between::Vxlan => lines.extend(vxlan(node, &cluster)?),
        }
        node.namespace().ip(&lines)?;
        if between == Between::Vxlan {
            for peer in peers(node, &cluster)? {
                let (mac, far) = (mac(peer.address), peer.address.to_string());
                node.exec(["bridge", "fdb", "append", &mac, "dev", OVERLAY, "dst", &far])?;
            }
        }
        node.namespace().sysctl("net/ipv4/ip_forward", "1")?;
        let config = json!({
            "cniVersion": "1.0.0",
            "name": "classic",
            "type": "classic-cni.sh",
            "bridge": BRIDGE,
            "gateway": gateway,
            "prefixLength": prefix.to_string(),
            "dataDir": node.dir().join("addresses"),
        });
        node.set_plugin(Plugin { path: path.clone(), config });
    }
    Ok(())
}

/// Takes it off a node whose pods are gone; the other nodes keep theirs.
pub(super) fn remove(node: &Node) -> anyhow::Result<()> {
    node.exec(["ip", "link", "delete", BRIDGE])?;
    if node.exec(["ip", "link", "show", "dev", OVERLAY]).is_ok() {
        node.exec(["ip", "link", "delete", OVERLAY])?;
    }
    Ok(())
}

struct Peer {
    address: Ipv4Addr,
    pod_cidr: ipnetwork::Ipv4Network,
}

fn peers(node: &Node, cluster: &Cluster) -> anyhow::Result<Vec<Peer>> {
    let others = cluster.nodes.iter().filter(|peer| peer.name != node.name());
    others
        .map(|peer| {
            let address = peer.addresses.iter().find_map(|address| match address {
                IpAddr::V4(address) => Some(*address),
                IpAddr::V6(_) => None,
            });
            let pod_cidr = peer.pod_cidrs.iter().find_map(|cidr| match cidr {
                ipnetwork::IpNetwork::V4(cidr) => Some(*cidr),
                ipnetwork::IpNetwork::V6(_) => None,
            });
            let (Some(address), Some(pod_cidr)) = (address, pod_cidr) else {
                bail!("{} has no IPv4 address or pod CIDR", peer.name)
            };
            Ok(Peer { address, pod_cidr })
        })
        .collect()
}

fn routes(node: &Node, cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let route = |peer: Peer| format!("route add {} via {}", peer.pod_cidr, peer.address);
    Ok(peers(node, cluster)?.into_iter().map(route).collect())
}

fn vxlan(node: &Node, cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let own = node.addresses().find_map(|address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    let own = own.context("a node has no IPv4 address")?;
    let router = node.pod_cidrs().iter().find(|cidr| cidr.is_ipv4()).context("no IPv4 pod CIDR")?.network();
    let mut lines = vec![
        format!(
            "link add {OVERLAY} address {} mtu 1450 type vxlan id 1 dev {UPLINK} local {own} dstport 8472 nolearning",
            mac(own)
        ),
        format!("address add {router}/32 dev {OVERLAY}"),
        format!("link set {OVERLAY} up"),
    ];
    for peer in peers(node, cluster)? {
        let (router, mac) = (peer.pod_cidr.network(), mac(peer.address));
        lines.push(format!("neighbour replace {router} lladdr {mac} dev {OVERLAY} nud permanent"));
        lines.push(format!("route add {} via {router} dev {OVERLAY} onlink", peer.pod_cidr));
    }
    Ok(lines)
}

/// As docs/migration.md has it.
fn mac(node: Ipv4Addr) -> String {
    let [a, b, c, d] = node.octets();
    format!("02:50:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}
