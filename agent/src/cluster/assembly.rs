//! A consistent cluster out of whatever a source lists. What is wrong is refused by itself and told; everything else
//! goes on. Who was there first keeps what it has, so that a newcomer cannot push out a node that works.

mod difference;

use std::{collections::HashMap, sync::Arc};

use super::{Cluster, Node, Update, claims::Claims};

/// What a source lists under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The node, or its name and what is wrong with it.
    node: Result<Arc<Node>, (String, String)>,
}

impl Entry {
    /// A node that cannot be read: one that was known under this name stays as it was.
    #[must_use]
    pub const fn unreadable(name: String, problem: String) -> Self {
        Self { node: Err((name, problem)) }
    }

    /// The node, where it can be read.
    pub(super) fn node(&self) -> Option<&Arc<Node>> {
        self.node.as_ref().ok()
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.node {
            Ok(node) => &node.name,
            Err((name, _)) => name,
        }
    }
}

impl From<Node> for Entry {
    fn from(node: Node) -> Self {
        Self::from(Arc::new(node))
    }
}

impl From<Arc<Node>> for Entry {
    fn from(node: Arc<Node>) -> Self {
        Self { node: Ok(node) }
    }
}

/// Makes clusters of a source's lists, and remembers the last one: it decides who was there first.
#[derive(Debug, Default)]
pub struct Assembly {
    last: Cluster,
}

impl Assembly {
    /// The cluster of a full list. Of nodes that the last list had not, the first one listed goes first: list the
    /// oldest first, so that every agent comes to the same decision.
    ///
    /// A node whose new description is refused keeps its last one, as long as nobody else has a right to it.
    pub fn assemble(&mut self, entries: &[Entry]) -> Update {
        let cluster = difference::apply(&self.last, entries).unwrap_or_else(|| self.decide(entries));
        self.last = cluster.clone();
        Update::Cluster(cluster)
    }

    fn decide(&self, entries: &[Entry]) -> Cluster {
        let mut problems = Vec::new();
        let entries = self.without_duplicates(entries, &mut problems);
        let before = |name: &str| self.last.get(name);

        // First what nodes have and keep: nobody else gets it.
        let mut claims = Claims::default();
        for (name, node) in &entries {
            let Some(old) = before(name) else { continue };
            match node {
                Ok(new) if !Arc::ptr_eq(old, new) => keep(&mut claims, old, new),
                _ => claims.give(old),
            }
        }
        let mut nodes = Vec::with_capacity(entries.len());
        let mut refused = Vec::new();
        let known = entries.iter().filter(|(name, _)| before(name).is_some());
        let newcomers = entries.iter().filter(|(name, _)| before(name).is_none());
        for (name, node) in known.chain(newcomers) {
            let result = node.as_ref().map_err(String::clone).and_then(|node| {
                claims.check(node)?;
                claims.give(node);
                Ok(Arc::clone(node))
            });
            match result {
                Ok(node) => nodes.push(node),
                Err(problem) => refused.push((*name, problem)),
            }
        }
        for (name, problem) in refused {
            let kept = before(name).filter(|old| {
                let free = claims.check(old).is_ok();
                if free {
                    claims.give(old);
                } else {
                    claims.take(old);
                }
                free
            });
            let what = match kept {
                Some(_) => "refused, and stays as it was",
                None => "refused",
            };
            nodes.extend(kept.cloned());
            problems.push(format!("{problem} (node {name} is {what})"));
        }
        Cluster::new(nodes, problems)
    }

    /// One entry a name: the one that is known already, else the first. What contradicts itself is unreadable.
    fn without_duplicates<'a>(
        &self,
        entries: &'a [Entry],
        problems: &mut Vec<String>,
    ) -> Vec<(&'a str, Result<&'a Arc<Node>, String>)> {
        let mut places: HashMap<&str, usize> = HashMap::with_capacity(entries.len());
        let mut kept: Vec<(&str, Result<&Arc<Node>, String>)> = Vec::with_capacity(entries.len());
        for entry in entries {
            let name = entry.name();
            let node = match &entry.node {
                Ok(node) => node.check().map(|()| node).map_err(|problem| problem.to_string()),
                Err((_, problem)) => Err(problem.clone()),
            };
            if let Some((_, first)) = places.get(name).and_then(|place| kept.get_mut(*place)) {
                problems.push(format!(
                    "node {name} is listed twice: names are unique (one of the two is refused)"
                ));
                if let Ok(node) = node
                    && self.last.get(name) == Some(node)
                {
                    *first = Ok(node);
                }
                continue;
            }
            places.insert(name, kept.len());
            kept.push((name, node));
        }
        kept
    }
}

