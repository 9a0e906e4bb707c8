//! Makes a lab, says its id, and holds it until standard input ends. For the test that kills a lab's owner.

use std::io::Read as _;

use podlane_tests::Lab;

fn main() -> anyhow::Result<()> {
    let lab = Lab::builder().nodes(2).classic().build()?;
    lab.node(1).add_pod("a")?;
    println!("{}", lab.id());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
