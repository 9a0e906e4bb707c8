//! The plugins of containernetworking, with their own IPAM, and static routes between the nodes.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::lab::cni::Plugin;
use crate::lab::{Builder, Lab, Node};

/// Where distributions put them; `CNI_BIN_DIR` names another folder.
const FOLDERS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

pub(crate) fn bridge(lab: Builder) -> Result<Lab> {
    with_plugin(lab, |node| {
        json!({
            "cniVersion": "1.0.0", "name": "bench", "type": "bridge",
            "bridge": "cni0", "isGateway": true, "ipam": ipam(node),
        })
    })
}

pub(crate) fn ptp(lab: Builder) -> Result<Lab> {
    with_plugin(
        lab,
        |node| json!({"cniVersion": "1.0.0", "name": "bench", "type": "ptp", "ipam": ipam(node)}),
    )
}

fn with_plugin(lab: Builder, config: impl Fn(&Node) -> Value) -> Result<Lab> {
    let mut lab = lab.build()?;
    lab.set_plugins(|node| {
        let config = config(node);
        let name = config["type"].as_str().unwrap_or_default();
        Ok(Plugin { path: find(name)?, config })
    })?;
    forward(&lab)?;
    route_directly(&lab)?;
    Ok(lab)
}

fn ipam(node: &Node) -> Value {
    let ranges: Vec<_> = node.pod_cidrs().iter().map(|cidr| json!([{"subnet": cidr}])).collect();
    let routes: Vec<_> = node
        .pod_cidrs()
        .iter()
        .map(|cidr| json!({"dst": if cidr.is_ipv6() { "::/0" } else { "0.0.0.0/0" }}))
        .collect();
    json!({"type": "host-local", "ranges": ranges, "routes": routes, "dataDir": node.dir().join("ipam")})
}

fn find(plugin: &str) -> Result<PathBuf> {
    let own = std::env::var_os("CNI_BIN_DIR").map(PathBuf::from);
    own.into_iter()
        .chain(FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(plugin))
        .find(|path: &PathBuf| Path::is_file(path))
        .with_context(|| {
            format!("no CNI plugin {plugin} in {}: install containernetworking-plugins", FOLDERS.join(", "))
        })
}

/// Lets the nodes' kernels forward.
pub(super) fn forward(lab: &Lab) -> Result<()> {
    for node in lab.nodes() {
        node.namespace().sysctl("net/ipv4/ip_forward", "1")?;
        if node.addresses().any(|address| address.is_ipv6()) {
            node.namespace().sysctl("net/ipv6/conf/all/forwarding", "1")?;
        }
    }
    Ok(())
}

/// A route to each peer's pod CIDRs, through the peer's address of the same family.
pub(super) fn route_directly(lab: &Lab) -> Result<()> {
    let cluster = lab.cluster();
    for node in lab.nodes() {
        let mut lines = Vec::new();
        for peer in cluster.nodes.iter().filter(|peer| peer.name != node.name()) {
            for cidr in &peer.pod_cidrs {
                let next_hop = peer.addresses.iter().find(|address| address.is_ipv6() == cidr.is_ipv6());
                lines.extend(next_hop.map(|next_hop| format!("route add {cidr} via {next_hop}")));
            }
        }
        node.namespace().ip(&lines)?;
    }
    Ok(())
}
