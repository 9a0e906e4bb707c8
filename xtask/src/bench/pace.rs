//! What fits into the time: a slow machine measures fewer rounds, not longer.

use std::time::{Duration, Instant};

/// For what is done before and after: finding that everything is built, taking the last labs down, drawing the plots.
const RESERVE: Duration = Duration::from_secs(25);

/// What part of the time building the labs may take: one in so many.
const BUILDING: usize = 3;

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

    /// How often everything can be built, if the first time took so long: once, and at most as often as is planned.
    pub(super) fn labs(&self, planned: usize, building: Duration) -> usize {
        affordable(planned, building, self.left() + building)
    }

    /// The end of what is left of this lab's share of the time, when so many others follow it; and when round trips have
    /// to make way for transfers, which are given `transfers` of the rest.
    pub(super) fn shares(&self, followers: usize, transfers: f64) -> (Rounds, Rounds) {
        let own = self.left().div_f64((followers + 1) as f64);
        let now = Instant::now();
        (Rounds::until(now + own.mul_f64(1.0 - transfers)), Rounds::until(now + own))
    }

    fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }
}

/// Rounds, for as long as another one fits.
#[derive(Debug)]
pub(super) struct Rounds {
    until: Instant,
    begun: Instant,
    done: u32,
}

impl Rounds {
    fn until(until: Instant) -> Self {
        Self { until, begun: Instant::now(), done: 0 }
    }

    /// The number of the next round, from 1 on: of at least `least` and at most `most`, as many as fit.
    pub(super) fn next(&mut self, least: usize, most: usize) -> Option<usize> {
        if self.done == 0 {
            self.begun = Instant::now();
        }
        let done = self.done as usize;
        let left = self.until.saturating_duration_since(Instant::now());
        if done >= most || (done >= least && !another(self.done, self.begun.elapsed(), left)) {
            return None;
        }
        self.done += 1;
        Some(done + 1)
    }
}

/// Of `planned` times that take `building` each, how many fit into their part of `time`.
fn affordable(planned: usize, building: Duration, time: Duration) -> usize {
    (1..=planned.max(1)).rev().find(|labs| building.mul_f64((*labs * BUILDING) as f64) <= time).unwrap_or(1)
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
    fn building_takes_a_third_of_the_time_at_most_but_happens_once() {
        assert_eq!(affordable(3, seconds(20), seconds(240)), 3);
        assert_eq!(affordable(3, seconds(40), seconds(240)), 2);
        assert_eq!(affordable(3, seconds(41), seconds(240)), 1);
        assert_eq!(affordable(3, seconds(400), seconds(240)), 1);
        assert_eq!(affordable(2, seconds(20), seconds(2400)), 2);
    }

    #[test]
    fn another_round_fits_if_it_takes_as_long_as_those_before() {
        assert!(another(0, seconds(0), seconds(0)));
        assert!(another(2, seconds(20), seconds(10)));
        assert!(!another(2, seconds(21), seconds(10)));
    }

    #[test]
    fn there_are_as_many_rounds_as_are_needed_and_no_more_than_are_planned() {
        let counted =
            |mut rounds: Rounds, least, most| std::iter::from_fn(|| rounds.next(least, most)).count();
        let now = Instant::now();
        // A round takes no time here.
        assert_eq!(counted(Rounds::until(now + seconds(100)), 2, 5), 5);
        let late = Rounds { until: now, begun: now, done: 0 };
        assert_eq!(counted(late, 2, 5), 2);
    }

    #[test]
    fn what_is_left_is_shared_with_the_labs_that_follow() {
        let pace = Pace { end: Instant::now() + seconds(90) };
        let (trips, transfers) = pace.shares(2, 0.4);
        let from_now =
            |rounds: Rounds| rounds.until.saturating_duration_since(Instant::now()).as_secs_f64().round();
        assert_eq!((from_now(trips), from_now(transfers)), (18.0, 30.0));
    }
}
