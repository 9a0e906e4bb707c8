//! ADD: validate everything, write the record, then mutate; undo all of it on the first failure.

use std::fs::File;
use std::os::fd::AsFd as _;

use anyhow::Context as _;
use nix::errno::Errno;

use super::ipam::{Lease, Refused, Wanted};
use super::record::{Record, State};
use super::request::AttachRequest;
use super::{Inner, NodeNetwork, host_network, lock, names, pod_side};
use crate::cni::{Error, code};
use crate::failpoint;
use crate::netlink::{Link, Netlink, Route, VethSpec, is_errno};
use crate::sysctl;

impl Inner {
    pub(super) async fn attach(&self, request: AttachRequest) -> Result<Record, Error> {
        request.validate()?;
        self.ensure_restored()?;
        let key = request.key();
        let _held = self.locks.lock(&key).await;
        if let Some(record) = self.record(&key) {
            return self.repeated(record, &request).await;
        }
        // Is never closed.
        let _turn = self.busy.acquire().await.ok();
        let node = self.current_node()?;
        let netns = self.open_netns(&request.netns)?;
        let pod = Netlink::in_namespace(netns.as_fd()).map_err(|error| failed(&request, &error))?;
        self.ensure_free(&request, &pod).await?;

        let leases = self.reserve(&node, &request.wanted).map_err(|refused| {
            let code = match refused {
                Refused::Exhausted(_) | Refused::RangesFull { .. } => code::ADDRESSES_EXHAUSTED,
                Refused::Taken(_) => code::CONFLICT,
                Refused::Foreign { .. } | Refused::None(_) => code::INVALID_CONFIG,
            };
            Error::new(code, refused.to_string())
        })?;
        failpoint::step("addresses reserved");
        let record = new_record(&request, &node, &leases);
        if let Err(error) = self.store.create(&record) {
            self.release(&record);
            return Err(Error::new(code::IO, format!("{error:#}")));
        }
        lock(&self.records).insert(key, record.clone());
        match self.make(record.clone(), &netns, &pod).await {
            Ok(record) => Ok(record),
            Err(error) => {
                let error = failed(&request, &error);
                Err(match self.undo(&record).await {
                    Ok(()) => error,
                    Err(rollback) => {
                        let details = format!("{}; and the rollback failed too: {rollback}", error.details);
                        error.details(details)
                    }
                })
            }
        }
    }

    fn reserve(&self, node: &NodeNetwork, wanted: &Wanted) -> Result<Vec<Lease>, Refused> {
        let mut ipam = lock(&self.ipam);
        let leases = ipam.reserve_wanted(node, wanted)?;
        self.given.write(&ipam);
        Ok(leases)
    }

    /// ADD of an attachment that exists: runtimes repeat an ADD whose answer they did not get.
    async fn repeated(&self, record: Record, request: &AttachRequest) -> Result<Record, Error> {
        let Record { container_id, if_name, .. } = &record;
        let conflict = |fault: String| {
            Error::new(
                code::CONFLICT,
                format!("{if_name} of container {container_id} is attached already, {fault}: DEL it first"),
            )
        };
        if record.netns != request.netns {
            return Err(conflict(format!("in network namespace {}, not {}", record.netns, request.netns)));
        }
        let damage = self.damage(&record).await;
        if !damage.is_empty() {
            return Err(conflict("but damaged".to_owned()).details(damage.join("; ")));
        }
        Ok(record)
    }

    /// Refuses to touch an interface or a device that is there already.
    async fn ensure_free(&self, request: &AttachRequest, pod: &Netlink) -> Result<(), Error> {
        let AttachRequest { if_name, netns, .. } = request;
        let failed = |error| failed(request, &error);
        if pod.link_by_name(if_name).await.map_err(failed)?.is_some() {
            let msg =
                format!("interface {if_name} exists already in {netns}: remove it, or DEL what made it");
            return Err(Error::new(code::CONFLICT, msg));
        }
        let host = names::host_interface(&request.key());
        if self.netlink.link_by_name(&host).await.map_err(failed)?.is_some() {
            let msg =
                format!("device {host} exists already, though no attachment owns it: ip link delete {host}");
            return Err(Error::new(code::CONFLICT, msg));
        }
        Ok(())
    }

