//! One way measured beside another: in turns of some milliseconds, so that whatever else the machine does hits both.

use anyhow::Result;

use super::Samples;

/// What was measured of one way, and of the one beside it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Beside {
    /// Of the way that is asked about: the median turn.
    pub own: f64,
    /// Of the other.
    pub other: f64,
    /// The first as a part of the second: the median of the ratios of a turn and the mean of the two around it.
    pub ratio: f64,
}

impl Beside {
    /// What was measured being a time: by how much it is longer than beside it.
    pub(super) fn longer(&self) -> f64 {
        self.other * (self.ratio - 1.0)
    }

    /// What was measured being a number a second: how many nanoseconds more each takes than beside it.
    pub(super) fn nanoseconds_more(&self) -> f64 {
        1e9 / self.other * (1.0 / self.ratio - 1.0)
    }
}

/// Takes so many turns, and one more of the other way, which begins and ends.
///
/// # Errors
/// Those of the turns.
pub fn in_turns(
    turns: usize,
    mut own: impl FnMut() -> Result<f64>,
    mut other: impl FnMut() -> Result<f64>,
) -> Result<Beside> {
    let (mut owns, mut others, mut ratios) = (Vec::new(), vec![other()?], Vec::new());
    for turn in 0..turns {
        owns.push(own()?);
        others.push(other()?);
        ratios.push(owns[turn] / f64::midpoint(others[turn], others[turn + 1]));
    }
    let [own, other, ratio] = [owns, others, ratios].map(|values| Samples(values).median());
    Ok(Beside { own, other, ratio })
}

#[cfg(test)]
mod tests {
    use super::{Beside, in_turns};

    #[test]
    fn a_machine_that_slows_down_does_not_change_the_ratio() {
        let mut speed = 1.0;
        // Each turn takes longer than the one before, by as much each time.
        let time = std::cell::RefCell::new(|cost: f64| {
            speed += 0.1;
            Ok(cost * speed)
        });
        let beside = in_turns(3, || (time.borrow_mut())(3.0), || (time.borrow_mut())(2.0)).unwrap();
        assert_eq!((beside.own * 10.0).round(), 42.0, "{beside:?}");
        assert!((beside.ratio - 1.5).abs() < 1e-9, "{beside:?}");
    }

    #[test]
    fn what_it_takes_more_is_of_the_other_ways_time() {
        // Not of its own median, which may be another turn's.
        let trips = Beside { own: 4.0, other: 2.0, ratio: 1.5 };
        assert_eq!(trips.longer(), 1.0);
        // 200,000 a second are 5,000 ns each; at 4 / 5 of that, 6,250.
        let packets = Beside { own: 150_000.0, other: 200_000.0, ratio: 0.8 };
        assert_eq!(packets.nanoseconds_more(), 1250.0);
    }

    #[test]
    fn one_bad_turn_does_not_count() {
        let (mut owns, mut others) = ([3.0, 30.0, 3.0].into_iter(), [2.0, 2.0, 2.0, 20.0].into_iter());
        let next = |values: &mut dyn Iterator<Item = f64>| Ok(values.next().unwrap());
        let beside = in_turns(3, || next(&mut owns), || next(&mut others)).unwrap();
        assert_eq!(beside, Beside { own: 3.0, other: 2.0, ratio: 1.5 });
    }
}
