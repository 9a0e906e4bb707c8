//! What fits into the time: a slow machine measures fewer rounds, not longer.

use std::time::{Duration, Instant};

/// For what is done before and after: finding that everything is built, taking the last labs down, drawing the plots.
const RESERVE: Duration = Duration::from_secs(15);

/// When measuring has to be over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    end: Instant,
}

impl Pace {
    /// A bench that has begun then, and takes at most so long.
    pub(super) fn new(begun: Instant, limit: Duration) -> Self {
        Self { end: begun + limit.saturating_sub(RESERVE) }
    }

    /// How often everything can be built and measured, if that takes so long each time, and `spent` has been spent on the
    /// first: once, and at most as often as is planned.
    pub(super) fn labs(&self, planned: usize, each: Duration, spent: Duration) -> usize {
        affordable(planned, each, self.left() + spent)
    }

    /// The end of this lab's share of the time, when so many others follow it.
    pub(super) fn share(&self, followers: usize) -> Instant {
        Instant::now() + self.left().div_f64((followers + 1) as f64)
    }

    fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }
}

/// Rounds, for as long as another one fits.
#[derive(Debug)]
pub(super) struct Rounds {
    seldom: usize,
    done: usize,
    running: Option<(Round, Instant)>,
    /// How long the last one took that was not of everything, and the last that was.
    lasted: [Option<Duration>; 2],
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Round {
    /// From 1 on.
    pub(super) number: usize,
    /// Whether everything is measured in it.
    pub(super) everything: bool,
}

impl Rounds {
    /// None yet. One in so many is of everything, the first among them.
    pub(super) const fn new(seldom: usize) -> Self {
        Self { seldom, done: 0, running: None, lasted: [None; 2] }
    }

    /// The next round: the first, and of at most `most` as many as end before `until`, if each takes as long as the last of
    /// its kind.
    pub(super) fn next(&mut self, until: Instant, most: usize) -> Option<Round> {
        self.next_at(Instant::now(), until, most)
    }

    fn next_at(&mut self, now: Instant, until: Instant, most: usize) -> Option<Round> {
        if let Some((round, begun)) = self.running {
            self.lasted[usize::from(round.everything)] = Some(now - begun);
        }
        // The first is one of these: nothing is missing where there is time for no other.
        let everything = self.done.is_multiple_of(self.seldom);
        let [some, all] = self.lasted;
        let needed = if everything { all } else { some.or(all) };
        if self.done >= most || needed.is_some_and(|needed| now + needed > until) {
            return None;
        }
        self.done += 1;
        let round = Round { number: self.done, everything };
        self.running = Some((round, now));
        Some(round)
    }
}

/// Of `planned` times that take so long each, how many fit.
fn affordable(planned: usize, each: Duration, time: Duration) -> usize {
    (1..=planned).rev().find(|labs| each.mul_f64(*labs as f64) <= time).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn labs_are_as_many_as_fit_but_one_at_least() {
        assert_eq!(affordable(3, seconds(80), seconds(240)), 3);
        assert_eq!(affordable(3, seconds(81), seconds(240)), 2);
        assert_eq!(affordable(3, seconds(400), seconds(240)), 1);
        assert_eq!(affordable(2, seconds(80), seconds(2400)), 2);
    }

    #[test]
    fn there_is_one_round_and_no_more_than_are_planned_and_fit() {
        let counted = |until, most| {
            let mut rounds = Rounds::new(2);
            std::iter::from_fn(|| rounds.next(until, most)).count()
        };
        // A round takes no time here.
        assert_eq!(counted(Instant::now() + seconds(100), 5), 5);
        assert_eq!(counted(Instant::now(), 5), 1);
    }

    #[test]
    fn another_round_fits_if_it_takes_as_long_as_the_last_of_its_kind() {
        let begun = Instant::now();
        let until = begun + seconds(100);
        let mut rounds = Rounds::new(3);
        let mut at = |now| {
            let round = rounds.next_at(begun + seconds(now), until, 9);
            round.map(|round| (round.number, round.everything))
        };
        assert_eq!(at(0), Some((1, true)));
        assert_eq!(at(30), Some((2, false)));
        assert_eq!(at(40), Some((3, false)));
        assert_eq!(at(50), Some((4, true)));
        assert_eq!(at(85), Some((5, false)));
        assert_eq!(at(95), None, "the one before took 10 seconds");
        let mut rounds = Rounds { done: 3, lasted: [Some(seconds(10)), Some(seconds(30))], ..Rounds::new(3) };
        assert_eq!(rounds.next_at(begun + seconds(71), until, 9), None, "it is one of everything");
    }

    #[test]
    fn what_is_left_is_shared_with_the_labs_that_follow() {
        let pace = Pace { end: Instant::now() + seconds(90) };
        let share = pace.share(2).saturating_duration_since(Instant::now());
        assert_eq!(share.as_secs_f64().round(), 30.0);
    }
}
