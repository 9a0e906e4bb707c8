//! The inside of a pod: its interface, addresses, routes and the gateway's neighbour entry.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, anyhow};
use ipnetwork::IpNetwork;

use super::host_network;
use super::record::Record;
use crate::netlink::{Netlink, Route, namespace};

/// The pod's two routes for a lease: the gateway is on the device, everything else behind it.
pub(super) fn routes(record: &Record, ifindex: u32) -> anyhow::Result<Vec<Route>> {
    let mut routes = Vec::new();
    for (_, gateway) in record.leases() {
        let any = if gateway.is_ipv4() { "0.0.0.0" } else { "::" };
        let default = IpNetwork::new(any.parse()?, 0)?;
        routes.push(Route::to_device(host_network(gateway), ifindex));
        routes.push(Route::via(default, gateway, ifindex));
    }
    Ok(routes)
}

/// Configures the pod's interface, which exists.
pub(super) async fn configure(record: &Record, netns: &File, pod: &Netlink) -> anyhow::Result<()> {
    let name = &record.if_name;
    let device = pod.link_by_name(name).await?.ok_or_else(|| anyhow!("{name} vanished from the pod"))?;
    if let Some(lo) = pod.link_by_name("lo").await? {
        pod.set_up(lo.index).await?;
    }
    if record.addresses.iter().any(|address| address.is_ipv6()) {
        // Routers do not exist on a pod's wire; whoever advertises one there is lying.
        let path = format!("/proc/sys/net/ipv6/conf/{name}/accept_ra");
        namespace::run_in(netns.as_fd(), || write_if_there(&path, "0"))?
            .with_context(|| format!("turning off router advertisements on {name}"))?;
    }
    pod.set_up(device.index).await?;
    for address in &record.addresses {
        pod.add_address(device.index, host_network(*address)).await?;
    }
    for (_, gateway) in record.leases() {
        pod.replace_permanent_neighbour(device.index, gateway, record.host_mac.0).await?;
    }
    for route in routes(record, device.index)? {
        pod.replace_route(&route).await?;
    }
    Ok(())
}

/// Where the kernel has no IPv6 there is nothing to turn off.
fn write_if_there(path: &str, value: &str) -> io::Result<()> {
    match fs_err::OpenOptions::new().write(true).open(path) {
        Ok(mut file) => io::Write::write_all(&mut file, value.as_bytes()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
