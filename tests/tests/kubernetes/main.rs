//! The Kubernetes source: against an API server that follows a script, whatever it may do; and, with agents in a lab,
//! against that one and the real one. The real one is there after `cargo xtask e2e-kubernetes`; without it, those tests
//! say that they are skipped.

mod agents;
mod api;
mod given;
mod real;
mod source;
