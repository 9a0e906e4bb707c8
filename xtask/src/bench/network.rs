//! The contenders take turns: whatever else the machine does hits all of them.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread::ScopedJoinHandle;
use std::time::Instant;

use anyhow::{Context as _, Result};
use podlane_tests::Binaries;
use podlane_tests::bench::{Answer, Paced, Question, Row, What};
use podlane_tests::contender::{Contender, Kind, Pair};
use serde::{Deserialize, Serialize};

use super::order;
use super::pace::{Pace, Rounds};
use super::plan::Plan;
use super::programs;
use super::rows::{self, Key, Topology, Who};
use super::targets::{self, By};
use crate::progress::seconds;

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
const WIRES: usize = 9;

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
        let mut end = pace.share(labs - lab);
        let mut rounds = Rounds::new(plan.seldom);
        while let Some(round) = rounds.next(end, plan.rounds) {
            turns.measure(round.everything)?;
            eprintln!("   round {} of {} at most ({})", round.number, plan.rounds, seconds(begun.elapsed()));
            if (lab, round.number) == (1, 1) {
                // With some more rounds.
                labs = pace.labs(plan.labs, lab_begun.elapsed() * 2, lab_begun.elapsed());
                end = pace.share(labs - lab);
            }
        }
        samples = turns.samples;
    }
    let who: Vec<Who<'_>> = built.0.iter().map(|labs| who(&labs[0])).collect();
    let rows = rows::all(&who, &samples);
    take_down(built.0);
    Ok(Measured { rows, contenders: built.1 })
}

/// Builds and proves all contenders, several at a time: most of it is waiting.
fn build(binaries: &Binaries) -> Result<(Vec<Labs>, Vec<Proof>)> {
    let both = Kind::ALL.into_iter().flat_map(|kind| [(kind, false), (kind, true)]);
    let possible = both.filter(|(kind, netfilter)| !netfilter || kind.has_netfilter_variant());
    let wanted: Vec<_> = possible
        .flat_map(|wanted| std::iter::repeat_n(wanted, if wanted.0 == Kind::Wire { WIRES } else { 1 }))
        .collect();
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
    let (mut contenders, mut proofs): (Vec<Labs>, Vec<Proof>) = (Vec::new(), Vec::new());
    for (_, (lab, seen)) in built {
        let same = contenders.last_mut().zip(proofs.last_mut());
        match same.filter(|(labs, _)| who(&labs[0]) == who(&lab)) {
            Some((labs, proof)) => {
                labs.push(lab);
                proof.seen.extend(seen);
            }
            None => {
                let (contender, netfilter) = who(&lab);
                proofs.push(Proof { contender: contender.to_owned(), netfilter, seen });
                contenders.push(vec![lab]);
            }
        }
    }
    Ok((contenders, proofs))
}

/// A lab, and what showed that it is what it says.
fn build_one(kind: Kind, netfilter: bool, binaries: &Binaries) -> Result<(Contender, Vec<String>)> {
    let lab = Contender::build(kind, netfilter, binaries)?;
    let seen = lab.prove()?;
    eprintln!("   {}: built and proved", lab.label());
    Ok((lab, seen))
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

/// Its name in `bench.json`.
const fn who(contender: &Contender) -> Who<'static> {
    (contender.kind.name(), contender.netfilter)
}

/// Who talks to whom there.
const fn pair(topology: Topology, contender: &Contender) -> &Pair {
    match topology {
        Topology::SameNode => &contender.same_node,
        Topology::AcrossNodes => &contender.across_nodes,
    }
}

/// What contenders take turns at.
#[derive(Clone, Copy)]
struct Pass<'a> {
    what: What,
    /// Those alone that a target compares by this.
    only: Option<By>,
    topologies: &'a [Topology],
    /// IPv6, or IPv4.
    families: &'a [bool],
    /// Turns within each sample.
    turns: usize,
}

struct Turns<'a> {
    plan: &'a Plan,
    programs: &'a Path,
    contenders: &'a [Labs],
    round: usize,
    samples: BTreeMap<Key, Vec<Paced>>,
}

