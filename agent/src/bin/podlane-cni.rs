//! The CNI plugin: asks the node's agent to attach, detach or check a pod. See `docs/cni.md`.

use std::io::{Read as _, Write as _};
use std::process::ExitCode;

fn main() -> ExitCode {
    // What came before this has read, where it could not do without this.
    let stdin = podlane_cni_start::read_ahead().chain(std::io::stdin().lock());
    let outcome = podlane::cni::plugin::run(|name| std::env::var(name).ok(), stdin);
    if let Some(error) = &outcome.error {
        // For the runtime's log; what it acts upon is on stdout.
        eprintln!("podlane-cni: {error}");
    }
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(outcome.stdout.as_bytes()).and_then(|()| stdout.flush());
    if outcome.error.is_none() && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