/// Gives a node what both its descriptions claim.
fn keep<'a>(claims: &mut Claims<'a>, old: &'a Node, new: &Node) {
    for address in old.addresses.iter().filter(|address| new.addresses.contains(address)) {
        claims.give_address(*address, &old.name);
    }
    for cidr in old.pod_cidrs.iter().filter(|cidr| new.pod_cidrs.contains(cidr)) {
        claims.give_cidr(*cidr, &old.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, address: &str, cidr: &str) -> Entry {
        Node::of(name, &[address], &[cidr]).into()
    }

    fn first() -> Entry {
        node("node1", "192.168.1.11", "10.244.1.0/24")
    }

    /// The cluster in short, and its problems.
    fn assemble(assembly: &mut Assembly, entries: Vec<Entry>) -> (String, String) {
        let Update::Cluster(cluster) = assembly.assemble(&entries) else { unreachable!() };
        let nodes = cluster.nodes().map(|node| {
            format!("{} {} {}", node.name.trim_start_matches("node"), node.addresses[0], node.pod_cidrs[0])
        });
        let nodes = nodes.collect::<Vec<_>>().join(", ");
        (nodes.replace("192.168.1.", ".").replace("10.244.", ""), cluster.refused().join("\n"))
    }

    #[test]
    fn a_newcomer_that_contradicts_is_refused_alone_wherever_it_is_listed() {
        for (other, expected) in [
            (node("node2", "192.168.1.12", "10.244.1.0/24"), "overlaps 10.244.1.0/24 of node1"),
            (
                node("node2", "192.168.1.12", "10.244.0.0/16"),
                "10.244.0.0/16 of node2 overlaps 10.244.1.0/24 of node1",
            ),
            (node("node2", "192.168.1.12", "10.244.1.128/25"), "10.244.1.128/25 of node2 overlaps"),
            (node("node2", "192.168.1.11", "10.244.2.0/24"), "192.168.1.11 belongs to both node1 and node2"),
            (node("node1", "192.168.1.12", "10.244.2.0/24"), "node node1 is listed twice"),
            (
                node("node2", "10.244.1.7", "10.244.2.0/24"),
                "10.244.1.7 of node2 lies in pod CIDR 10.244.1.0/24 of node1",
            ),
            (
                node("node2", "192.168.1.12", "192.168.1.8/30"),
                "192.168.1.11 of node1 lies in pod CIDR 192.168.1.8/30 of node2",
            ),
            (node("node2", "192.168.1.12", "10.244.2.0/31"), "cannot hold pods"),
            (
                Entry::unreadable("node2".into(), "node node2: not JSON".into()),
                "not JSON (node node2 is refused)",
            ),
        ] {
            let third = || node("node3", "192.168.1.13", "10.244.3.0/24");
            let mut assembly = Assembly::default();
            assemble(&mut assembly, vec![first()]);
            let (nodes, problems) = assemble(&mut assembly, vec![other.clone(), first(), third()]);
            let expected_nodes = "1 .11 1.0/24, 3 .13 3.0/24";
            assert_eq!(nodes, expected_nodes, "{problems}");
            assert!(problems.contains(expected), "{problems}");
            // Without a memory, the order decides.
            let (nodes, problems) = assemble(&mut Assembly::default(), vec![first(), other.clone(), third()]);
            assert_eq!(nodes, expected_nodes, "{problems}");
            // It goes, and all is well.
            assert_eq!(
                assemble(&mut assembly, vec![first(), third()]),
                (expected_nodes.into(), String::new())
            );
        }
    }

    #[test]
    fn a_known_node_with_a_bad_description_stays_as_it_was() {
        let second = || node("node2", "192.168.1.12", "10.244.2.0/24");
        for bad in [
            node("node2", "192.168.1.12", "10.244.1.0/24"),
            node("node2", "192.168.1.11", "10.244.2.0/24"),
            Entry::unreadable("node2".into(), "not JSON".into()),
        ] {
            let mut assembly = Assembly::default();
            assemble(&mut assembly, vec![first(), second()]);
            for _ in 0..2 {
                let (nodes, problems) = assemble(&mut assembly, vec![bad.clone(), first()]);
                assert_eq!(nodes, "1 .11 1.0/24, 2 .12 2.0/24");
                assert!(problems.contains("(node node2 is refused, and stays as it was)"), "{problems}");
            }
            assert_eq!(assemble(&mut assembly, vec![first()]).0, "1 .11 1.0/24");
        }
    }

    #[test]
    fn what_a_refused_node_had_is_free_for_another_that_is_listed_with_it() {
        let mut assembly = Assembly::default();
        assemble(&mut assembly, vec![first(), node("node2", "192.168.1.12", "10.244.2.0/24")]);
        let (nodes, problems) = assemble(
            &mut assembly,
            vec![
                first(),
                node("node2", "192.168.1.12", "10.244.1.0/24"),
                node("node3", "192.168.1.13", "10.244.2.0/24"),
            ],
        );
        assert_eq!(nodes, "1 .11 1.0/24, 3 .13 2.0/24");
        assert!(problems.contains("(node node2 is refused)"), "{problems}");
    }

    #[test]
    fn cidrs_move_and_swap_between_nodes() {
        let mut assembly = Assembly::default();
        assemble(&mut assembly, vec![first(), node("node2", "192.168.1.12", "10.244.2.0/24")]);
        let swapped = vec![
            node("node1", "192.168.1.11", "10.244.2.0/24"),
            node("node2", "192.168.1.12", "10.244.1.0/24"),
        ];
        assert_eq!(assemble(&mut assembly, swapped), ("1 .11 2.0/24, 2 .12 1.0/24".into(), String::new()));
        let moved = vec![
            node("node1", "192.168.1.12", "10.244.1.0/24"),
            node("node2", "192.168.1.13", "10.244.3.0/24"),
        ];
        assert_eq!(assemble(&mut assembly, moved), ("1 .12 1.0/24, 2 .13 3.0/24".into(), String::new()));
    }

    #[test]
    fn a_change_of_address_does_not_cost_a_node_its_cidr() {
        let mut assembly = Assembly::default();
        assemble(&mut assembly, vec![first(), node("node0", "192.168.1.10", "10.244.9.0/24")]);
        // Both change; node0, listed first, wants what node1 keeps.
        let (nodes, problems) = assemble(
            &mut assembly,
            vec![
                node("node0", "192.168.1.10", "10.244.1.0/24"),
                node("node1", "192.168.1.21", "10.244.1.0/24"),
            ],
        );
        assert_eq!(nodes, "0 .10 9.0/24, 1 .21 1.0/24");
        assert!(problems.contains("10.244.1.0/24 of node0 overlaps 10.244.1.0/24 of node1"), "{problems}");
    }

    #[test]
    fn a_cluster_of_two_families_is_accepted() {
        let both = Node::of("node1", &["192.168.1.11", "fd00:1::11"], &["10.244.1.0/24", "fd00:244:1::/64"]);
        let other = node("node2", "fd00:1::12", "fd00:244:2::/64");
        let (_, problems) = assemble(&mut Assembly::default(), vec![both.into(), other]);
        assert_eq!(problems, "");
    }

    /// Small numbers, the same ones each time.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % limit
        }
    }

    #[test]
    fn a_difference_comes_to_the_same_cluster_as_a_whole_decision() {
        let mut numbers = Numbers(7);
        let (mut short, mut long) = (0, 0);
        for _ in 0..300 {
            let mut assembly = Assembly::default();
            let mut list: Vec<(u64, u64, u64)> = Vec::new();
            for _ in 0..20 {
                // A node comes, goes or changes; names, addresses and pod CIDRs now and then collide.
                let (name, address, cidr) = (numbers.below(40), numbers.below(40), numbers.below(40));
                match numbers.below(4) {
                    0 => list.push((name, address, cidr)),
                    1 if !list.is_empty() => drop(list.remove(usize::try_from(name).unwrap() % list.len())),
                    _ => {
                        let place = usize::try_from(name).unwrap() % list.len().max(1);
                        if let Some(node) = list.get_mut(place) {
                            (node.1, node.2) = (address, cidr);
                        }
                    }
                }
                let cidr = |cidr: u64| {
                    if cidr == 0 { "10.244.0.0/18".into() } else { format!("10.244.{cidr}.0/24") }
                };
                let entries: Vec<Entry> = list
                    .iter()
                    .map(|(name, address, at)| {
                        node(&format!("node{name}"), &format!("192.168.1.{address}"), &cidr(*at))
                    })
                    .collect();
                let whole = assembly.decide(&entries);
                match difference::apply(&assembly.last, &entries) {
                    Some(cluster) => {
                        short += 1;
                        assert_eq!(cluster, whole);
                    }
                    None => long += 1,
                }
                assembly.assemble(&entries);
            }
        }
        assert!(short > 500 && long > 500, "{short} {long}");
    }
}
