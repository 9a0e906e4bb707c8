//! `podlane` in another version, for the tests of upgrades and downgrades: the feature `other-version` gives it another
//! map layout and another version of records.

use std::process::ExitCode;

use clap::Parser as _;
use podlane::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("podlane: {error:#}");
            ExitCode::FAILURE
        }
    }
}
