//! Many questions or orders at once: several are under way at a time, so that neither side waits for the other.

use std::net::IpAddr;

use futures_util::{StreamExt as _, stream};

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
        at_once(addresses.into_iter().map(ask).collect()).await
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
        at_once(routes.into_iter().map(replace).collect()).await
    }

    /// [`Netlink::delete_route`] for each route, in any order.
    pub async fn delete_routes(&self, routes: Vec<Route>) -> anyhow::Result<()> {
        let delete = |route: Route| {
            let netlink = self.clone();
            async move { netlink.delete_route(&route).await }
        };
        at_once(routes.into_iter().map(delete).collect()).await.into_iter().collect()
    }
}

async fn at_once<T>(work: Vec<impl Future<Output = T>>) -> Vec<T> {
    stream::iter(work).buffer_unordered(AT_ONCE).collect().await
}