    async fn make(&self, mut record: Record, netns: &File, pod: &Netlink) -> anyhow::Result<Record> {
        let device = self
            .netlink
            .create_veth(VethSpec {
                host_name: &record.host_interface,
                host_mac: record.host_mac.0,
                pod_name: &record.if_name,
                pod_mac: record.mac.0,
                pod_netns: netns.as_fd(),
                mtu: record.mtu,
                alias: &record.alias(),
            })
            .await?;
        failpoint::step("veth made");
        record.host_if_index = device.index;
        // The programs come first: no packet of the pod's passes unchecked.
        self.enter_fast_path(&record)?;
        self.configure_host_side(&record, &device).await?;
        // A veth names its other end's index, wherever that is.
        let pod_index = device.peer.context("the kernel names no index of the pod's interface")?;
        pod_side::configure(&record, pod_index, netns, pod).await?;
        if self.fast_path.needs_napi() {
            pod_side::enable_napi(netns, &record.if_name)?;
            failpoint::step("NAPI on");
        }
        record.state = State::Ready;
        self.store.update(&record)?;
        lock(&self.records).insert(record.key(), record.clone());
        failpoint::step("attached, not answered");
        tracing::info!(
            container = record.container_id,
            pod = record.alias(),
            device = record.host_interface,
            addresses = ?record.addresses,
            "pod attached"
        );
        Ok(record)
    }

    /// Programs and map entries. Idempotent.
    pub(super) fn enter_fast_path(&self, record: &Record) -> anyhow::Result<()> {
        let Record { host_interface, host_if_index, .. } = record;
        self.fast_path
            .attach_pod(host_interface, *host_if_index)
            .with_context(|| format!("attaching the programs to {host_interface}"))?;
        failpoint::step("programs attached");
        for address in &record.addresses {
            self.fast_path
                .set_pod(*address, Self::endpoint(record))
                .with_context(|| format!("entering {address} into the pod map"))?;
            failpoint::step("pod map entered");
        }
        Ok(())
    }

    /// The kernel's slow path to the pod. Idempotent.
    pub(super) async fn configure_host_side(&self, record: &Record, device: &Link) -> anyhow::Result<()> {
        quiet(&device.name)?;
        failpoint::step("host side quiet");
        if !device.up {
            self.netlink.set_up(device.index).await?;
            failpoint::step("host side up");
        }
        for address in &record.addresses {
            self.netlink.replace_permanent_neighbour(device.index, *address, record.mac.0).await?;
            failpoint::step("neighbour entered");
        }
        for (route, gateway) in host_routes(record, device.index) {
            self.netlink.replace_route(&route).await.map_err(|error| {
                if is_errno(&error, Errno::EINVAL) {
                    error.context(format!("is the gateway address {gateway} on this node's lo?"))
                } else {
                    error
                }
            })?;
            failpoint::step("route entered");
        }
        Ok(())
    }

    /// Gives the addresses back.
    pub(super) fn release(&self, record: &Record) {
        let mut ipam = lock(&self.ipam);
        record.addresses.iter().for_each(|address| ipam.release(*address));
    }
}

/// The host side: a router that nobody needs to find, and that finds nobody.
fn quiet(device: &str) -> anyhow::Result<()> {
    settings(device).iter().try_for_each(|(key, value)| sysctl::ensure(key, value))
}

/// The kernel settings of a host-side device.
pub(super) fn settings(device: &str) -> [(String, &'static str); 5] {
    let v6 = format!("net/ipv6/conf/{device}");
    [
        (format!("net/ipv4/conf/{device}/forwarding"), "1"),
        (format!("{v6}/accept_ra"), "0"),
        (format!("{v6}/router_solicitations"), "0"),
        (format!("{v6}/accept_dad"), "0"),
        (format!("{v6}/forwarding"), "1"),
    ]
}

/// The node's routes to a pod, with the gateway that is their source.
pub(super) fn host_routes(record: &Record, ifindex: u32) -> Vec<(Route, std::net::IpAddr)> {
    record
        .leases()
        .map(|(address, gateway)| {
            let route = Route { source: Some(gateway), ..Route::to_device(host_network(address), ifindex) };
            (route.canonical(), gateway)
        })
        .collect()
}

fn new_record(request: &AttachRequest, node: &NodeNetwork, leases: &[Lease]) -> Record {
    let key = request.key();
    let named = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    Record {
        version: Record::VERSION,
        state: State::Creating,
        container_id: request.container_id.clone(),
        netns: request.netns.clone(),
        if_name: request.if_name.clone(),
        namespace: named(&request.namespace),
        pod: named(&request.pod),
        uid: named(&request.uid),
        host_interface: names::host_interface(&key),
        host_if_index: 0,
        mac: request.mac.unwrap_or_else(|| names::pod_mac(&key)),
        host_mac: names::host_mac(&key),
        addresses: leases.iter().map(|lease| lease.address).collect(),
        gateways: leases.iter().map(|lease| lease.gateway).collect(),
        mtu: node.mtu,
        ipam: request.wanted.ipam.clone(),
    }
}

fn failed(request: &AttachRequest, error: &anyhow::Error) -> Error {
    let AttachRequest { container_id, if_name, .. } = request;
    Error::new(code::ATTACH_FAILED, format!("attaching {if_name} of container {container_id} failed"))
        .details(format!("{error:#}"))
}