impl<'a> Turns<'a> {
    fn all_labs(&self) -> impl Iterator<Item = &'a Contender> + use<'a> {
        self.contenders.iter().flatten()
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

    fn measure(&mut self, everything: bool) -> Result<()> {
        self.latencies_and_packets(everything)?;
        // For the next round trips as well: agents that have just started have more to do.
        self.reload_programs()?;
        self.forwarding(everything)?;
        self.set_wire_gro(true)?;
        self.transfers(everything)?;
        self.set_wire_gro(false)
    }

    fn latencies_and_packets(&mut self, everything: bool) -> Result<()> {
        let plan = self.plan;
        let pass =
            |what, only, families, turns| Pass { what, only, topologies: &Topology::ALL, families, turns };
        let both = [false, true];
        for sample in 0..plan.latencies {
            let all = everything && sample == 0;
            let across = sample < plan.latencies_across;
            for udp in both {
                self.each_of(Pass {
                    topologies: if across { &Topology::ALL } else { &[Topology::SameNode] },
                    ..pass(
                        What::RoundTrips { udp },
                        (!all).then_some(By::RoundTrips),
                        if all { &both } else { &[false] },
                        plan.turns,
                    )
                })?;
            }
        }
        let packets = What::Packets { bytes: 64 };
        if everything {
            self.each_of(pass(packets, None, plan.families(), plan.turns))?;
            self.each_of(pass(What::Packets { bytes: 1400 }, None, plan.families(), plan.turns / 2))?;
            self.each_of(pass(What::Connections, None, plan.families(), plan.turns / 4))
        } else {
            self.each_of(pass(packets, Some(By::Packets), &[false], plan.turns))
        }
    }

    /// Into a pod across nodes, without sockets: all contenders, or only those whom a target names.
    fn forwarding(&mut self, all: bool) -> Result<()> {
        let lab_of = |wanted| self.contenders.iter().flatten().find(|lab| lab.kind == wanted);
        let floor = lab_of(Kind::Floor).context("no tc-floor")?;
        let host_gw = lab_of(Kind::HostGw).context("no host-gw")?;
        self.round += 1;
        for contender in order::pass(self.contenders.len(), self.round) {
            let lab = &self.contenders[contender][0];
            // Frames that are in no tunnel, to something that a node forwards to.
            let named = targets::are_about(By::Forwarding, Topology::AcrossNodes, who(lab));
            if lab.kind == Kind::Wire || lab.kind.has_overlay() || !(all || named) {
                continue;
            }
            let is_floor = lab.kind == Kind::Floor;
            let beside = if is_floor { host_gw } else { floor };
            for receiver in programs::receivers(lab.kind) {
                let mut answer = programs::forwarding(self.programs, [lab, beside], *receiver, self.plan)
                    .with_context(|| format!("forwarding ({receiver:?}), {}", lab.label()))?;
                if is_floor {
                    answer.figures.insert("forwarding-relative".to_owned(), 1.0);
                }
                self.take((contender, Topology::AcrossNodes, false), answer);
            }
        }
        Ok(())
    }

    fn transfers(&mut self, everything: bool) -> Result<()> {
        let plan = self.plan;
        for streams in [1, 8] {
            let what = What::Transfer { streams };
            if everything && plan.all_in_bulk {
                self.each_of(Pass {
                    what,
                    only: None,
                    topologies: &Topology::ALL,
                    families: plan.families(),
                    turns: plan.bulk,
                })?;
            }
            for sample in 0..plan.transfers {
                self.rivals(what, sample == 0)?;
            }
        }
        Ok(())
    }

    /// Those that a target compares, in turns with each other: beside the wire, each would differ by as much for nothing.
    /// The floor among them, or not.
    fn rivals(&mut self, what: What, floor: bool) -> Result<()> {
        self.round += 1;
        let turn = self.round;
        let place = |who: Who<'_>| self.contenders.iter().position(|labs| self::who(&labs[0]) == who);
        for topology in Topology::ALL {
            for (own, rival) in targets::rivals(topology) {
                if own.0 == Kind::Floor.name() && !floor {
                    continue;
                }
                let name = rival.0;
                // Those that are the same take turns, so that each of them meets each of the rival's.
                let (own, rival) = (targets::same(*own), targets::same(*rival));
                let own = place(own[turn % own.len()]).context("no such contender")?;
                let rival = place(rival[turn / 2 % rival.len()]).context("no such rival")?;
                let [lab, beside] = [own, rival].map(|contender| &self.contenders[contender][0]);
                let [pair, beside] = [lab, beside].map(|lab| pair(topology, lab).clone());
                let question = Question { pair, beside, ipv6: false, what, turns: self.plan.bulk };
                let Answer { figures, slowness } = programs::ask(self.programs, &question)
                    .with_context(|| format!("{what:?}, {}, {}", topology.name(), lab.label()))?;
                // Its own speed goes with what the wire had beside it.
                let ratio = figures.into_iter().find_map(|(metric, value)| {
                    Some((format!("{}-beside-{name}", metric.strip_suffix("-relative")?), value))
                });
                let figures = ratio.into_iter().collect();
                self.take((own, topology, false), Answer { figures, slowness });
            }
        }
        Ok(())
    }

    /// Every contender in turn, on the same way before the next way: each in turns with a wire, a wire with another one.
    fn each_of(&mut self, pass: Pass<'_>) -> Result<()> {
        let Pass { what, only, topologies, families, turns } = pass;
        let wires = &self.contenders[0];
        for topology in topologies.iter().copied() {
            for ipv6 in families.iter().copied() {
                self.round += 1;
                for (place, contender) in
                    order::pass(self.contenders.len(), self.round).into_iter().enumerate()
                {
                    let wire = self.round + place;
                    let labs = &self.contenders[contender];
                    let lab = &labs[(wire + 1) % labs.len()];
                    let pair = pair(topology, lab);
                    let wanted = only.is_none_or(|by| targets::are_about(by, topology, who(lab)));
                    if pair.client.address(ipv6).is_none() || !wanted {
                        continue;
                    }
                    let beside = self::pair(topology, &wires[wire % wires.len()]);
                    let question = Question { pair: pair.clone(), beside: beside.clone(), ipv6, what, turns };
                    let answer = programs::ask(self.programs, &question)
                        .with_context(|| format!("{what:?}, {}, {}", topology.name(), lab.label()))?;
                    self.take((contender, topology, ipv6), answer);
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, (contender, topology, ipv6): (usize, Topology, bool), answer: Answer) {
        let Answer { figures, slowness } = answer;
        for (metric, value) in figures {
            let samples = self.samples.entry((contender, topology, ipv6, metric)).or_default();
            samples.push(Paced { value, slowness });
        }
    }
}
