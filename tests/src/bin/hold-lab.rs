//! Makes a lab, says its id, and holds it until standard input ends. For the tests that kill a lab's owner.
//! Argument: `classic`, or `podlane` with its agents.

use std::io::Read as _;

use anyhow::bail;
use podlane_tests::{Binaries, Lab};

fn main() -> anyhow::Result<()> {
    let builder = Lab::builder().nodes(2);
    let lab = match std::env::args().nth(1).as_deref() {
        Some("classic") => builder.classic(),
        Some("podlane") => builder.podlane(Binaries::find()?),
        _ => bail!("name the pod network: classic or podlane"),
    }
    .build()?;
    lab.node(1).add_pod("a")?;
    println!("{}", lab.id());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
