//! What a machine said: which kernel it was and how each test ended, read strictly. What is not said did not pass.

use std::collections::BTreeMap;

/// Before the kernel's release.
pub(super) const RELEASE: &str = "podlane-release";

/// Before a suite's name, where it begins.
pub(super) const BEGIN: &str = "podlane-begin";

/// Before a suite's name and exit status, where it ends.
pub(super) const END: &str = "podlane-end";

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    /// It says that this kernel lacks something.
    Skipped(String),
    Failed,
    /// The test program or the machine ended first.
    Unfinished,
}

/// One test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Test {
    pub(super) name: String,
    pub(super) outcome: Outcome,
    /// What it printed.
    pub(super) output: String,
}

/// The run of one test program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SuiteRun {
    pub(super) name: String,
    pub(super) tests: Vec<Test>,
    /// What does not add up beyond the tests' own outcomes.
    pub(super) problems: Vec<String>,
}

/// Everything that was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Console {
    pub(super) release: Option<String>,
    pub(super) suites: Vec<SuiteRun>,
}

impl Console {
    /// Reads a console's text.
    pub(super) fn parse(text: &str) -> Self {
        let mut console = Self::default();
        // The serial line ends lines with CR LF.
        let mut lines = text.lines().map(str::trim_end);
        while let Some(line) = lines.next() {
            if let Some(release) = after(line, RELEASE) {
                console.release = Some(release.to_owned());
            } else if let Some(name) = after(line, BEGIN) {
                let mut said = Vec::new();
                let end = lines.by_ref().find_map(|line| {
                    said.push(line);
                    after(line, END)
                });
                console.suites.push(suite(name, &said, end));
            }
        }
        console
    }
}

fn after<'a>(line: &'a str, mark: &str) -> Option<&'a str> {
    line.strip_prefix(mark)?.strip_prefix(' ')
}

fn suite(name: &str, lines: &[&str], end: Option<&str>) -> SuiteRun {
    let outputs = outputs(lines);
    let mut tests = outcomes(lines);
    for test in &mut tests {
        if let Some(output) = outputs.get(test.name.as_str()) {
            test.output.clone_from(output);
        }
        let reason = test.output.lines().find_map(|line| line.strip_prefix("skipped: "));
        if let (Outcome::Passed, Some(reason)) = (&test.outcome, reason) {
            test.outcome = Outcome::Skipped(reason.to_owned());
        }
    }
    let mut problems = Vec::new();
    match end.map(|end| end.rsplit(' ').next().unwrap_or(end)) {
        None => problems.push(format!("the machine ended before {name} did")),
        Some("0") => {}
        // Failed tests say so themselves.
        Some("101") if tests.iter().any(|test| test.outcome == Outcome::Failed) => {}
        Some(status) => problems.push(format!("{name} ended with exit status {status}")),
    }
    let announced =
        lines.iter().find_map(|line| line.strip_prefix("running ")?.split(' ').next()?.parse().ok());
    match announced {
        None | Some(0) => problems.push(format!("{name} ran no tests")),
        Some(count) if count != tests.len() => {
            problems.push(format!("{name} announced {count} tests and told of {}", tests.len()));
        }
        Some(_) => {}
    }
    SuiteRun { name: name.to_owned(), tests, problems }
}

/// `test NAME ... ok`. What a test's child processes print comes between the dots and the result.
fn outcomes(lines: &[&str]) -> Vec<Test> {
    let mut tests: Vec<Test> = Vec::new();
    for line in lines {
        if let Some((name, rest)) = line.strip_prefix("test ").and_then(|line| line.split_once(" ... ")) {
            let outcome = outcome(rest).unwrap_or(Outcome::Unfinished);
            tests.push(Test { name: name.to_owned(), outcome, output: String::new() });
        } else if let Some(test) = tests.last_mut()
            && test.outcome == Outcome::Unfinished
            && let Some(outcome) = outcome(line)
        {
            test.outcome = outcome;
        } else if let Some(name) = line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ...")) {
            tests.push(Test { name: name.to_owned(), outcome: Outcome::Unfinished, output: String::new() });
        }
    }
    tests
}

fn outcome(text: &str) -> Option<Outcome> {
    match text {
        "ok" => Some(Outcome::Passed),
        "FAILED" => Some(Outcome::Failed),
        ignored if ignored.starts_with("ignored") => Some(Outcome::Skipped(ignored.to_owned())),
        _ => None,
    }
}

/// The sections `---- NAME stdout ----`, by name.
fn outputs<'a>(lines: &[&'a str]) -> BTreeMap<&'a str, String> {
    let mut outputs: BTreeMap<&str, String> = BTreeMap::new();
    let mut current = None;
    for line in lines {
        let header = line.strip_prefix("---- ").and_then(|line| line.strip_suffix(" stdout ----"));
        if header.is_some() {
            current = header;
        } else if ["failures:", "successes:"].contains(line) || line.starts_with("test result: ") {
            current = None;
        } else if let Some(name) = current {
            let output = outputs.entry(name).or_default();
            output.push_str(line);
            output.push('\n');
        }
    }
    outputs.values_mut().for_each(|output| *output = output.trim().to_owned());
    outputs
}

#[cfg(test)]
mod tests;
