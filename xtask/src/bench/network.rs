//! The contenders take turns: whatever else the machine does hits all of them.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread::ScopedJoinHandle;
use std::time::Instant;

use anyhow::{Context as _, Result};
use podlane_tests::Binaries;
use podlane_tests::bench::ping_pong::Question;
use podlane_tests::bench::{Row, Samples, bulk, connections, packets};
use podlane_tests::contender::{Contender, Kind, Pair};
use serde::{Deserialize, Serialize};

use super::order::{self, Turn};
use super::pace::{Pace, Rounds};
use super::plan::Plan;
use super::programs::{self, Way};
use super::rows::{self, Key, Topology, Who};
use crate::progress::seconds;

/// What a bulk transfer carries: a fifth of a second's worth. Of an iperf3 whose two ends share a CPU, times come in the
/// timer's ticks, 4 ms and more.
const BULK_BYTES: [(Topology, u64); 2] =
    [(Topology::SameNode, 1_200_000_000), (Topology::AcrossNodes, 400_000_000)];

/// What was measured, and between whom.
pub(super) struct Measured {
    pub(super) contenders: Vec<Proof>,
    pub(super) rows: Vec<Row>,
}

/// A contender, and what showed that it is what it says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Proof {
    pub(super) contender: String,
    pub(super) netfilter: bool,
    pub(super) seen: Vec<String>,
}

/// How many wires there are, which take turns: everything is compared with them, and one or another may be some
/// hundredths of a microsecond faster.
const WIRES: usize = 3;
/// How often it is a wire's turn while each of the others has one, for what is told as a difference to the wire: a sample
/// of round trips varies by a good part of what Podlane adds to them on one node.
const WIRE_TURNS: usize = 7;

/// What part of a lab's time is for transfers, where time is short.
const TRANSFERS_SHARE: f64 = 0.35;

/// How many of them are built at a time.
const BUILDERS: usize = 4;

/// What is built of a contender: one lab, or several that take turns.
type Labs = Vec<Contender>;

pub(super) fn measure(binaries: &Binaries, programs: &Path, plan: &Plan, pace: Pace) -> Result<Measured> {
    let begun = Instant::now();
    let mut samples = BTreeMap::new();
    let mut built = (Vec::new(), Vec::new());
    let (mut lab, mut labs) = (0, plan.labs);
    // Where the kernel happens to put things makes a per cent or two: build anew, to even it out.
    while lab < labs {
        lab += 1;
        let lab_begun = Instant::now();
        take_down(built.0);
        built = build(binaries)?;
        eprintln!("   labs {lab} of {labs}: all stand ({})", seconds(begun.elapsed()));
        let mut turns = Turns { plan, programs, contenders: &built.0, round: lab, samples };
        let mut ends = pace.shares(labs - lab, TRANSFERS_SHARE);
        let mut trips = Rounds::new();
        while let Some(round) = trips.next(ends.0, plan.seldom, plan.rounds) {
            let round_begun = Instant::now();
            if round > 1 {
                turns.reload_programs()?;
            }
            turns.latencies_and_packets(round)?;
            progress("round trips, packets, connections", round, plan.rounds, begun);
            if (lab, round) == (1, 1) {
                // With the other rounds that there have to be, and transfers.
                let least = lab_begun.elapsed() + round_begun.elapsed() * 3;
                labs = pace.labs(plan.labs, least, lab_begun.elapsed());
                ends = pace.shares(labs - lab, TRANSFERS_SHARE);
            }
        }
        turns.set_wire_gro(true)?;
        let mut transfers = Rounds::new();
        while let Some(round) = transfers.next(ends.1, 1, plan.bulk_rounds) {
            turns.reload_programs()?;
            // Half of them do for IPv6.
            turns.transfers(if round % 2 == 1 { plan.families() } else { &[false] })?;
            progress("transfers", round, plan.bulk_rounds, begun);
        }
        samples = turns.samples;
    }
    let who: Vec<Who<'_>> = built.0.iter().map(|labs| (labs[0].kind.name(), labs[0].netfilter)).collect();
    let rows = rows::all(&who, &samples);
    take_down(built.0);
    Ok(Measured { rows, contenders: built.1 })
}

