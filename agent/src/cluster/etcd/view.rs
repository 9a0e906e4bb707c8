//! The nodes as last seen in etcd. After an outage nobody is forgotten at once: nodes that lost their lease in it
//! come back, one after the other.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ipnetwork::IpNetwork;

use crate::cluster::{Entry, Node};

/// A node's record, read.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// The revision at which the key was made: who is older.
    pub(super) created: i64,
    /// What it says, or what is wrong with it.
    pub(super) node: Result<Arc<Node>, String>,
}

/// The nodes as last seen.
#[derive(Debug, Default)]
pub(super) struct View {
    nodes: BTreeMap<String, Seen>,
    /// Those that are not in etcd, and are kept for now.
    away: HashSet<String>,
    /// Nobody is forgotten before.
    grace_ends: Option<Instant>,
}

impl View {
    /// A session with etcd begins, after one that broke if anything is known.
    pub(super) fn begin(&mut self, now: Instant, grace: Duration) {
        if !self.nodes.is_empty() {
            self.grace_ends = Some(now + grace);
        }
    }

    /// Everything that is in etcd.
    pub(super) fn list(&mut self, listed: Vec<(String, Seen)>) {
        let mut absent: Vec<String> = self.nodes.keys().cloned().collect();
        let names: HashSet<&str> = listed.iter().map(|(name, _)| name.as_str()).collect();
        absent.retain(|name| !names.contains(name.as_str()));
        for (name, seen) in listed {
            self.put(name, seen);
        }
        for name in absent {
            self.delete(&name);
        }
    }

    /// Whether anything is different now.
    pub(super) fn put(&mut self, name: String, seen: Seen) -> bool {
        let was_away = self.away.remove(&name);
        // The same description stays the same object, so that comparing it is free, and keeps its age.
        let seen = match (self.nodes.get(&name), seen) {
            (Some(Seen { node: Ok(old), created }), Seen { node: Ok(new), .. }) if *old == new => {
                Seen { created: *created, node: Ok(Arc::clone(old)) }
            }
            (_, seen) => seen,
        };
        self.nodes.insert(name, seen.clone()).is_none_or(|old| old.node != seen.node) || was_away
    }

    /// Whether anything is different now.
    pub(super) fn delete(&mut self, name: &str) -> bool {
        if self.grace_ends.is_some() {
            self.nodes.contains_key(name) && self.away.insert(name.to_owned())
        } else {
            self.nodes.remove(name).is_some()
        }
    }

    /// When [`Self::end_grace`] is due.
    pub(super) const fn grace_ends(&self) -> Option<Instant> {
        self.grace_ends
    }

    /// Whoever has not come back by now is forgotten.
    pub(super) fn end_grace(&mut self) {
        self.grace_ends = None;
        for name in self.away.drain() {
            self.nodes.remove(&name);
        }
    }

    /// Everybody, the oldest first. Somebody who is away has to give what a node that is there has.
    pub(super) fn entries(&self) -> Vec<Entry> {
        let mut all: Vec<(&String, &Seen)> = self.nodes.iter().collect();
        if !self.away.is_empty() {
            let there = all.iter().filter(|(name, _)| !self.away.contains(*name));
            let nodes = there.filter_map(|(_, seen)| seen.node.as_ref().ok());
            let mut addresses: HashSet<IpAddr> = HashSet::new();
            let mut cidrs: HashSet<IpNetwork> = HashSet::new();
            for node in nodes {
                addresses.extend(&node.addresses);
                cidrs.extend(&node.pod_cidrs);
            }
            let replaced = |node: &Node| {
                node.addresses.iter().any(|address| addresses.contains(address))
                    || node.pod_cidrs.iter().any(|cidr| cidrs.contains(cidr))
            };
            all.retain(|(name, seen)| {
                !(self.away.contains(*name) && seen.node.as_ref().is_ok_and(|node| replaced(node)))
            });
        }
        all.sort_by_key(|(_, seen)| seen.created);
        let entry = |(name, seen): (&String, &Seen)| match &seen.node {
            Ok(node) => Entry::from(Arc::clone(node)),
            Err(problem) => {
                Entry::unreadable(name.clone(), format!("what node {name} has published in etcd: {problem}"))
            }
        };
        all.into_iter().map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(name: &str, number: u8, created: i64) -> (String, Seen) {
        let node = Node::of(name, &[&format!("192.168.1.{number}")], &[&format!("10.244.{number}.0/24")]);
        (name.to_owned(), Seen { created, node: Ok(Arc::new(node)) })
    }

    fn names(view: &View) -> String {
        let names = view.entries().into_iter().map(|entry| entry.name().to_owned());
        names.collect::<Vec<_>>().join(" ")
    }

    const GRACE: Duration = Duration::from_secs(60);

    #[test]
    fn without_an_outage_a_node_that_goes_is_gone() {
        let mut view = View::default();
        view.begin(Instant::now(), GRACE);
        view.list(vec![seen("b", 1, 5), seen("a", 2, 9)]);
        assert_eq!(names(&view), "b a");
        view.delete("b");
        assert_eq!(names(&view), "a");
        view.list(vec![seen("c", 3, 12)]);
        assert_eq!(names(&view), "c");
    }

    #[test]
    fn after_an_outage_whoever_is_absent_stays_until_the_grace_ends() {
        let mut view = View::default();
        view.list(vec![seen("a", 1, 1), seen("b", 2, 2), seen("c", 3, 3)]);
        let now = Instant::now();
        view.begin(now, GRACE);
        assert_eq!(view.grace_ends(), Some(now + GRACE));
        view.list(vec![]);
        assert_eq!(names(&view), "a b c");
        let (name, again) = seen("b", 2, 20);
        view.put(name, again);
        view.delete("c");
        assert_eq!(names(&view), "a b c");
        view.end_grace();
        assert_eq!(names(&view), "b");
        assert_eq!(view.grace_ends(), None);
    }

    #[test]
    fn whoever_is_away_gives_way_to_a_node_that_has_its_pod_cidr() {
        let mut view = View::default();
        view.list(vec![seen("a", 1, 1), seen("b", 2, 2)]);
        view.begin(Instant::now(), GRACE);
        view.list(vec![seen("b", 2, 2), seen("new", 1, 7)]);
        assert_eq!(names(&view), "b new");
    }
}
