//! What every cluster source has to do, once for each: nodes come, change and go; what contradicts is refused by
//! itself; a source that is away changes nothing.

use podlane_tests::lab::cluster::ClusterNode;
use podlane_tests::sources::{EtcdSource, FileSource, KubernetesSource, Source, World};

/// The tests, each a function that is generic over the source.
macro_rules! conformance {
    ($source:ident in $module:ident: $($test:ident)*) => {
        mod $module {
            $(#[test]
            fn $test() -> anyhow::Result<()> {
                super::$test::<super::$source>()
            })*
        }
    };
    ($($source:ident in $module:ident)*) => {
        $(conformance! { $source in $module:
            nodes_join_and_leave
            a_node_changes_its_address
            pod_cidrs_move_between_nodes
            overlaps_are_refused_without_harm
            duplicate_addresses_are_refused_without_harm
            what_cannot_be_read_leaves_the_node_as_it_was
            flapping_ends_as_it_should_and_touches_nobody_else
            an_agent_that_was_away_catches_up
            an_outage_changes_nothing
            an_agent_that_starts_during_an_outage_removes_nothing
        })*
    };
}

conformance! {
    FileSource in file
    EtcdSource in etcd
    KubernetesSource in kubernetes
}

/// Node `number`, with the pod CIDR of number `cidr`.
fn node(number: u8, cidr: u8) -> ClusterNode {
    ClusterNode {
        name: format!("other{number}"),
        addresses: vec![[192, 168, 1, number].into()],
        pod_cidrs: ipnetwork::Ipv4Network::new([10, 244, cidr, 0].into(), 24)
            .into_iter()
            .map(Into::into)
            .collect(),
    }
}

/// Two nodes that are there, and known.
fn two<S: Source>() -> anyhow::Result<(World<S>, ClusterNode, ClusterNode)> {
    let mut world = World::<S>::start()?;
    let (a, b) = (node(101, 101), node(102, 102));
    world.source.join(&a)?;
    world.source.join(&b)?;
    world.expect(&[&a, &b])?;
    world.expect_health()?;
    Ok((world, a, b))
}

fn nodes_join_and_leave<S: Source>() -> anyhow::Result<()> {
    let (mut world, a, b) = two::<S>()?;
    world.source.leave(&a.name)?;
    world.expect(&[&b])?;
    world.source.join(&a)?;
    world.expect(&[&a, &b])?;
    world.never_lost(&b)?;
    world.expect_health()
}

fn a_node_changes_its_address<S: Source>() -> anyhow::Result<()> {
    let (mut world, mut a, b) = two::<S>()?;
    a.addresses = node(111, 0).addresses;
    world.source.change(&a)?;
    world.expect(&[&a, &b])?;
    world.never_lost(&a)?;
    world.never_lost(&b)?;
    world.expect_health()
}

fn pod_cidrs_move_between_nodes<S: Source>() -> anyhow::Result<()> {
    let (mut world, a, b) = two::<S>()?;
    // Given up by one, taken by the other.
    let (a2, b2) = (node(101, 103), node(102, 101));
    world.source.change(&a2)?;
    world.source.change(&b2)?;
    world.expect(&[&a2, &b2])?;
    world.expect_health()?;
    // Taken before it is given up.
    world.source.change(&a)?;
    world.expect_problem(&["10.244.101.0/24", &a.name, &b.name])?;
    world.expect(&[&a2, &b2])?;
    world.source.change(&b)?;
    world.expect(&[&a, &b])?;
    world.expect_health()
}

