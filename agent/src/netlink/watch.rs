//! The kernel's announcements: something about links, addresses, routes or neighbours changed.

use std::future::poll_fn;
use std::pin::pin;
use std::task::ready;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _, stream};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::{RouteMessage, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::SocketAddr;
use tokio::time::{self, Instant};

use super::{Link, Netlink, Route};

/// Bytes of announcements that may wait for us, before the kernel drops them. The kernel doubles it and may cap it
/// at `net.core.rmem_max`.
const RECEIVE_BUFFER: libc::c_int = 1 << 20;

/// How long an announcement waits to be read.
const PAUSE: Duration = Duration::from_millis(5);

type Messages = BoxStream<'static, (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

/// Something changed. It says where to look, not what to believe: by the time it is read, more may have happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A device appeared, changed or went away.
    Link {
        /// Its index.
        index: u32,
        /// Its name.
        name: String,
        /// It went away.
        removed: bool,
    },
    /// A device got or lost an address.
    Address {
        /// The device.
        ifindex: u32,
    },
    /// A route came or went.
    Route {
        /// The route, if it is one of Podlane's.
        ours: Option<Box<Route>>,
        /// Its destination is one address, as a local pod's is.
        to_host: bool,
        /// It is gone.
        removed: bool,
    },
    /// A neighbour was learnt, changed its state or was forgotten.
    Neighbour {
        /// On this device.
        ifindex: u32,
        /// It is gone, or about to go.
        removed: bool,
    },
    /// A routing rule came or went.
    Rule,
    /// Announcements were lost: look at everything again.
    Lost,
}

impl Netlink {
    /// Announcements from now on. The stream ends only when listening again after a loss is refused.
    pub fn watch(&self) -> anyhow::Result<impl Stream<Item = Change> + Send + use<>> {
        let messages = self.listen()?;
        let netlink = self.clone();
        Ok(Box::pin(stream::unfold((netlink, messages), |(netlink, mut messages)| async move {
            loop {
                match messages.next().await {
                    Some((message, _)) => {
                        if let Some(change) = change(&message.payload) {
                            return Some((change, (netlink, messages)));
                        }
                    }
                    // The connection gives up on any error but a full buffer: open another.
                    None => {
                        let messages = netlink.listen().ok()?;
                        return Some((Change::Lost, (netlink, messages)));
                    }
                }
            }
        })))
    }

    fn listen(&self) -> anyhow::Result<Messages> {
        use anyhow::Context as _;
        const GROUPS: [MulticastGroup; 8] = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
        ];
        let (connection, messages) = self
            .within_namespace(|| {
                let (mut connection, _, messages) = rtnetlink::new_multicast_connection(&GROUPS)?;
                let socket = rtnetlink::sys::AsyncSocket::socket_mut(connection.socket_mut());
                socket.set_rx_buf_sz(RECEIVE_BUFFER)?;
                Ok::<_, std::io::Error>((connection, messages))
            })?
            .context("listening to the kernel's network changes")?;
        tokio::spawn(unhurried(connection));
        Ok(messages.boxed())
    }
}

/// Reads what comes in a moment after it has come, all of it together: nobody acts on it sooner anyway, and whoever makes
/// the changes, such as an ADD, has the CPUs for itself.
async fn unhurried(connection: impl Future<Output = ()>) {
    let mut connection = pin!(connection);
    let mut pause = pin!(time::sleep(Duration::ZERO));
    let mut paused = true;
    poll_fn(|context| {
        // Something has come.
        if !paused {
            pause.as_mut().reset(Instant::now() + PAUSE);
            paused = true;
        }
        ready!(pause.as_mut().poll(context));
        paused = false;
        connection.as_mut().poll(context)
    })
    .await;
}

fn change(payload: &NetlinkPayload<RouteNetlinkMessage>) -> Option<Change> {
    let message = match payload {
        NetlinkPayload::InnerMessage(message) => message,
        // The receive buffer was full (ENOBUFS).
        NetlinkPayload::Overrun(_) => return Some(Change::Lost),
        _ => return None,
    };
    Some(match message {
        RouteNetlinkMessage::NewLink(link) => link_change(Link::from_message(link), false),
        RouteNetlinkMessage::DelLink(link) => link_change(Link::from_message(link), true),
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            Change::Address { ifindex: address.header.index }
        }
        // The table of local addresses follows the addresses, which are announced themselves.
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route)
            if route.header.kind == RouteType::Local =>
        {
            return None;
        }
        RouteNetlinkMessage::NewRoute(route) => route_change(route, false),
        RouteNetlinkMessage::DelRoute(route) => route_change(route, true),
        RouteNetlinkMessage::NewNeighbour(neighbour) => Change::Neighbour {
            ifindex: neighbour.header.ifindex,
            removed: neighbour.header.state == NeighbourState::Failed,
        },
        RouteNetlinkMessage::DelNeighbour(neighbour) => {
            Change::Neighbour { ifindex: neighbour.header.ifindex, removed: true }
        }
        RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => Change::Rule,
        _ => return None,
    })
}

fn route_change(route: &RouteMessage, removed: bool) -> Change {
    let bits = if route.header.address_family == AddressFamily::Inet { 32 } else { 128 };
    Change::Route {
        ours: Route::from_message(route).map(Box::new),
        to_host: route.header.destination_prefix_length == bits,
        removed,
    }
}

fn link_change(link: Link, removed: bool) -> Change {
    Change::Link { index: link.index, name: link.name, removed }
}
