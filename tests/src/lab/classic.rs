//! The classic pod network: a bridge on each node, static routes between the nodes, the ordinary `ip` tool.

use anyhow::Context as _;
use serde_json::json;

use super::Lab;
use super::cni::Plugin;

/// The CNI plugin that users of such a network write by hand.
const PLUGIN: &str = include_str!("../../baselines/classic-cni.sh");
const BRIDGE: &str = "cni0";

/// Sets all nodes up and gives them the plugin.
pub(super) fn start(lab: &mut Lab) -> anyhow::Result<()> {
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
        for peer in cluster.nodes.iter().filter(|peer| peer.name != node.name()) {
            let next_hop = peer.addresses.iter().find(|address| address.is_ipv4());
            for (cidr, next_hop) in peer.pod_cidrs.iter().filter(|cidr| cidr.is_ipv4()).zip(next_hop) {
                lines.push(format!("route add {cidr} via {next_hop}"));
            }
        }
        node.namespace().ip(&lines)?;
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
        node.set_network(Plugin { path: path.clone(), config }, None);
    }
    Ok(())
}
