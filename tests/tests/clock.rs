//! The clock jumps, by years and in both directions, while the agent runs and while it does not: no address is given
//! twice, nothing is forgotten. The jumps are the agent's alone, by libfaketime; the machine's clock stays as it is.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::ensure;
use podlane_tests::lab::Node;
use podlane_tests::probe::{failures, ping, state};
use podlane_tests::{Binaries, Lab, Run};

/// An agent whose clock is what a file says.
struct Clock {
    file: PathBuf,
    _dir: tempfile::TempDir,
}

impl Clock {
    /// The node's agent has it from its next start on.
    fn of(node: &Node) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let (file, program) = (dir.path().join("clock"), dir.path().join("podlane"));
        let library = Run::new("faketime").args(["-f", "+0d", "printenv", "LD_PRELOAD"]).read()?;
        let agent = node.agent()?;
        // Read anew at every look at the clock. The monotonic clock does not jump.
        let script = format!(
            "#!/bin/sh\nexport FAKETIME_TIMESTAMP_FILE={} FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1\n\
             export LD_PRELOAD='{}'\nexec {} \"$@\"\n",
            file.display(),
            library.trim().replace("libfaketime.so", "libfaketimeMT.so"),
            agent.binary().display(),
        );
        fs_err::write(&program, script)?;
        fs_err::set_permissions(&program, Permissions::from_mode(0o755))?;
        agent.set_binary(&program);
        let clock = Self { file, _dir: dir };
        clock.jump("+0d")?;
        Ok(clock)
    }

    /// So far from the machine's, as faketime(1) writes it.
    fn jump(&self, offset: &str) -> anyhow::Result<()> {
        Ok(fs_err::write(&self.file, format!("{offset}\n"))?)
    }
}

/// Attaches so many pods; none may get an address that `taken` has.
fn attach(node: &Node, names: &[&str], taken: &mut BTreeSet<String>) -> anyhow::Result<()> {
    for name in names {
        let address = node.add_pod(name)?.address().to_string();
        ensure!(taken.insert(address.clone()), "{name} got {address}, which was given before");
    }
    Ok(())
}

/// The years of the agent's log lines.
fn years(node: &Node) -> anyhow::Result<BTreeSet<i32>> {
    let log = node.agent()?.log();
    Ok(log.lines().filter_map(|line| line.get(..4)?.parse().ok()).collect())
}

#[test]
fn addresses_and_remembered_dels_do_not_mind_a_clock_that_jumps() -> anyhow::Result<()> {
    let lab = Lab::builder().podlane_stopped(Binaries::find()?).build()?;
    let node = lab.node(1);
    let (agent, clock) = (node.agent()?, Clock::of(node)?);
    agent.start_and_wait()?;
    let before = state::of(node)?;
    let mut taken = BTreeSet::new();

    attach(node, &["a", "b", "c"], &mut taken)?;
    node.del_pods(&["b"])?;
    clock.jump("-3650d")?;
    attach(node, &["d", "e"], &mut taken)?;
    agent.restart()?;
    attach(node, &["f"], &mut taken)?;
    clock.jump("+3650d")?;
    attach(node, &["g"], &mut taken)?;
    node.del_pods(&["d"])?;

    // Remembered ten years after, and carried out ten years before.
    agent.kill()?;
    node.del_pods(&["e"])?;
    clock.jump("-3650d")?;
    agent.start_and_wait()?;
    ensure!(agent.log().contains("caught_up=1"), "{}", agent.log());
    attach(node, &["h"], &mut taken)?;
    assert_eq!(failures(&ping::ping_pairs(&lab.pod_pairs(), || {})), Vec::<String>::new());

    let years = years(node)?;
    let spans = years.first().zip(years.last()).is_some_and(|(first, last)| last - first >= 19);
    ensure!(spans, "the clock has not jumped: the log is of {years:?}");
    node.del_pods(&["a", "c", "f", "g", "h"])?;
    assert_eq!(state::of(node)?, before);
    Ok(())
}
