//! The chains of kube-proxy's iptables mode and of the portmap plugin.

use super::{HOST_PORT, NODE_PORT, Service};
use crate::lab::Node;
use crate::probe::path::Family;

pub(super) fn set(service: &Service, backend: &str, node: &Node, host_port: bool) -> anyhow::Result<()> {
    let iptables = match service.family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    let restore = format!("{iptables}-{backend}-restore");
    node.command([restore]).stdin(rules(service, host_port)).read().map(|_| ())
}

fn rules(service: &Service, host_port: bool) -> String {
    let mut lines = vec![
        "*nat".to_owned(),
        ":KUBE-SERVICES - [0:0]".to_owned(),
        ":KUBE-NODEPORTS - [0:0]".to_owned(),
        ":KUBE-POSTROUTING - [0:0]".to_owned(),
        ":KUBE-MARK-MASQ - [0:0]".to_owned(),
        "-A PREROUTING -j KUBE-SERVICES".to_owned(),
        "-A OUTPUT -j KUBE-SERVICES".to_owned(),
        "-A POSTROUTING -j KUBE-POSTROUTING".to_owned(),
        "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN".to_owned(),
        "-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0".to_owned(),
        "-A KUBE-POSTROUTING -j MASQUERADE --random-fully".to_owned(),
        "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000".to_owned(),
    ];
    for protocol in super::PROTOCOLS {
        lines.extend(one_service(service, protocol));
    }
    lines.push("-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS".to_owned());
    if host_port {
        lines.extend(portmap(service));
    }
    lines.extend(
        [
            "COMMIT",
            "*filter",
            ":KUBE-FORWARD - [0:0]",
            "-A FORWARD -j KUBE-FORWARD",
            "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
            "-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT",
            "-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "COMMIT",
            "",
        ]
        .map(str::to_owned),
    );
    lines.join("\n")
}

fn one_service(service: &Service, protocol: &str) -> Vec<String> {
    let (svc, sep, ext) =
        (format!("KUBE-SVC-{protocol}"), format!("KUBE-SEP-{protocol}"), format!("KUBE-EXT-{protocol}"));
    let (cluster_ip, backend, cidr) = (service.cluster_ip(), service.backend(), service.cluster_cidr());
    let to_cluster_ip =
        format!("-d {} -p {protocol} -m {protocol} --dport {}", cluster_ip.ip(), cluster_ip.port());
    vec![
        format!(":{svc} - [0:0]"),
        format!(":{sep} - [0:0]"),
        format!(":{ext} - [0:0]"),
        format!("-A KUBE-SERVICES {to_cluster_ip} -j {svc}"),
        format!("-A KUBE-NODEPORTS -p {protocol} -m {protocol} --dport {NODE_PORT} -j {ext}"),
        format!("-A {ext} -j KUBE-MARK-MASQ"),
        format!("-A {ext} -j {svc}"),
        format!("-A {svc} ! -s {cidr} {to_cluster_ip} -j KUBE-MARK-MASQ"),
        format!("-A {svc} -j {sep}"),
        // A pod that reaches itself has to see another address than its own.
        format!("-A {sep} -s {} -j KUBE-MARK-MASQ", backend.ip()),
        format!("-A {sep} -p {protocol} -m {protocol} -j DNAT --to-destination {backend}"),
    ]
}

/// As the portmap plugin does with `"snat": true`.
fn portmap(service: &Service) -> Vec<String> {
    let backend = service.backend();
    let mut lines = vec![
        ":CNI-HOSTPORT-DNAT - [0:0]".to_owned(),
        ":CNI-HOSTPORT-MASQ - [0:0]".to_owned(),
        ":CNI-HOSTPORT-SETMARK - [0:0]".to_owned(),
        ":CNI-DN-0 - [0:0]".to_owned(),
        "-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT".to_owned(),
        "-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT".to_owned(),
        "-A POSTROUTING -j CNI-HOSTPORT-MASQ".to_owned(),
        "-A CNI-HOSTPORT-SETMARK -j MARK --set-xmark 0x2000/0x2000".to_owned(),
        "-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE".to_owned(),
    ];
    for protocol in super::PROTOCOLS {
        let port = format!("-p {protocol} -m {protocol} --dport {HOST_PORT}");
        lines.extend([
            format!("-A CNI-HOSTPORT-DNAT -p {protocol} -m multiport --dports {HOST_PORT} -j CNI-DN-0"),
            format!("-A CNI-DN-0 -s {} {port} -j CNI-HOSTPORT-SETMARK", backend.ip()),
            format!("-A CNI-DN-0 {port} -j DNAT --to-destination {backend}"),
        ]);
    }
    lines
}
