//! The inside of a pod: its interface, addresses, routes and the gateway's neighbour entry.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ipnetwork::IpNetwork;

use super::host_network;
use super::record::Record;
use crate::failpoint;
use crate::netlink::{Order, Orders, Route, namespace, offload};
use crate::sysctl;

/// How long the kernel may take to receive at a new IPv6 address: usually well below a millisecond.
const LOCAL_ROUTE: Duration = Duration::from_secs(5);
/// How often to look for that.
const LOOK_AGAIN: Duration = Duration::from_micros(100);

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

/// Configures the pod's interface, which exists, from inside the pod; `index` is its index there.
pub(super) fn configure(record: &Record, index: u32) -> anyhow::Result<()> {
    if record.addresses.iter().any(|address| address.is_ipv6()) {
        quiet_ipv6(&record.if_name)?;
    }
    let mut wanted = vec![Order::set_up(LOOPBACK, None), Order::set_up(index, None)];
    wanted.extend(record.addresses.iter().map(|address| Order::add_address(index, host_network(*address))));
    wanted.extend(
        record
            .leases()
            .map(|(_, gateway)| Order::replace_permanent_neighbour(index, gateway, record.host_mac.0)),
    );
    wanted.extend(routes(record, index)?.iter().map(Order::replace_route));
    let mut orders = Orders::open()?;
    orders.carry_out(&wanted)?;
    failpoint::step("pod side up, with addresses, neighbours and routes");
    for address in record.addresses.iter().filter(|address| address.is_ipv6()) {
        wait_until_received(&mut orders, *address)?;
    }
    Ok(())
}

/// Even without duplicate address detection the kernel enters an IPv6 address's local route a moment later, from a work
/// queue; the runtime, told that the pod is ready, would lose what it sends meanwhile.
fn wait_until_received(orders: &mut Orders, address: IpAddr) -> anyhow::Result<()> {
    let deadline = Instant::now() + LOCAL_ROUTE;
    while !orders.is_local(address)? {
        ensure!(Instant::now() < deadline, "the pod does not receive at {address} after {LOCAL_ROUTE:?}");
        thread::sleep(LOOK_AGAIN);
    }
    Ok(())
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
