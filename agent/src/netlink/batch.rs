//! Many questions or orders at once: several are under way at a time, so that neither side waits for the other.

use std::net::IpAddr;

use futures_util::{StreamExt as _, stream::FuturesUnordered};

use super::{Netlink, NextHop, Route};

/// So many are under way: their answers fit into the socket's buffer.
const AT_ONCE: usize = 64;

impl Netlink {
    /// [`Netlink::resolve`] for each address, in any order.
    pub async fn resolve_all(&self, addresses: Vec<IpAddr>) -> Vec<(IpAddr, anyhow::Result<NextHop>)> {
        let ask = |address| {
            let netlink = self.clone();
            async move { (address, netlink.resolve(address).await) }
        };
        at_once(addresses, ask).await
    }

    /// [`Netlink::replace_route`] for each route, in any order.
    pub async fn replace_routes(&self, routes: Vec<Route>) -> Vec<(Route, anyhow::Result<()>)> {
        let replace = |route: Route| {
            let netlink = self.clone();
            async move {
                let result = netlink.replace_route(&route).await;
                (route, result)
            }
        };
        at_once(routes, replace).await
    }

    /// [`Netlink::delete_route`] for each route, in any order.
    pub async fn delete_routes(&self, routes: Vec<Route>) -> anyhow::Result<()> {
        let delete = |route: Route| {
            let netlink = self.clone();
            async move { netlink.delete_route(&route).await }
        };
        at_once(routes, delete).await.into_iter().collect()
    }
}

/// What is done for each of `items`: no more than a few at a time are even begun, as each takes room.
async fn at_once<I, F: Future>(items: Vec<I>, work: impl Fn(I) -> F) -> Vec<F::Output> {
    let mut done = Vec::with_capacity(items.len());
    let mut under_way = FuturesUnordered::new();
    for item in items {
        under_way.push(work(item));
        if under_way.len() >= AT_ONCE {
            done.extend(under_way.next().await);
        }
    }
    while let Some(result) = under_way.next().await {
        done.push(result);
    }
    done
}