/// Builds and proves all contenders, several at a time: most of it is waiting.
fn build(binaries: &Binaries) -> Result<(Vec<Labs>, Vec<Proof>)> {
    let both = Kind::ALL.into_iter().flat_map(|kind| [(kind, false), (kind, true)]);
    let wanted: Vec<_> =
        both.filter(|(kind, netfilter)| !netfilter || kind.has_netfilter_variant()).collect();
    let part = |first: usize| -> Result<Vec<_>> {
        let own = wanted.iter().enumerate().skip(first).step_by(BUILDERS);
        own.map(|(index, (kind, netfilter))| Ok((index, build_one(*kind, *netfilter, binaries)?))).collect()
    };
    let parts = std::thread::scope(|scope| {
        let builders: Vec<_> = (0..BUILDERS).map(|first| scope.spawn(move || part(first))).collect();
        builders.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    let mut built: Vec<_> = parts.into_iter().flatten().collect();
    built.sort_by_key(|(index, _)| *index);
    Ok(built.into_iter().map(|(_, contender)| contender).unzip())
}

fn build_one(kind: Kind, netfilter: bool, binaries: &Binaries) -> Result<(Labs, Proof)> {
    let mut labs = Labs::new();
    let mut seen = Vec::new();
    for _ in 0..if kind == Kind::Wire { WIRES } else { 1 } {
        let lab = Contender::build(kind, netfilter, binaries)?;
        seen.extend(lab.prove()?);
        eprintln!("   {}: built and proved", lab.label());
        labs.push(lab);
    }
    Ok((labs, Proof { contender: kind.name().to_owned(), netfilter, seen }))
}

/// Takes all of them down, at once.
fn take_down(contenders: Vec<Labs>) {
    std::thread::scope(|scope| {
        for lab in contenders.into_iter().flatten() {
            scope.spawn(move || drop(lab));
        }
    });
}

fn join<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// Who talks to whom there.
const fn pair(topology: Topology, contender: &Contender) -> &Pair {
    match topology {
        Topology::SameNode => &contender.same_node,
        Topology::AcrossNodes => &contender.across_nodes,
    }
}

fn progress(what: &str, round: usize, rounds: usize, begun: Instant) {
    eprintln!("   {what}: round {round} of {rounds} ({})", seconds(begun.elapsed()));
}

/// What contenders take turns at.
#[derive(Clone, Copy)]
struct Pass<'a> {
    what: &'a str,
    topologies: &'a [Topology],
    /// IPv6, or IPv4.
    families: &'a [bool],
    /// How often it is a wire's turn.
    wires: usize,
}

struct Turns<'a> {
    plan: &'a Plan,
    programs: &'a Path,
    contenders: &'a [Labs],
    round: usize,
    samples: BTreeMap<Key, Samples>,
}

