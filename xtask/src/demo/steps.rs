//! Shows what the demo is doing, on standard error: standard output is for the result.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};

/// The demo's steps; each leaves one line.
pub(super) struct Steps {
    terminal: bool,
}

impl Steps {
    pub(super) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal() }
    }

    /// One thing that takes a moment.
    pub(super) fn step<T>(&self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let bar = self.bar(ProgressBar::new_spinner(), "   {spinner} {msg}", what);
        let result = work();
        self.finish(&bar, what, if result.is_ok() { "done" } else { "failed" });
        result.with_context(|| what.to_owned())
    }

    /// Many small things; `work` calls what it is given after each.
    pub(super) fn count<T>(&self, what: &str, total: usize, work: impl FnOnce(&(dyn Fn() + Sync)) -> T) -> T {
        let length = u64::try_from(total).unwrap_or(u64::MAX);
        let bar = self.bar(ProgressBar::new(length), "   {spinner} {msg} {bar:30} {pos}/{len}", what);
        let result = work(&|| bar.inc(1));
        self.finish(&bar, what, "done");
        result
    }

    fn bar(&self, bar: ProgressBar, template: &str, what: &str) -> ProgressBar {
        // The template is ours and right; without it the bar looks plainer.
        let bar = match ProgressStyle::with_template(template) {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        };
        let bar = bar.with_message(what.to_owned());
        if self.terminal {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        bar
    }

    fn finish(&self, bar: &ProgressBar, what: &str, how: &str) {
        bar.finish_and_clear();
        eprintln!("   {what}: {how}");
    }
}
