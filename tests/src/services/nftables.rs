//! The same rules in the shape of kube-proxy's nftables mode.

use super::{HOST_PORT, NODE_PORT, Service};
use crate::lab::Node;
use crate::probe::path::Family;

pub(super) fn set(service: &Service, node: &Node, host_port: bool) -> anyhow::Result<()> {
    node.command(["nft", "-f", "-"]).stdin(rules(service, host_port)).read().map(|_| ())
}

fn rules(service: &Service, host_port: bool) -> String {
    let (ip, address_type) = match service.family {
        Family::V4 => ("ip", "ipv4_addr"),
        Family::V6 => ("ip6", "ipv6_addr"),
    };
    let (cluster_ip, backend, cidr) = (service.cluster_ip(), service.backend(), service.cluster_cidr());
    let (service_ip, service_port, backend_ip) = (cluster_ip.ip(), cluster_ip.port(), backend.ip());
    let chains: String = super::PROTOCOLS
        .map(|protocol| {
            format!(
                "
    chain endpoint-{protocol} {{
        {ip} saddr {backend_ip} jump mark-for-masquerade
        meta l4proto {protocol} dnat to {backend}
    }}
    chain service-{protocol} {{
        {ip} daddr {service_ip} {ip} saddr != {cidr} jump mark-for-masquerade
        numgen random mod 1 vmap {{ 0 : goto endpoint-{protocol} }}
    }}
    chain external-{protocol} {{
        jump mark-for-masquerade
        goto service-{protocol}
    }}"
            )
        })
        .concat();
    let host_ports = if host_port {
        format!("fib daddr type local meta l4proto {{ tcp, udp, sctp }} th dport {HOST_PORT} jump hostport")
    } else {
        String::new()
    };
    format!(
        "table {ip} kube-proxy {{
    map service-ips {{
        type {address_type} . inet_proto . inet_service : verdict
        elements = {{ {service_ip} . tcp . {service_port} : goto service-tcp,
                      {service_ip} . udp . {service_port} : goto service-udp,
                      {service_ip} . sctp . {service_port} : goto service-sctp }}
    }}
    map service-nodeports {{
        type inet_proto . inet_service : verdict
        elements = {{ tcp . {NODE_PORT} : goto external-tcp, udp . {NODE_PORT} : goto external-udp,
                      sctp . {NODE_PORT} : goto external-sctp }}
    }}
    chain mark-for-masquerade {{
        mark set mark or 0x4000
    }}{chains}
    chain hostport {{
        {ip} saddr {backend_ip} jump mark-for-masquerade
        meta l4proto {{ tcp, udp, sctp }} dnat to {backend}
    }}
    chain services {{
        {ip} daddr . meta l4proto . th dport vmap @service-ips
        fib daddr type local meta l4proto . th dport vmap @service-nodeports
        {host_ports}
    }}
    chain nat-prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
        jump services
    }}
    chain nat-output {{
        type nat hook output priority -100; policy accept;
        jump services
    }}
    chain nat-postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        mark and 0x4000 == 0x4000 goto masquerading
    }}
    chain masquerading {{
        mark set mark xor 0x4000
        masquerade fully-random
    }}
    chain filter-forward {{
        type filter hook forward priority filter; policy accept;
        ct state invalid drop
    }}
}}
"
    )
}