impl<'a> Turns<'a> {
    /// The lab whose turn it is.
    fn lab(&self, turn: Turn) -> &'a Contender {
        let labs = &self.contenders[turn.contender];
        &labs[turn.lab % labs.len()]
    }

    fn all_labs(&self) -> impl Iterator<Item = &'a Contender> + use<'a> {
        self.contenders.iter().flatten()
    }

    fn turns(&self, wires: usize) -> Vec<Turn> {
        order::pass(self.contenders.len(), wires, self.round)
    }

    /// A program's place in memory can cost a twentieth of a round trip, and the kernel gives those that are loaded in
    /// the same order the same places. All at once: quicker, and in whatever order comes of it.
    fn reload_programs(&self) -> Result<()> {
        let reload = |contender: &Contender| {
            contender.reload_programs().with_context(|| format!("restarting {}", contender.label()))
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = self.all_labs().map(|lab| scope.spawn(move || reload(lab))).collect();
            threads.into_iter().try_for_each(join)
        })
    }

    fn set_wire_gro(&self, on: bool) -> Result<()> {
        self.all_labs().try_for_each(|lab| lab.set_wire_gro(on))
    }

    fn latencies_and_packets(&mut self, round: usize) -> Result<()> {
        let plan = self.plan;
        let everything = round.is_multiple_of(plan.seldom);
        let families = if everything { &[false, true] } else { plan.families() };
        for sample in 0..plan.latencies {
            self.round += 1;
            let across = sample < plan.latencies_across;
            self.round_trips(
                if across { &Topology::ALL } else { &[Topology::SameNode] },
                if sample == 0 { families } else { plan.families() },
            )?;
        }
        self.each_of("packets of 64 bytes", families, |take, pair, ipv6| {
            take("udp-64-pps", packets::rate(pair, ipv6, 64, plan.packets)?);
            Ok(())
        })?;
        self.forwarding()?;
        if !everything {
            return Ok(());
        }
        self.each_of("packets of 1400 bytes", plan.families(), |take, pair, ipv6| {
            take("udp-1400-pps", packets::rate(pair, ipv6, 1400, plan.packets)?);
            Ok(())
        })?;
        self.each_of("connections", plan.families(), |take, pair, ipv6| {
            take("tcp-connections", connections::rate(pair, ipv6, plan.connections)?);
            Ok(())
        })
    }

    fn round_trips(&mut self, topologies: &[Topology], families: &[bool]) -> Result<()> {
        let (bench, rounds) = (self.programs, self.plan.round_trips);
        let pass = Pass { what: "round trips", topologies, families, wires: WIRE_TURNS };
        for (udp, names) in [(false, ["tcp-rtt-p50", "tcp-rtt-p99"]), (true, ["udp-rtt-p50", "udp-rtt-p99"])]
        {
            self.each_of_those(
                pass,
                |_| true,
                |take, pair, ipv6| {
                    let question = Question { pair: pair.clone(), ipv6, udp, rounds };
                    let trips = programs::round_trips(bench, &question)?;
                    take(names[0], trips.p50);
                    take(names[1], trips.p99);
                    Ok(())
                },
            )?;
        }
        Ok(())
    }

    /// Into a pod across nodes, without sockets.
    fn forwarding(&mut self) -> Result<()> {
        for turn in self.turns(1) {
            let contender = self.lab(turn);
            // Frames that are in no tunnel, to something that a node forwards to.
            if contender.kind == Kind::Wire || contender.kind.has_overlay() {
                continue;
            }
            for (way, metric) in Way::of(contender.kind) {
                let rate = programs::forwarding(self.programs, contender, *way, self.plan.frames)
                    .with_context(|| format!("{metric}, {}", contender.label()))?;
                let key = (turn.contender, Topology::AcrossNodes, false, *metric);
                self.samples.entry(key).or_default().0.push(rate);
            }
        }
        Ok(())
    }

    fn transfers(&mut self, families: &[bool]) -> Result<()> {
        let plan = self.plan;
        for (streams, names) in [
            (1, ["tcp-1-throughput", "tcp-1-cpu", "tcp-1-softirq"]),
            (8, ["tcp-8-throughput", "tcp-8-cpu", "tcp-8-softirq"]),
        ] {
            self.round += 1;
            let who = |contender: &Contender| plan.all_in_bulk || is_named_by_a_transfer_target(contender);
            for (topology, bytes) in BULK_BYTES {
                let pass = Pass { what: "transfers", topologies: &[topology], families, wires: 1 };
                self.each_of_those(pass, who, |take, pair, ipv6| {
                    let transfer = bulk::transfer(pair, ipv6, streams, bytes)?;
                    take(names[0], transfer.gbit_per_second);
                    take(names[1], transfer.cpu_seconds_per_gb);
                    take(names[2], transfer.softirq_seconds_per_gb);
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    fn each_of(
        &mut self,
        what: &str,
        families: &[bool],
        work: impl FnMut(&mut dyn FnMut(&'static str, f64), &Pair, bool) -> Result<()>,
    ) -> Result<()> {
        let pass = Pass { what, topologies: &Topology::ALL, families, wires: 1 };
        self.each_of_those(pass, |_| true, work)
    }

    /// Every contender in turn, on the same way before the next way. Of several turns of one contender the median counts.
    fn each_of_those(
        &mut self,
        pass: Pass<'_>,
        who: impl Fn(&Contender) -> bool,
        mut work: impl FnMut(&mut dyn FnMut(&'static str, f64), &Pair, bool) -> Result<()>,
    ) -> Result<()> {
        for topology in pass.topologies.iter().copied() {
            for ipv6 in pass.families {
                let mut taken: BTreeMap<Key, Samples> = BTreeMap::new();
                for turn in self.turns(pass.wires) {
                    let contender = self.lab(turn);
                    let pair = pair(topology, contender);
                    if pair.client.address(*ipv6).is_none() || !who(contender) {
                        continue;
                    }
                    let mut take = |metric, value| {
                        let key = (turn.contender, topology, *ipv6, metric);
                        taken.entry(key).or_default().0.push(value);
                    };
                    work(&mut take, pair, *ipv6).with_context(|| {
                        format!("{}, {}, {}", pass.what, topology.name(), contender.label())
                    })?;
                }
                for (key, values) in taken {
                    self.samples.entry(key).or_default().0.push(values.median());
                }
            }
        }
        Ok(())
    }
}

/// Those whom a quick run's transfers are about: no netfilter, and Podlane without XDP.
fn is_named_by_a_transfer_target(contender: &Contender) -> bool {
    !contender.netfilter && !matches!(contender.kind, Kind::PodlaneXdp | Kind::PodlaneXdpGeneric)
}
