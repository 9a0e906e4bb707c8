//! The inside of a pod: its interface, addresses, routes and the gateway's neighbour entry.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::Context as _;
use ipnetwork::IpNetwork;
use tokio::time::{sleep, timeout};

use super::host_network;
use super::record::Record;
use crate::failpoint;
use crate::netlink::{Netlink, Route, namespace, offload};
use crate::sysctl;

/// How long the kernel may take to receive at a new IPv6 address: usually well below a millisecond.
const LOCAL_ROUTE: Duration = Duration::from_secs(5);

/// The loopback device's index, in every namespace.
const LOOPBACK: u32 = 1;

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

/// Configures the pod's interface, which exists; `index` is its index in the pod.
pub(super) async fn configure(
    record: &Record,
    index: u32,
    netns: &File,
    pod: &Netlink,
) -> anyhow::Result<()> {
    let name = &record.if_name;
    pod.set_up(LOOPBACK).await?;
    if record.addresses.iter().any(|address| address.is_ipv6()) {
        namespace::run_in(netns.as_fd(), || quiet_ipv6(name))??;
    }
    pod.set_up(index).await?;
    failpoint::step("pod side up");
    for address in &record.addresses {
        pod.add_address(index, host_network(*address)).await?;
        failpoint::step("pod address added");
    }
    for (_, gateway) in record.leases() {
        pod.replace_permanent_neighbour(index, gateway, record.host_mac.0).await?;
        failpoint::step("pod neighbour entered");
    }
    for route in routes(record, index)? {
        pod.replace_route(&route).await?;
        failpoint::step("pod route entered");
    }
    for address in record.addresses.iter().filter(|address| address.is_ipv6()) {
        wait_until_received(pod, *address).await?;
    }
    Ok(())
}

/// Even without duplicate address detection the kernel enters an IPv6 address's local route a moment later, from a work
/// queue; the runtime, told that the pod is ready, would lose what it sends meanwhile.
async fn wait_until_received(pod: &Netlink, address: IpAddr) -> anyhow::Result<()> {
    let wait = async {
        while !pod.is_local(address).await? {
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    };
    timeout(LOCAL_ROUTE, wait)
        .await
        .with_context(|| format!("the pod does not receive at {address} after {LOCAL_ROUTE:?}"))?
}

/// Before the interface is up: nobody has to be waited for, nobody advertises anything on it.
fn quiet_ipv6(name: &str) -> anyhow::Result<()> {
    let conf = format!("net/ipv6/conf/{name}");
    // Routers do not exist on a pod's wire; whoever advertises one there is lying.
    sysctl::ensure(&format!("{conf}/accept_ra"), "0")?;
    sysctl::ensure(&format!("{conf}/router_solicitations"), "0")?;
    // Nobody else can have the pod's addresses: no second is lost on asking.
    sysctl::ensure(&format!("{conf}/accept_dad"), "0")?;
    sysctl::ensure(&format!("{conf}/dad_transmits"), "0")
}

/// What XDP at the wire needs: the kernel sends redirected frames into a veth only where its other end has NAPI, and
/// GRO is what switches that on (Linux 5.13).
pub(super) fn enable_napi(netns: &File, name: &str) -> anyhow::Result<()> {
    namespace::run_in(netns.as_fd(), || offload::enable_gro(name))?
        .with_context(|| format!("turning on GRO on {name} in the pod, which XDP needs"))
}
