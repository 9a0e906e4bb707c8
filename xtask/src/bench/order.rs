//! In which order the contenders take their turns.

/// A contender's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    /// Its place among the contenders.
    pub(super) contender: usize,
    /// Which of its labs, where it has several: modulo their number.
    pub(super) lab: usize,
}

/// A pass over all contenders. The first of them, the wire, has several turns, evenly spread, as all others are compared
/// with it. The others have one each, in another order in every round: a sample depends on what ran before it.
pub(super) fn pass(contenders: usize, wires: usize, round: usize) -> Vec<Turn> {
    let others = contenders.saturating_sub(1);
    let mut turns = Vec::with_capacity(others + wires);
    let step = step(others, round);
    let mut wire = 0;
    for place in 0..others {
        if wire * others <= place * wires && wire < wires {
            turns.push(Turn { contender: 0, lab: round * wires + wire });
            wire += 1;
        }
        turns.push(Turn { contender: 1 + (round + place * step) % others, lab: round });
    }
    let first = round % turns.len().max(1);
    turns.rotate_left(first);
    turns
}

/// How far apart neighbours in a round are in the list: any number that has no divisor in common with the list's length
/// meets each place once.
fn step(length: usize, round: usize) -> usize {
    let steps: Vec<usize> = (1..length).filter(|step| common_divisor(*step, length) == 1).collect();
    steps.get(round % steps.len().max(1)).copied().unwrap_or(1)
}

const fn common_divisor(one: usize, other: usize) -> usize {
    if other == 0 { one } else { common_divisor(other, one % other) }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn contenders(turns: &[Turn]) -> Vec<usize> {
        turns.iter().map(|turn| turn.contender).collect()
    }

    #[test]
    fn everybody_has_a_turn_and_the_wire_several_evenly_spread() {
        for (count, wires, round) in [(21, 7, 0), (21, 7, 5), (21, 1, 3), (2, 1, 9), (10, 3, 4), (21, 20, 1)]
        {
            let turns = contenders(&pass(count, wires, round));
            let mut turns_of: BTreeMap<usize, usize> = BTreeMap::new();
            for contender in &turns {
                *turns_of.entry(*contender).or_default() += 1;
            }
            assert_eq!(turns_of.remove(&0), Some(wires), "{turns:?}");
            assert_eq!(turns_of, (1..count).map(|contender| (contender, 1)).collect(), "{turns:?}");
            // Around the ring, as rounds follow each other.
            let doubled = turns.repeat(2);
            let gaps: Vec<usize> = doubled.split(|contender| *contender == 0).map(<[usize]>::len).collect();
            let between = &gaps[1..gaps.len() - 1];
            let (least, most) = (between.iter().min(), between.iter().max());
            assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{turns:?}");
        }
    }

    #[test]
    fn predecessors_change_from_round_to_round() {
        let mut before: BTreeSet<usize> = BTreeSet::new();
        for round in 0..8 {
            let turns = contenders(&pass(21, 1, round));
            let place = turns.iter().position(|contender| *contender == 5).unwrap();
            before.insert(turns[(place + turns.len() - 1) % turns.len()]);
        }
        assert!(before.len() >= 6, "{before:?}");
    }

    #[test]
    fn the_labs_of_the_wire_take_turns_within_a_round_and_over_the_rounds() {
        for wires in [1, 7] {
            let mut labs = [0; 3];
            for round in 0..3 {
                let mut now = [0; 3];
                for turn in pass(21, wires, round).iter().filter(|turn| turn.contender == 0) {
                    now[turn.lab % 3] += 1;
                }
                assert!(now.iter().all(|turns| *turns <= wires.div_ceil(3)), "{now:?}");
                for (sum, turns) in labs.iter_mut().zip(now) {
                    *sum += turns;
                }
            }
            assert_eq!(labs, [wires; 3]);
        }
    }

    #[test]
    fn nobody_or_the_wire_alone_is_no_pass() {
        assert_eq!([pass(0, 7, 1), pass(1, 7, 1)], [[], []]);
    }
}
