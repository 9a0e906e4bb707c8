//! ADD: validate everything, write the record, then mutate; undo all of it on the first failure.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context as _;
use nix::errno::Errno;

use super::ipam::{Lease, Refused, Wanted};
use super::record::{Record, State};
use super::request::AttachRequest;
use super::{Inner, NodeNetwork, host_network, lock, names, pod_side};
use crate::cni::{Error, code};
use crate::failpoint;
use crate::netlink::{Link, Order, Orders, Route, VethSpec, is_errno, namespace, offload};
use crate::sysctl;

/// Why there is no attachment.
enum Unmade {
    /// Nothing is left of it.
    Refused(Error),
    /// Its record and perhaps more are there.
    Begun(Box<Record>, Error),
}

impl Inner {
    pub(super) async fn attach(self: &Arc<Self>, request: AttachRequest) -> Result<Record, Error> {
        request.validate()?;
        self.ensure_restored()?;
        let key = request.key();
        let _held = self.locks.lock(&key).await;
        if let Some(record) = self.record(&key) {
            return self.repeated(record, &request).await;
        }
        // Is never closed.
        let _turn = self.busy.acquire().await.ok();
        let inner = self.clone();
        let made = tokio::task::spawn_blocking(move || inner.attach_now(&request)).await;
        let inner = self.clone();
        tokio::task::spawn_blocking(move || inner.save_given());
        let (record, error) = match made {
            Ok(Ok(record)) => return Ok(record),
            Ok(Err(Unmade::Refused(error))) => return Err(error),
            Ok(Err(Unmade::Begun(record, error))) => (*record, error),
            Err(died) => {
                let error =
                    Error::new(code::ATTACH_FAILED, "the agent failed inside").details(died.to_string());
                let Some(record) = self.record(&key) else { return Err(error) };
                (record, error)
            }
        };
        Err(match self.undo(&record).await {
            Ok(()) => error,
            Err(rollback) => {
                let details = format!("{}; and the rollback failed too: {rollback}", error.details);
                error.details(details)
            }
        })
    }

    /// All that needs no waiting for others: on a thread of its own, as the kernel does its work in the asking thread.
    fn attach_now(&self, request: &AttachRequest) -> Result<Record, Unmade> {
        let node = self.current_node().map_err(Unmade::Refused)?;
        let netns = self.open_netns(&request.netns).map_err(Unmade::Refused)?;
        let leases = self.reserve(&node, &request.wanted).map_err(|refused| {
            let code = match refused {
                Refused::Exhausted(_) | Refused::RangesFull { .. } => code::ADDRESSES_EXHAUSTED,
                Refused::Taken(_) => code::CONFLICT,
                Refused::Foreign { .. } | Refused::None(_) => code::INVALID_CONFIG,
            };
            Unmade::Refused(Error::new(code, refused.to_string()))
        })?;
        failpoint::step("addresses reserved");
        let record = new_record(request, &node, &leases);
        if let Err(error) = self.store.create(&record) {
            self.release(&record);
            return Err(Unmade::Refused(Error::new(code::IO, format!("{error:#}"))));
        }
        lock(&self.records).insert(record.key(), record.clone());
        let begun = |error: &anyhow::Error| Unmade::Begun(Box::new(record.clone()), failed(request, error));
        let mut orders = Orders::open().map_err(|error| begun(&error))?;
        match self.create_device(&mut orders, &record, &netns) {
            Ok(device) => {
                self.make(&mut orders, record.clone(), &device, &netns).map_err(|error| begun(&error))
            }
            // Something else has the name: it must not be undone.
            Err(error) if is_errno(&error, Errno::EEXIST) => {
                let refusal = self.conflict(&mut orders, request, &netns, error);
                match self.forget(&record) {
                    Ok(()) => Err(Unmade::Refused(refusal)),
                    Err(error) => Err(Unmade::Refused(failed(request, &error))),
                }
            }
            Err(error) => Err(begun(&error)),
        }
    }

    fn reserve(&self, node: &NodeNetwork, wanted: &Wanted) -> Result<Vec<Lease>, Refused> {
        let leases = lock(&self.ipam).reserve_wanted(node, wanted)?;
        self.unsaved.store(true, Ordering::Release);
        Ok(leases)
    }

