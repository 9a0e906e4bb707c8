//! Telling a repair from a change: what was in place at the end of the last pass, is still wanted, and is missing now,
//! somebody else has removed.

use std::{
    collections::HashSet,
    fmt::{self, Display, Write as _},
    hash::{BuildHasher as _, Hasher, RandomState},
};

use crate::repairs::Repairs;

/// What is in place, by the hashes of its descriptions: a node among thousands has thousands of routes.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    before: HashSet<u64>,
    now: HashSet<u64>,
    hasher: RandomState,
    repairs: Repairs,
}

impl Ledger {
    pub(super) fn new(repairs: Repairs) -> Self {
        Self { repairs, ..Self::default() }
    }

    /// Was found as it should be.
    pub(super) fn found(&mut self, thing: impl Display) {
        self.now.insert(self.hash(thing));
    }

    /// Was not, and is now.
    pub(super) fn made(&mut self, thing: impl Display, done: &str) {
        let hash = self.hash(&thing);
        if self.before.contains(&hash) {
            self.repairs.note(format!("{thing} was missing or changed"), done);
        }
        self.now.insert(hash);
    }

    /// Found or made.
    pub(super) fn keep(&mut self, thing: impl Display, found: bool, done: &str) {
        if found { self.found(thing) } else { self.made(thing, done) }
    }

    /// Is no longer wanted, in a pass that does not look at everything.
    pub(super) fn dropped(&mut self, thing: impl Display) {
        self.before.remove(&self.hash(thing));
    }

    fn hash(&self, thing: impl Display) -> u64 {
        let mut text = Hashed(self.hasher.build_hasher());
        // A hasher takes everything.
        let _ = write!(text, "{thing}");
        text.0.finish()
    }

    /// Was broken, whoever it was made by.
    pub(super) fn mended(&self, what: String, done: &str) {
        self.repairs.note(what, done);
    }

    /// The pass is over. One that failed halfway has not looked at everything.
    pub(super) fn end(&mut self, whole: bool) {
        let mut now = std::mem::take(&mut self.now);
        if whole {
            now.shrink_to_fit();
            self.before = now;
        } else {
            self.before.extend(now);
        }
    }
}

/// Text that is hashed as it is written.
struct Hashed<H>(H);

impl<H: Hasher> fmt::Write for Hashed<H> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_in_place_before_can_be_repaired() {
        let repairs = Repairs::default();
        let mut ledger = Ledger::new(repairs.clone());
        ledger.made("route a", "entered");
        ledger.end(true);
        ledger.found("route a");
        ledger.made("route b", "entered");
        ledger.end(true);
        assert_eq!(repairs.list(), []);
        ledger.made("route a", "entered");
        // The pass fails before it comes to route b.
        ledger.end(false);
        ledger.found("route a");
        ledger.made("route b", "entered");
        ledger.end(true);
        let told: Vec<_> = repairs.list().into_iter().map(|repair| repair.what).collect();
        assert_eq!(told, ["route a was missing or changed", "route b was missing or changed"]);
        // No longer wanted, and later wanted again: a change, not a repair.
        ledger.found("route a");
        ledger.end(true);
        ledger.made("route b", "entered");
        ledger.end(true);
        assert_eq!(repairs.list().len(), 2);
        // The same in passes that do not look at everything.
        ledger.dropped("route b");
        ledger.end(false);
        ledger.made("route b", "entered");
        ledger.end(false);
        assert_eq!(repairs.list().len(), 2);
    }
}
