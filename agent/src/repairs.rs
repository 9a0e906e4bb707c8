//! What others have broken and this agent has mended: said once in the log, and kept for `podlane status`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;

/// How many repairs are kept.
const KEPT: usize = 100;

/// Somebody who breaks the same thing again and again fills the log once in so long.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// One repair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Repair {
    /// When it was last done, in UTC (RFC 3339).
    pub time: String,
    /// What was found broken.
    pub what: String,
    /// What was done about it.
    pub done: String,
    /// How many times, since the agent started.
    pub times: u32,
}

/// The repairs since the agent started. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Repairs {
    kept: Arc<Mutex<VecDeque<(SystemTime, Repair)>>>,
    total: Arc<AtomicU64>,
}

impl Repairs {
    /// Something has been mended.
    pub fn note(&self, what: impl Into<String>, done: impl Into<String>) {
        self.total.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now();
        let time = humantime::format_rfc3339_seconds(now).to_string();
        let mut repair = Repair { time, what: what.into(), done: done.into(), times: 1 };
        let mut list = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let same = list.iter().position(|(_, old)| (&old.what, &old.done) == (&repair.what, &repair.done));
        let mut said = None;
        if let Some((when, old)) = same.and_then(|place| list.remove(place)) {
            repair.times = old.times.saturating_add(1);
            said = Some(when);
        }
        // A clock that jumps makes it talkative, not silent.
        let lately = said.and_then(|when| now.duration_since(when).ok()).is_some_and(|ago| ago < SAY_AGAIN);
        let Repair { what, done, times, .. } = &repair;
        if lately {
            tracing::debug!(what, done, times, "repaired");
        } else {
            tracing::warn!(what, done, times, "repaired");
        }
        let said = said.filter(|_| lately).unwrap_or(now);
        list.push_back((said, repair));
        if list.len() > KEPT {
            list.pop_front();
        }
    }

    /// How many there have been.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// The last hundred, the latest at the end.
    #[must_use]
    pub fn list(&self) -> Vec<Repair> {
        let list = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        list.iter().map(|(_, repair)| repair.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_repair_is_counted_and_old_ones_make_room() {
        let repairs = Repairs::default();
        repairs.note("a route was missing", "entered again");
        repairs.note("a neighbour was missing", "entered again");
        repairs.note("a route was missing", "entered again");
        let list = repairs.list();
        let told: Vec<_> = list.iter().map(|repair| (repair.what.as_str(), repair.times)).collect();
        assert_eq!(told, [("a neighbour was missing", 1), ("a route was missing", 2)]);
        assert!(list[0].time.ends_with('Z') && list[0].time.len() == 20, "{}", list[0].time);
        for n in 0..KEPT {
            repairs.note(format!("{n}"), "");
        }
        assert_eq!(repairs.total(), 3 + KEPT as u64);
        assert_eq!((repairs.list().len(), repairs.list()[0].what.as_str()), (KEPT, "0"));
    }
}
