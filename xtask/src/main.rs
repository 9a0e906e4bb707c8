//! `cargo xtask`: set-up, demo, tests and benches.
fn main() {}
