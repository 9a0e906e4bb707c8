//! Agents die and come back under load: not one packet is lost, no connection breaks.

use std::time::{Duration, Instant};

use podlane_tests::lab::Pod;
use podlane_tests::probe::{state, steady::Steady};
use podlane_tests::{Binaries, Lab};

/// Sets how many times an agent is killed.
const ROUNDS_VARIABLE: &str = "PODLANE_RESTARTS";
const PODS_PER_NODE: usize = 11;

#[test]
fn killed_and_restarted_agents_cost_no_packet_and_no_connection() -> anyhow::Result<()> {
    let rounds = std::env::var(ROUNDS_VARIABLE).map_or(Ok(20), |rounds| rounds.parse())?;
    let lab = Lab::builder().nodes(2).podlane(Binaries::find()?).build()?;
    let names: Vec<_> = (1..=PODS_PER_NODE).map(|number| format!("p{number}")).collect();
    for node in lab.nodes() {
        node.add_pods(&names)?;
    }
    let before = lab.nodes().iter().map(state::of).collect::<anyhow::Result<Vec<_>>>()?;

    let (here, there) = (lab.node(1).pods(), lab.node(2).pods());
    let pair = |a: &[Pod], n: usize, b: &[Pod], m: usize| (a[n].clone(), b[m].clone());
    let mut conversations = Vec::new();
    for (client, server) in [
        pair(&here, 0, &here, 1),
        pair(&there, 0, &there, 1),
        pair(&here, 2, &there, 2),
        pair(&there, 3, &here, 3),
        pair(&here, 4, &there, 5),
    ] {
        conversations.push(Steady::udp(&client, &server)?);
        conversations.push(Steady::tcp(&client, &server)?);
    }

    let mut times: Vec<Duration> = Vec::new();
    for round in 0..rounds {
        let agent = lab.node(1 + round % 2).agent()?;
        agent.kill()?;
        let start = Instant::now();
        agent.start_and_wait()?;
        times.push(start.elapsed());
    }
    let (mut sent, mut slowest) = (0, Duration::ZERO);
    for conversation in conversations {
        let seen = conversation.finish()?;
        sent += seen.sent;
        slowest = slowest.max(seen.slowest);
    }
    times.sort_unstable();
    println!(
        "{rounds} restarts, {sent} messages, none lost, the slowest answer after {slowest:?}; ready after {:?} (median), \
         {:?} (slowest)",
        times.get(times.len() / 2).copied().unwrap_or_default(),
        times.last().copied().unwrap_or_default()
    );
    for (node, before) in lab.nodes().iter().zip(before) {
        assert_eq!(state::of(node)?, before, "{}", node.name());
    }
    Ok(())
}
