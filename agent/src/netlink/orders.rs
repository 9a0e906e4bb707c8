//! Orders that the kernel carries out while the asking thread waits, several in one message: for a pod's attachment,
//! where every hand-over between threads and every answer counts.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use anyhow::{Context as _, anyhow};
use ipnetwork::IpNetwork;
use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkExtentMask, LinkMessage};
use rtnetlink::packet_route::route::RouteType;
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::exchange::{Answer, Exchange};
use super::{Link, Route, address, neighbour, resolve};

/// A veth uses one queue unless told otherwise later, but is made with one for each CPU; taking the others back costs two
/// grace periods (`netif_set_real_num_tx_queues`).
const QUEUES: u32 = 1;

/// A veth pair to create: one end here, the other straight in a pod's namespace.
#[derive(Debug)]
pub struct VethSpec<'a> {
    /// The name of the end in this socket's namespace.
    pub host_name: &'a str,
    /// Its Ethernet address.
    pub host_mac: [u8; 6],
    /// The name of the end in the pod.
    pub pod_name: &'a str,
    /// Its Ethernet address.
    pub pod_mac: [u8; 6],
    /// The pod's network namespace.
    pub pod_netns: BorrowedFd<'a>,
    /// For both ends.
    pub mtu: u32,
}

/// A change.
#[derive(Debug)]
pub struct Order {
    /// What is being done to what, for errors.
    doing: String,
    message: Message,
    flags: u16,
    /// Refusals that mean that the state asked for is there already.
    fine: &'static [Errno],
    /// What a refusal may mean.
    hint: Option<(Errno, String)>,
}

impl Order {
    /// Brings a device up, and gives it an alias if there is one: what `ip link` shows.
    pub fn set_up(index: u32, alias: Option<&str>) -> Self {
        let mut message = LinkUnspec::new_with_index(index).up().build();
        message.attributes.extend(alias.map(|alias| LinkAttribute::IfAlias(alias.to_owned())));
        let doing = format!("bringing up the device with index {index}");
        Self { doing, message: Message::SetLink(message), flags: 0, fine: &[], hint: None }
    }

    /// Gives a device an address, as [`Netlink::add_address`](super::Netlink::add_address) does.
    pub fn add_address(ifindex: u32, address: IpNetwork) -> Self {
        let doing = format!("adding address {address} to the device with index {ifindex}");
        let message = Message::NewAddress(address::message(ifindex, address));
        Self { doing, message, flags: NLM_F_CREATE | NLM_F_EXCL, fine: &[Errno::EEXIST], hint: None }
    }

    /// Makes `address` on the device permanently known as `mac`, whatever was there before.
    pub fn replace_permanent_neighbour(ifindex: u32, address: IpAddr, mac: [u8; 6]) -> Self {
        let doing = format!("adding neighbour {address} to the device with index {ifindex}");
        let message = Message::NewNeighbour(neighbour::permanent(ifindex, address, mac));
        Self { doing, message, flags: NLM_F_CREATE | NLM_F_REPLACE, fine: &[], hint: None }
    }

    /// Installs a route, in the place of one with the same destination and metric.
    pub fn replace_route(route: &Route) -> Self {
        let message = Message::NewRoute(route.to_message());
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        Self { doing: format!("installing route {route}"), message, flags, fine: &[], hint: None }
    }

    /// Has an error with this number say what it may mean.
    #[must_use]
    pub fn with_hint(self, errno: Errno, hint: String) -> Self {
        Self { hint: Some((errno, hint)), ..self }
    }

    fn refused(&self, error: io::Error) -> Option<anyhow::Error> {
        let is = |errno: &Errno| error.raw_os_error() == Some(*errno as i32);
        if self.fine.iter().any(is) {
            return None;
        }
        let hint = self.hint.as_ref().filter(|(errno, _)| is(errno)).map(|(_, hint)| hint.clone());
        let error = anyhow::Error::new(error).context(self.doing.clone());
        Some(match hint {
            Some(hint) => error.context(hint),
            None => error,
        })
    }
}

/// A socket for orders, bound to the network namespace that the thread was in when it opened it.
#[derive(Debug)]
pub struct Orders(Exchange);

impl Orders {
    /// In the calling thread's network namespace.
    pub fn open() -> anyhow::Result<Self> {
        Exchange::open().map(Self).context("opening a netlink socket")
    }

