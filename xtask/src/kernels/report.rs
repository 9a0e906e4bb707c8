//! What came of it, kernel by kernel.

use std::time::Duration;

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};

use super::AttachMode;
use super::console::{Console, Outcome, SuiteRun, Test};
use super::package::Package;
use super::programs::SUITES;
use crate::progress::seconds;

/// One kernel's tests.
#[derive(Debug)]
pub(super) struct KernelRun {
    pub(super) release: String,
    attach: AttachMode,
    suites: Vec<SuiteRun>,
    /// What went wrong beyond tests and suites.
    problems: Vec<String>,
    time: Duration,
}

impl KernelRun {
    pub(super) fn new(
        package: &Package,
        attach: AttachMode,
        console: Console,
        booted: Option<anyhow::Error>,
        time: Duration,
    ) -> Self {
        let mut problems: Vec<String> = booted.map(|error| format!("{error:#}")).into_iter().collect();
        match &console.release {
            None => problems.push("the machine did not come as far as its init".to_owned()),
            Some(release) if *release != package.release => {
                problems.push(format!("the machine booted {release}, not {}", package.release));
            }
            Some(_) => {}
        }
        for suite in SUITES {
            if !console.suites.iter().any(|run| run.name == suite.name) {
                problems.push(format!("{} was not run", suite.name));
            }
        }
        let suites = console.suites;
        Self { release: package.release.clone(), attach, suites, problems, time }
    }

    pub(super) fn passed(&self) -> bool {
        let fine = |test: &Test| matches!(test.outcome, Outcome::Passed | Outcome::Skipped(_));
        self.problems.is_empty()
            && self.suites.iter().all(|suite| suite.problems.is_empty() && suite.tests.iter().all(fine))
    }

    /// Each test's result and what it printed.
    pub(super) fn details(&self) -> String {
        let mut lines = Vec::new();
        for suite in &self.suites {
            for test in &suite.tests {
                let name = format!("{}: {}", suite.name, test.name);
                lines.push(match &test.outcome {
                    Outcome::Passed => format!("   passed   {name}"),
                    Outcome::Skipped(reason) => format!("   skipped  {name} ({reason})"),
                    Outcome::Failed => format!("   FAILED   {name}"),
                    Outcome::Unfinished => format!("   NO END   {name}"),
                });
                lines.extend(test.output.lines().map(|line| format!("      {line}")));
            }
        }
        let problems = self.suites.iter().flat_map(|suite| &suite.problems).chain(&self.problems);
        lines.extend(problems.map(|problem| format!("   problem: {problem}")));
        lines.join("\n")
    }

    fn result(&self) -> String {
        let count = |wanted: fn(&Outcome) -> bool| {
            self.suites.iter().flat_map(|suite| &suite.tests).filter(|test| wanted(&test.outcome)).count()
        };
        let passed = count(|outcome| *outcome == Outcome::Passed);
        let skipped = count(|outcome| matches!(outcome, Outcome::Skipped(_)));
        let failed = count(|outcome| matches!(outcome, Outcome::Failed | Outcome::Unfinished));
        let verdict = if self.passed() { "ok" } else { "FAILED" };
        format!("{verdict}: {passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// All kernels in a table.
pub(super) fn table(runs: &[KernelRun]) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["kernel", "attached by", "tests", "time"]);
    for run in runs {
        table.add_row([&run.release, run.attach.name(), &run.result(), &seconds(run.time)]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_of(text: &str) -> KernelRun {
        run_of_release("6.1.0-56-cloud-amd64", text)
    }

    fn run_of_release(release: &str, text: &str) -> KernelRun {
        let package = Package { release: release.to_owned(), folder: "/".into() };
        let console = Console::parse(&text.replace("6.1.0-56-cloud-amd64", release));
        KernelRun::new(&package, AttachMode::Clsact, console, None, Duration::ZERO)
    }

    const GOOD: &str = "podlane-release 6.1.0-56-cloud-amd64\n\
        podlane-begin packets\nrunning 1 test\ntest a ... ok\npodlane-end packets 0\n\
        podlane-begin budget\nrunning 1 test\ntest b ... ok\npodlane-end budget 0\n";

    #[test]
    fn a_run_passes_if_everything_did() {
        assert!(run_of(GOOD).passed());
        assert_eq!(run_of(GOOD).result(), "ok: 2 passed, 0 failed, 0 skipped");
    }

    #[test]
    fn another_kernel_than_asked_for_fails() {
        let run = run_of(&GOOD.replace("6.1.0-56", "6.1.0-9"));
        assert!(!run.passed());
        assert!(run.details().contains("booted 6.1.0-9-cloud-amd64, not 6.1.0-56-cloud-amd64"), "{run:?}");
    }

    #[test]
    fn a_suite_that_is_missing_fails() {
        let run = run_of(GOOD.split_once("podlane-begin budget").unwrap().0);
        assert!(!run.passed());
        assert!(run.details().contains("budget was not run"), "{run:?}");
    }

    #[test]
    fn silence_fails() {
        let run = run_of("");
        assert!(!run.passed());
        assert!(run.details().contains("did not come as far as its init"), "{run:?}");
    }
}
