//! A typical node's netfilter: conntrack, masquerading, and the rules that kube-proxy makes for 1,000 services.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Endpoint, Pair};
use crate::lab::{Lab, Node};

const SERVICES: u16 = 1000;

/// Loads the rules on every node, for each family that it has.
pub(super) fn install(lab: &Lab) -> Result<()> {
    for node in lab.nodes() {
        // As Kubernetes asks for: bridged packets pass the rules as well. Kernels without br_netfilter have no such
        // setting.
        for key in ["net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"] {
            if std::path::Path::new("/proc/sys").join(key).exists() {
                node.namespace().sysctl(key, "1")?;
            }
        }
        load(node, "iptables-nft-restore", false)?;
        if node.addresses().any(|address| address.is_ipv6()) {
            load(node, "ip6tables-nft-restore", true)?;
        }
    }
    Ok(())
}

fn load(node: &Node, tool: &str, ipv6: bool) -> Result<()> {
    let own = node.pod_cidrs().iter().find(|cidr| cidr.is_ipv6() == ipv6);
    let own = own.with_context(|| format!("{} has no pod CIDR of that family", node.name()))?;
    let rules = rules(&own.to_string(), ipv6)?;
    node.command([tool]).stdin(rules).read().map(|_| ())
}

/// Has a pod of each node use a service, as there is one that does on any node of a cluster: then there are flows that go
/// through the stack. They are between the two pods that are not measured with each other.
pub(super) fn use_services(lab: &Lab, same_node: &Pair, across_nodes: &Pair) -> Result<()> {
    let (one, other) = (&same_node.server, &across_nodes.server);
    for (node, client, backend) in [(lab.node(1), one, other), (lab.node(2), other, one)] {
        use_service(node, client, backend).with_context(|| format!("a service on {}", node.name()))?;
    }
    Ok(())
}

fn use_service(node: &Node, client: &Endpoint, backend: &Endpoint) -> Result<()> {
    let service = SocketAddr::from((Ipv4Addr::new(10, 96, 0, 1), 443));
    let Some(IpAddr::V4(backend)) = backend.address(false) else {
        anyhow::bail!("{} has no IPv4 address", backend.namespace.name())
    };
    let (address, port, to) =
        (service.ip().to_string(), service.port().to_string(), format!("{backend}:6443"));
    let which = ["-d", &address, "-p", "tcp", "--dport", &port, "-j", "DNAT", "--to-destination", &to];
    let rule = [&["iptables-nft", "-t", "nat", "-I", "KUBE-SERVICES"], &which[..]].concat();
    node.command(rule).read()?;
    match client.namespace.run(|| TcpStream::connect_timeout(&service, Duration::from_secs(5)))? {
        // Nobody listens: the answer comes back by the stack all the same.
        Err(error) if error.kind() != ErrorKind::ConnectionRefused => Err(error.into()),
        _ => Ok(()),
    }
}

/// `iptables-save` of a node with kube-proxy (mode iptables) and flannel, comments left out.
fn rules(own: &str, ipv6: bool) -> Result<String> {
    let cluster = if ipv6 { "fd00:244::/32" } else { "10.244.0.0/16" };
    let multicast = if ipv6 { "ff00::/8" } else { "224.0.0.0/4" };
    let mut text = format!(
        "*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:FLANNEL-FWD - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A FORWARD -j FLANNEL-FWD
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A FLANNEL-FWD -s {cluster} -j ACCEPT
-A FLANNEL-FWD -d {cluster} -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:FLANNEL-POSTRTG - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
"
    );
    for service in 0..SERVICES {
        for chain in [format!("SVC-{service}"), format!("SEP-{service}A"), format!("SEP-{service}B")] {
            writeln!(text, ":KUBE-{chain} - [0:0]")?;
        }
    }
    write!(
        text,
        "-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A POSTROUTING -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -j RETURN
-A FLANNEL-POSTRTG -s {own} -d {cluster} -j RETURN
-A FLANNEL-POSTRTG -s {cluster} -d {own} -j RETURN
-A FLANNEL-POSTRTG ! -s {cluster} -d {own} -j RETURN
-A FLANNEL-POSTRTG -s {cluster} ! -d {multicast} -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s {cluster} -d {cluster} -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
"
    )?;
    for number in 0..SERVICES {
        let (service, a, b) = addresses(number, ipv6);
        let (to_a, to_b) = if ipv6 {
            (format!("[{a}]:8080"), format!("[{b}]:8080"))
        } else {
            (format!("{a}:8080"), format!("{b}:8080"))
        };
        write!(
            text,
            "-A KUBE-SERVICES -d {service} -p tcp -m tcp --dport 80 -j KUBE-SVC-{number}
-A KUBE-SVC-{number} ! -s {cluster} -d {service} -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SVC-{number} -m statistic --mode random --probability 0.5 -j KUBE-SEP-{number}A
-A KUBE-SVC-{number} -j KUBE-SEP-{number}B
-A KUBE-SEP-{number}A -s {a} -j KUBE-MARK-MASQ
-A KUBE-SEP-{number}A -p tcp -m tcp -j DNAT --to-destination {to_a}
-A KUBE-SEP-{number}B -s {b} -j KUBE-MARK-MASQ
-A KUBE-SEP-{number}B -p tcp -m tcp -j DNAT --to-destination {to_b}
"
        )?;
    }
    text += "COMMIT\n";
    Ok(text)
}

/// A service's own address and those of its two endpoints, which no pod of the lab has.
fn addresses(number: u16, ipv6: bool) -> (String, String, String) {
    let [high, low] = number.to_be_bytes();
    if ipv6 {
        let service = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 1, number);
        let pod = |node| Ipv6Addr::new(0xfd00, 0x244, node, 0, 0, 0, 0, number);
        (service.to_string(), pod(0x101).to_string(), pod(0x102).to_string())
    } else {
        let service = Ipv4Addr::new(10, 96, 1 + high, low);
        let pod = |node| Ipv4Addr::new(10, 244, node + high, low);
        (service.to_string(), pod(100).to_string(), pod(110).to_string())
    }
}
