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

    /// When round trips have to make way for transfers, and the end of this lab's share of the time, when so many others
    /// follow it. Transfers are given that part of it.
    pub(super) fn shares(&self, followers: usize, transfers: f64) -> (Instant, Instant) {
        let own = self.left().div_f64((followers + 1) as f64);
        let now = Instant::now();
        (now + own.mul_f64(1.0 - transfers), now + own)
    }

    fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }
}

/// Rounds, for as long as another one fits.
#[derive(Debug)]
pub(super) struct Rounds {
    done: usize,
    last_begun: Option<Instant>,
}

impl Rounds {
    /// None yet.
    pub(super) const fn new() -> Self {
        Self { done: 0, last_begun: None }
    }

    /// The number of the next round, from 1 on: the first, and of at most `most` as many as end before `until`, if each takes
    /// as long as the one before it.
    pub(super) fn next(&mut self, until: Instant, most: usize) -> Option<usize> {
        self.next_at(Instant::now(), until, most)
    }

    fn next_at(&mut self, now: Instant, until: Instant, most: usize) -> Option<usize> {
        let is_late = |last_begun| now + (now - last_begun) > until;
        if self.done >= most || self.last_begun.is_some_and(is_late) {
            return None;
        }
        self.done += 1;
        self.last_begun = Some(now);
        Some(self.done)
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
            let mut rounds = Rounds::new();
            std::iter::from_fn(|| rounds.next(until, most)).count()
        };
        // A round takes no time here.
        assert_eq!(counted(Instant::now() + seconds(100), 5), 5);
        assert_eq!(counted(Instant::now(), 5), 1);
    }

    #[test]
    fn another_round_fits_if_it_takes_as_long_as_the_one_before() {
        let begun = Instant::now();
        let now = begun + seconds(10);
        let next = |left| Rounds { done: 2, last_begun: Some(begun) }.next_at(now, now + seconds(left), 5);
        assert_eq!((next(10), next(9)), (Some(3), None));
    }

    #[test]
    fn what_is_left_is_shared_with_the_labs_that_follow() {
        let pace = Pace { end: Instant::now() + seconds(90) };
        let (trips, transfers) = pace.shares(2, 0.4);
        let from_now = |end: Instant| end.saturating_duration_since(Instant::now()).as_secs_f64().round();
        assert_eq!((from_now(trips), from_now(transfers)), (18.0, 30.0));
    }
}
