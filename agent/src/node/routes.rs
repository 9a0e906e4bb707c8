//! The kernel's routes to the peers: the slow path.

use std::{collections::BTreeSet, fmt};

use super::{NodeTask, ledger::Ledger};
use crate::netlink::{Route, RouteKind, RoutePlace};

/// Routes by their places. Thousands of them take no more room than a list.
#[derive(Debug, Default)]
pub(super) struct Routes(Vec<Route>);

impl Routes {
    /// The one in this place.
    pub(super) fn at(&self, place: RoutePlace) -> Option<&Route> {
        let found = self.0.binary_search_by_key(&place, Route::place).ok()?;
        self.0.get(found)
    }

    fn has(&self, route: &Route) -> bool {
        self.at(route.place()) == Some(route)
    }
}

impl FromIterator<Route> for Routes {
    fn from_iter<T: IntoIterator<Item = Route>>(routes: T) -> Self {
        let mut routes: Vec<Route> = routes.into_iter().collect();
        routes.sort_by_key(Route::place);
        routes.dedup_by_key(|route| route.place());
        routes.shrink_to_fit();
        Self(routes)
    }
}

/// A route in words. One whose MTU has changed, as routers on the way have said, is another one.
struct Named<'a>(&'a Route);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the kernel's route {}", self.0)?;
        match self.0.mtu {
            Some(mtu) => write!(f, " with MTU {mtu}"),
            None => Ok(()),
        }
    }
}

impl NodeTask {
    /// The node's routes (a pod's have neither gateway nor kind `unreachable`: those are the pods' own). Whether all of
    /// them are there now.
    pub(super) async fn write_routes(
        &mut self,
        wanted: Vec<Route>,
        problems: &mut Vec<String>,
        ledger: &mut Ledger,
        trusted: bool,
    ) -> anyhow::Result<bool> {
        let of_the_node = |route: &Route| route.gateway.is_some() || route.kind == RouteKind::Unreachable;
        let wanted: Routes = wanted.into_iter().map(Route::canonical).collect();
        let present = if trusted {
            std::mem::take(&mut self.memory.routes)
        } else {
            self.netlink.routes().await?.into_iter().filter(of_the_node).collect()
        };
        if !trusted {
            wanted.0.iter().filter(|route| present.has(route)).for_each(|route| ledger.found(Named(route)));
        }
        let missing = wanted.0.iter().filter(|route| !present.has(route)).cloned().collect();
        let former: Vec<Route> =
            present.0.iter().filter(|route| wanted.at(route.place()).is_none()).cloned().collect();
        let changed: Vec<Route> =
            present.0.iter().filter(|route| trusted && !wanted.has(route)).cloned().collect();
        drop(present);
        // Before they are written: what the kernel then announces is no news.
        self.memory.routes = wanted;
        changed.iter().for_each(|route| ledger.dropped(Named(route)));

        let mut failed = BTreeSet::new();
        for (route, result) in self.netlink.replace_routes(missing).await {
            match result {
                Ok(()) => ledger.made(Named(&route), "entered again"),
                Err(error) => {
                    problems.push(format!("{error:#}"));
                    failed.insert(route.place());
                }
            }
        }
        self.netlink.delete_routes(former).await?;
        self.memory.routes.0.retain(|route| !failed.contains(&route.place()));
        Ok(failed.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_found_by_their_places() {
        let route = |text: &str, ifindex| Route::to_device(text.parse().unwrap(), ifindex);
        let routes: Routes =
            [("10.244.9.0/24", 3), ("10.244.2.0/24", 3), ("fd00::/64", 4), ("10.244.2.0/25", 5)]
                .map(|(text, ifindex)| route(text, ifindex))
                .into_iter()
                .collect();
        for (text, ifindex) in [("10.244.2.0/24", 3), ("10.244.2.0/25", 5), ("fd00::/64", 4)] {
            assert_eq!(routes.at(route(text, 0).place()), Some(&route(text, ifindex)));
        }
        assert_eq!(routes.at(route("10.244.3.0/24", 3).place()), None);
        assert!(routes.has(&route("10.244.9.0/24", 3)) && !routes.has(&route("10.244.9.0/24", 4)));
    }
}
