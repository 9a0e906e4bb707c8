//! Telling a repair from a change: what was in place at the end of the last pass, is still wanted, and is missing now,
//! somebody else has removed.

use std::{collections::BTreeSet, fmt::Display};

use crate::repairs::Repairs;

/// What is in place, in words.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    before: BTreeSet<String>,
    now: BTreeSet<String>,
    repairs: Repairs,
}

impl Ledger {
    pub(super) fn new(repairs: Repairs) -> Self {
        Self { repairs, ..Self::default() }
    }

    /// Was found as it should be.
    pub(super) fn found(&mut self, thing: impl Display) {
        self.now.insert(thing.to_string());
    }

    /// Was not, and is now.
    pub(super) fn made(&mut self, thing: impl Display, done: &str) {
        let thing = thing.to_string();
        if self.before.contains(&thing) {
            self.repairs.note(format!("{thing} was missing or changed"), done);
        }
        self.now.insert(thing);
    }

    /// Found or made.
    pub(super) fn keep(&mut self, thing: impl Display, found: bool, done: &str) {
        if found { self.found(thing) } else { self.made(thing, done) }
    }

    /// Is no longer wanted, in a pass that does not look at everything.
    pub(super) fn dropped(&mut self, thing: impl Display) {
        self.before.remove(&thing.to_string());
    }

    /// Was broken, whoever it was made by.
    pub(super) fn mended(&self, what: String, done: &str) {
        self.repairs.note(what, done);
    }

    /// The pass is over. One that failed halfway has not looked at everything.
    pub(super) fn end(&mut self, whole: bool) {
        let mut now = std::mem::take(&mut self.now);
        if !whole {
            now.append(&mut self.before);
        }
        self.before = now;
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