fn overlaps_are_refused_without_harm<S: Source>() -> anyhow::Result<()> {
    let (mut world, a, b) = two::<S>()?;
    // It sorts before the others by name and by range.
    let mut bad = ClusterNode { name: "another".into(), ..node(100, 0) };
    bad.pod_cidrs = vec!["10.244.96.0/20".parse()?];
    let good = node(103, 120);
    world.source.join(&bad)?;
    world.source.join(&good)?;
    world.expect_problem(&["10.244.96.0/20 of another", "refused"])?;
    world.expect(&[&a, &b, &good])?;
    bad.pod_cidrs = node(0, 121).pod_cidrs;
    world.source.change(&bad)?;
    world.expect(&[&a, &b, &good, &bad])?;
    world.never_lost(&a)?;
    world.never_lost(&b)?;
    world.expect_health()
}

fn duplicate_addresses_are_refused_without_harm<S: Source>() -> anyhow::Result<()> {
    let (mut world, a, b) = two::<S>()?;
    let bad = ClusterNode { name: "another".into(), ..node(101, 103) };
    world.source.join(&bad)?;
    world.expect_problem(&["192.168.1.101", "another", &a.name])?;
    world.expect(&[&a, &b])?;
    world.source.leave(&bad.name)?;
    world.expect_health()?;
    world.never_lost(&a)?;
    world.never_lost(&b)
}

fn what_cannot_be_read_leaves_the_node_as_it_was<S: Source>() -> anyhow::Result<()> {
    let (mut world, a, b) = two::<S>()?;
    if !world.source.garble(&a.name)? {
        println!("skipped: this source refuses descriptions that cannot be read");
        return Ok(());
    }
    world.expect_problem(&[&a.name, "stays as it was"])?;
    world.expect(&[&a, &b])?;
    world.source.change(&a)?;
    world.expect_health()?;
    world.never_lost(&a)
}

fn flapping_ends_as_it_should_and_touches_nobody_else<S: Source>() -> anyhow::Result<()> {
    let (mut world, a, b) = two::<S>()?;
    for _ in 0..20 {
        world.source.leave(&a.name)?;
        world.source.join(&a)?;
    }
    world.source.leave(&a.name)?;
    world.expect(&[&b])?;
    world.source.join(&a)?;
    world.expect(&[&a, &b])?;
    world.never_lost(&b)?;
    world.expect_health()
}

fn an_agent_that_was_away_catches_up<S: Source>() -> anyhow::Result<()> {
    let (mut world, a, b) = two::<S>()?;
    let c = node(103, 103);
    world.source.join(&c)?;
    world.expect(&[&a, &b, &c])?;
    world.agent()?.kill()?;
    world.source.leave(&a.name)?;
    let c2 = node(113, 103);
    let c2 = ClusterNode { name: c.name.clone(), ..c2 };
    world.source.change(&c2)?;
    let d = node(104, 101);
    world.source.join(&d)?;
    world.agent()?.start_and_wait()?;
    world.expect(&[&b, &c2, &d])?;
    world.never_lost(&b)?;
    world.never_lost(&c)?;
    world.expect_health()
}

fn an_outage_changes_nothing<S: Source>() -> anyhow::Result<()> {
    let (mut world, a, b) = two::<S>()?;
    for _ in 0..3 {
        world.source.fail()?;
        world.expect_problem(&[])?;
        world.expect(&[&a, &b])?;
        world.source.recover()?;
        world.expect_health()?;
    }
    world.expect(&[&a, &b])?;
    world.never_lost(&a)?;
    world.never_lost(&b)?;
    // It listens again.
    let c = node(103, 103);
    world.source.join(&c)?;
    world.source.leave(&b.name)?;
    world.expect(&[&a, &c])?;
    world.never_lost(&a)?;
    world.expect_health()
}

fn an_agent_that_starts_during_an_outage_removes_nothing<S: Source>() -> anyhow::Result<()> {
    let (mut world, a, b) = two::<S>()?;
    world.source.fail()?;
    let agent = world.agent()?;
    agent.kill()?;
    agent.start()?;
    world.expect_problem(&[])?;
    world.source.recover()?;
    world.expect(&[&a, &b])?;
    world.never_lost(&a)?;
    world.never_lost(&b)?;
    world.expect_health()
}
