//! Removing devices, many at once, without waiting for the kernel to clear away what nobody sees any more.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use tokio::sync::broadcast;

use super::{Netlink, Orders};

/// Announcements that a waiting removal may fall behind by; then it waits for the kernel's answer instead.
const BACKLOG: usize = 1024;

/// Where the indices of removed devices are announced, once somebody has asked.
pub(super) type Removals = Arc<std::sync::Mutex<Option<broadcast::Sender<u32>>>>;

impl Netlink {
    /// Removes the veth with this name, if it has that Ethernet address. Fine when there is none. Returns when device, routes
    /// and neighbours are gone; the kernel answers only when their memory is free too, which takes it much longer, and
    /// would keep all other requests of a socket waiting.
    pub async fn remove_veth(&self, name: &str, mac: [u8; 6]) -> anyhow::Result<()> {
        let mut removals = self.removals()?;
        let (netlink, wanted) = (self.clone(), name.to_owned());
        // Not known yet.
        let index = Arc::new(AtomicU32::new(0));
        let found = index.clone();
        // The kernel does the work in the asking thread.
        let mut answer = tokio::task::spawn_blocking(move || {
            netlink.within_namespace(|| {
                let mut orders = Orders::open()?;
                let link = orders.link_by_name(&wanted)?;
                let Some(link) = link.filter(|link| link.is_veth(mac)) else { return Ok(()) };
                found.store(link.index, Ordering::Release);
                anyhow::Ok(orders.delete_link(link.index)?)
            })?
        });
        let result = loop {
            tokio::select! {
                answer = &mut answer => break answer.context("the removal died")?,
                removed = removals.recv() => match removed {
                    Ok(removed) if removed == index.load(Ordering::Acquire) => break Ok(()),
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    // Nobody listens any more.
                    Err(broadcast::error::RecvError::Closed) => break answer.await.context("the removal died")?,
                },
            }
        };
        result.with_context(|| format!("deleting the device {name}"))
    }

    fn removals(&self) -> anyhow::Result<broadcast::Receiver<u32>> {
        let mut shared = self.removals.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = shared.as_ref().filter(|sender| sender.receiver_count() > 0) {
            return Ok(sender.subscribe());
        }
        let (connection, _, mut messages) = self
            .within_namespace(|| rtnetlink::new_multicast_connection(&[MulticastGroup::Link]))?
            .context("listening to the kernel's removals of devices")?;
        tokio::spawn(connection);
        let (sender, receiver) = broadcast::channel(BACKLOG);
        *shared = Some(sender.clone());
        // Keeps the channel open between removals.
        let open = sender.subscribe();
        tokio::spawn(async move {
            while let Some((message, _)) = messages.next().await {
                if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) = message.payload {
                    // Fails only without a receiver.
                    let _ = sender.send(link.header.index);
                }
            }
            drop(open);
        });
        Ok(receiver)
    }
}