    /// Writes down which address was given last, where that has not been done: behind an ADD's answer, as nobody waits for
    /// it, and before an address is free again, which is when it matters.
    pub(super) fn save_given(&self) {
        let _one_at_a_time = lock(&self.saving);
        if self.unsaved.swap(false, Ordering::AcqRel) {
            let given = lock(&self.ipam).given();
            self.given.write(&given);
        }
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

    /// Which interface or device was there already.
    fn conflict(
        &self,
        orders: &mut Orders,
        request: &AttachRequest,
        netns: &File,
        refusal: anyhow::Error,
    ) -> Error {
        let AttachRequest { if_name, netns: path, .. } = request;
        let in_pod = self.visit(netns, || Orders::open()?.link_by_name(if_name));
        if matches!(in_pod, Ok(Ok(Some(_)))) {
            let msg = format!("interface {if_name} exists already in {path}: remove it, or DEL what made it");
            return Error::new(code::CONFLICT, msg);
        }
        let host = names::host_interface(&request.key());
        if matches!(orders.link_by_name(&host), Ok(Some(_))) {
            let msg =
                format!("device {host} exists already, though no attachment owns it: ip link delete {host}");
            return Error::new(code::CONFLICT, msg);
        }
        failed(request, &refusal)
    }

    fn create_device(&self, orders: &mut Orders, record: &Record, netns: &File) -> anyhow::Result<Link> {
        orders.create_veth(&VethSpec {
            host_name: &record.host_interface,
            host_mac: record.host_mac.0,
            pod_name: &record.if_name,
            pod_mac: record.mac.0,
            pod_netns: netns.as_fd(),
            mtu: record.mtu,
        })
    }

    fn make(
        &self,
        orders: &mut Orders,
        mut record: Record,
        device: &Link,
        netns: &File,
    ) -> anyhow::Result<Record> {
        failpoint::step("veth made");
        record.host_if_index = device.index;
        // The programs come first: no packet of the pod's passes unchecked.
        self.fast_path
            .attach_new_pod(&record.host_interface, record.host_if_index)
            .with_context(|| format!("attaching the programs to {}", record.host_interface))?;
        failpoint::step("programs attached");
        self.enter_maps(&record)?;
        self.configure_host_side(orders, &record, device)?;
        // A veth names its other end's index, wherever that is.
        let pod_index = device.peer.context("the kernel names no index of the pod's interface")?;
        self.visit(netns, || pod_side::configure(&record, pod_index))??;
        if self.fast_path.needs_napi() {
            pod_side::enable_napi(netns, &record.if_name)?;
            failpoint::step("NAPI on");
        }
        record.state = State::Ready;
        self.store.update(&record)?;
        // By now the kernel has mostly done so by itself.
        offload::settle_carrier(&record.host_interface)?;
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
        failpoint::step("programs attached again");
        self.enter_maps(record)
    }

    fn enter_maps(&self, record: &Record) -> anyhow::Result<()> {
        for address in &record.addresses {
            self.fast_path
                .set_pod(*address, Self::endpoint(record))
                .with_context(|| format!("entering {address} into the pod map"))?;
            failpoint::step("pod map entered");
        }
        Ok(())
    }

    /// The kernel's slow path to the pod. Idempotent.
    pub(super) fn configure_host_side(
        &self,
        orders: &mut Orders,
        record: &Record,
        device: &Link,
    ) -> anyhow::Result<()> {
        quiet(&device.name)?;
        failpoint::step("host side quiet");
        let mut wanted = Vec::new();
        if !device.up {
            wanted.push(Order::set_up(device.index, Some(&record.alias())));
        }
        for address in &record.addresses {
            wanted.push(Order::replace_permanent_neighbour(device.index, *address, record.mac.0));
        }
        wanted.extend(host_routes(record, device.index).iter().map(|(route, gateway)| {
            let hint = format!("is the gateway address {gateway} on this node's lo?");
            Order::replace_route(route).with_hint(Errno::EINVAL, hint)
        }));
        orders.carry_out(&wanted)?;
        failpoint::step("host side up, with neighbours and routes");
        Ok(())
    }

    /// Runs `work` inside a pod's namespace, on this thread.
    fn visit<T>(&self, netns: &File, work: impl FnOnce() -> T) -> anyhow::Result<T> {
        namespace::visit(netns.as_fd(), self.home.as_fd(), work)
    }

    /// As if it had never been asked for.
    fn forget(&self, record: &Record) -> anyhow::Result<()> {
        self.store.remove(&record.key())?;
        lock(&self.records).remove(&record.key());
        self.release(record);
        Ok(())
    }

    /// Gives the addresses back.
    pub(super) fn release(&self, record: &Record) {
        self.save_given();
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