    /// Carries the orders out, one after the other. The error is the first one's that was refused; those behind it were
    /// tried all the same.
    pub fn carry_out(&mut self, orders: &[Order]) -> anyhow::Result<()> {
        let Some(last) = orders.len().checked_sub(1) else { return Ok(()) };
        // The kernel tells of every refusal, and of a success where it is asked to: the last one's is enough.
        let acknowledge = |n| if n == last { NLM_F_ACK } else { 0 };
        let messages = orders.iter().enumerate();
        let messages = messages.map(|(n, order)| (order.message.clone(), order.flags | acknowledge(n)));
        let mut refusal = None;
        self.0
            .exchange(messages.collect(), |n, answer| {
                if let (Some(order), Answer::Ended(Err(error))) = (orders.get(n), answer)
                    && refusal.is_none()
                {
                    refusal = order.refused(error);
                }
            })
            .context("speaking netlink")?;
        refusal.map_or(Ok(()), Err)
    }

    /// Creates a veth pair, its far end directly in the pod's namespace, and returns the near one. Both are down.
    ///
    /// Names, addresses and MTU travel in one message, so no half-made device is ever visible in either namespace.
    pub fn create_veth(&mut self, spec: &VethSpec<'_>) -> anyhow::Result<Link> {
        let VethSpec { host_name, pod_name, .. } = spec;
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(*pod_name)
            .address(spec.pod_mac.to_vec())
            .mtu(spec.mtu)
            .setns_by_fd(spec.pod_netns.as_raw_fd())
            .append_extra_attribute(LinkAttribute::NumTxQueues(QUEUES))
            .append_extra_attribute(LinkAttribute::NumRxQueues(QUEUES))
            .build();
        let pair = LinkMessageBuilder::<LinkVeth>::new(host_name, pod_name)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .address(spec.host_mac.to_vec())
            .mtu(spec.mtu)
            .append_extra_attribute(LinkAttribute::NumTxQueues(QUEUES))
            .append_extra_attribute(LinkAttribute::NumRxQueues(QUEUES))
            .build();
        let messages = vec![
            (Message::NewLink(pair), NLM_F_CREATE | NLM_F_EXCL),
            (Message::GetLink(link_by_name(host_name)), 0),
        ];
        let (mut created, mut found) = (Ok(()), None);
        self.0
            .exchange(messages, |n, answer| match (n, answer) {
                (0, Answer::Ended(result)) => created = result,
                (_, Answer::Message(Message::NewLink(link))) => found = Some(Link::from_message(&link)),
                _ => {}
            })
            .context("speaking netlink")?;
        created.with_context(|| format!("creating the veth pair {host_name} - {pod_name} (in the pod)"))?;
        found.ok_or_else(|| anyhow!("device {host_name} vanished right after it was created"))
    }

    /// The link with this name, if there is one.
    pub fn link_by_name(&mut self, name: &str) -> anyhow::Result<Option<Link>> {
        let mut found = Ok(None);
        self.0
            .exchange(vec![(Message::GetLink(link_by_name(name)), 0)], |_, answer| match answer {
                Answer::Message(Message::NewLink(link)) => found = Ok(Some(Link::from_message(&link))),
                Answer::Ended(Err(error)) if error.raw_os_error() != Some(Errno::ENODEV as i32) => {
                    found = Err(error);
                }
                _ => {}
            })
            .and(found)
            .with_context(|| format!("looking for device {name}"))
    }

    /// Whether the kernel delivers packets for `address` in this namespace.
    pub fn is_local(&mut self, address: IpAddr) -> anyhow::Result<bool> {
        let mut local = Ok(false);
        self.0
            .exchange(vec![(Message::GetRoute(resolve::question(address)), 0)], |_, answer| match answer {
                Answer::Message(Message::NewRoute(route)) => {
                    local = Ok(route.header.kind == RouteType::Local);
                }
                // No route at all: not yet.
                Answer::Ended(Err(error)) if error.raw_os_error() != Some(Errno::ENETUNREACH as i32) => {
                    local = Err(error);
                }
                _ => {}
            })
            .and(local)
            .with_context(|| format!("asking the kernel whether {address} is its own"))
    }

    /// Removes a device, and waits until its memory is free too: much longer than until it is gone. Fine when it is gone
    /// already.
    pub(super) fn delete_link(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let mut result = Ok(());
        self.0
            .exchange(vec![(Message::DelLink(message), NLM_F_ACK)], |_, answer| {
                if let Answer::Ended(Err(error)) = answer
                    && error.raw_os_error() != Some(Errno::ENODEV as i32)
                {
                    result = Err(error);
                }
            })
            .and(result)
    }
}

/// A question for a device, without its statistics.
fn link_by_name(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}
