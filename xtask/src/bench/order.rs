//! In which order the contenders take their turns.

/// A pass over all contenders, in another order in every round: a sample depends on what ran before it.
pub(super) fn pass(contenders: usize, round: usize) -> Vec<usize> {
    let step = step(contenders, round);
    (0..contenders).map(|place| (round + place * step) % contenders).collect()
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
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn everybody_has_a_turn() {
        for (count, round) in [(20, 0), (20, 5), (21, 3), (2, 9), (1, 4), (0, 1)] {
            let mut turns = pass(count, round);
            turns.sort_unstable();
            assert_eq!(turns, (0..count).collect::<Vec<_>>(), "{count} contenders, round {round}");
        }
    }

    #[test]
    fn predecessors_change_from_round_to_round() {
        let mut before: BTreeSet<usize> = BTreeSet::new();
        for round in 0..8 {
            let turns = pass(20, round);
            let place = turns.iter().position(|contender| *contender == 5).unwrap();
            before.insert(turns[(place + turns.len() - 1) % turns.len()]);
        }
        assert!(before.len() >= 6, "{before:?}");
    }
}
