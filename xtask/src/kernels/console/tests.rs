//! Consoles of machines that went well, badly, or away.

use super::*;

const FAILED: &str = "\x1b[2J\r
podlane-release 6.1.0-56-cloud-amd64\r
podlane-begin packets\r
\r
running 4 tests\r
test every_verdict_has_a_case ... ok\r
test overlay::from_overlay ... FAILED\r
test truncated::short ... ip: a complaint\r
ok\r
test xdp ... ok\r
\r
successes:\r
\r
---- xdp stdout ----\r
skipped: no XDP here\r
\r
successes:\r
    xdp\r
\r
failures:\r
\r
---- overlay::from_overlay stdout ----\r
\r
thread '<unnamed>' (154) panicked at fixture.rs:313:65:\r
no clsact\r
\r
failures:\r
    overlay::from_overlay\r
\r
test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 27.49s\r
\r
podlane-end packets 101\r
podlane-begin budget\r
\r
running 1 test\r
test programs ... ok\r
\r
podlane-end budget 0\r
";

fn outcomes(suite: &SuiteRun) -> Vec<(&str, Outcome)> {
    suite.tests.iter().map(|test| (test.name.as_str(), test.outcome.clone())).collect()
}

#[test]
fn every_test_is_read_with_its_outcome_and_output() {
    let console = Console::parse(FAILED);
    assert_eq!(console.release.as_deref(), Some("6.1.0-56-cloud-amd64"));
    let [packets, budget] = &console.suites[..] else { panic!("{console:?}") };
    assert_eq!(
        outcomes(packets),
        [
            ("every_verdict_has_a_case", Outcome::Passed),
            ("overlay::from_overlay", Outcome::Failed),
            ("truncated::short", Outcome::Passed),
            ("xdp", Outcome::Skipped("no XDP here".to_owned())),
        ]
    );
    let output = "thread '<unnamed>' (154) panicked at fixture.rs:313:65:\nno clsact";
    assert_eq!(packets.tests[1].output, output);
    assert_eq!(packets.problems, [""; 0]);
    assert_eq!(outcomes(budget), [("programs", Outcome::Passed)]);
    assert_eq!(budget.problems, [""; 0]);
}

#[test]
fn a_machine_that_ends_early_has_not_passed() {
    let cut = FAILED.split_once("test xdp").unwrap().0.replace("\r\nok", "");
    let console = Console::parse(&cut);
    let packets = &console.suites[0];
    assert_eq!(outcomes(packets)[2], ("truncated::short", Outcome::Unfinished));
    assert_eq!(
        packets.problems,
        ["the machine ended before packets did", "packets announced 4 tests and told of 3"]
    );
}

#[test]
fn a_program_that_does_not_start_has_not_passed() {
    let console = Console::parse("podlane-begin budget\n/tests/budget: not found\npodlane-end budget 127\n");
    assert_eq!(console.suites[0].problems, ["budget ended with exit status 127", "budget ran no tests"]);
}

#[test]
fn a_filter_that_fits_no_test_has_not_passed() {
    let console = Console::parse("podlane-begin budget\nrunning 0 tests\npodlane-end budget 0\n");
    assert_eq!(console.suites[0].problems, ["budget ran no tests"]);
}

#[test]
fn a_test_that_kills_its_program_is_unfinished() {
    let text = "podlane-begin packets\nrunning 2 tests\ntest a ... ok\ntest b ...\npodlane-end packets 139\n";
    let packets = &Console::parse(text).suites[0];
    assert_eq!(outcomes(packets)[1], ("b", Outcome::Unfinished));
    assert_eq!(packets.problems, ["packets ended with exit status 139"]);
}
