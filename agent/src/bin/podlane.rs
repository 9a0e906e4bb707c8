//! `podlane`: the node's agent, and its operator's commands.

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
