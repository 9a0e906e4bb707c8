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
    begun: Instant,
    done: u32,
}

impl Rounds {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { begun: Instant::now(), done: 0 }
    }

    /// The number of the next round, from 1 on: of at least `least` and at most `most`, as many as end before `until`.
    pub(super) fn next(&mut self, until: Instant, least: usize, most: usize) -> Option<usize> {
        let done = self.done as usize;
        let left = until.saturating_duration_since(Instant::now());
        if done >= most || (done >= least && !another(self.done, self.begun.elapsed(), left)) {
            return None;
        }
        self.done += 1;
        Some(done + 1)
    }
}

/// Of `planned` times that take so long each, how many fit.
fn affordable(planned: usize, each: Duration, time: Duration) -> usize {
    (1..=planned).rev().find(|labs| each.mul_f64(*labs as f64) <= time).unwrap_or(1)
}

/// Whether another round fits, if it takes as long as those before it.
fn another(done: u32, spent: Duration, left: Duration) -> bool {
    spent.checked_div(done).is_none_or(|each| each <= left)
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
    fn another_round_fits_if_it_takes_as_long_as_those_before() {
        assert!(another(0, seconds(0), seconds(0)));
        assert!(another(2, seconds(20), seconds(10)));
        assert!(!another(2, seconds(21), seconds(10)));
    }

    #[test]
    fn there_are_as_many_rounds_as_are_needed_and_no_more_than_are_planned() {
        let counted = |until, least, most| {
            let mut rounds = Rounds::new();
            std::iter::from_fn(|| rounds.next(until, least, most)).count()
        };
        // A round takes no time here.
        assert_eq!(counted(Instant::now() + seconds(100), 2, 5), 5);
        assert_eq!(counted(Instant::now(), 2, 5), 2);
    }

    #[test]
    fn what_is_left_is_shared_with_the_labs_that_follow() {
        let pace = Pace { end: Instant::now() + seconds(90) };
        let (trips, transfers) = pace.shares(2, 0.4);
        let from_now = |end: Instant| end.saturating_duration_since(Instant::now()).as_secs_f64().round();
        assert_eq!((from_now(trips), from_now(transfers)), (18.0, 30.0));
    }
}
