//! The agent is killed in the middle of its work: nothing leaks, and what it knows is what the runtime believes.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use podlane_tests::lab::{Agent, Node, Pod};
use podlane_tests::probe::{failures, ping, state};
use podlane_tests::{Binaries, Lab};

/// Sets how many kills at random moments there are: hundreds find what a few cannot.
const ROUNDS_VARIABLE: &str = "PODLANE_KILL_ROUNDS";
/// More steps than any command has.
const MOST_STEPS: u32 = 100;

/// The node's state, without what the kernel tells about a carrier a little later.
fn state_of(node: &Node) -> anyhow::Result<BTreeSet<String>> {
    Ok(state::of(node)?.into_iter().map(|line| line.replace(" linkdown", "")).collect())
}

/// A node with little room, so that a lost lease is missed, and one pod that must notice nothing.
struct Scene {
    lab: Lab,
    bystander: Pod,
    before: BTreeSet<String>,
}

impl Scene {
    fn set() -> anyhow::Result<Self> {
        let cidrs = ["10.244.1.0/29".parse()?, "fd00:244:1::/64".parse()?];
        let lab = Lab::builder().ipv6(true).pod_cidrs(1, cidrs).podlane(Binaries::find()?).build()?;
        let bystander = lab.node(1).add_pod("bystander")?;
        let before = state_of(lab.node(1))?;
        Ok(Self { lab, bystander, before })
    }

    fn node(&self) -> &Node {
        self.lab.node(1)
    }

    fn agent(&self) -> anyhow::Result<&Agent> {
        self.node().agent()
    }

    /// The agent dies at the `n`th step from now.
    fn arm(&self, n: u32) -> anyhow::Result<()> {
        Ok(fs_err::write(self.agent()?.run_dir().join("failpoint"), n.to_string())?)
    }

    /// Whether the agent died; then it is running again. If it did not, there are no more steps.
    fn revive(&self) -> anyhow::Result<bool> {
        let failpoint = self.agent()?.run_dir().join("failpoint");
        if failpoint.exists() {
            fs_err::remove_file(failpoint)?;
            return Ok(false);
        }
        self.agent()?.wait_exit()?;
        self.agent()?.start_and_wait()?;
        Ok(true)
    }

    /// The bystander is the only pod, for every part of the system.
    fn assert_as_before(&self, what: &str) -> anyhow::Result<()> {
        let after = state_of(self.node())?;
        let log = || self.agent().map(Agent::log).unwrap_or_default();
        ensure!(
            after == self.before,
            "{what}: lost {:?}, left behind {:?}; the agent's log:\n{}",
            self.before.difference(&after).collect::<Vec<_>>(),
            after.difference(&self.before).collect::<Vec<_>>(),
            log()
        );
        let (_, body) = self.agent()?.get("/v1/attachments")?;
        let records: serde_json::Value = serde_json::from_str(&body)?;
        let known: Vec<_> =
            records.as_array().into_iter().flatten().filter_map(|r| r["containerID"].as_str()).collect();
        ensure!(known == [self.bystander.container_id()], "{what}: the agent knows {known:?}");
        Ok(())
    }

    /// Every address but the bystander's can be given.
    fn assert_no_lease_lost(&self) -> anyhow::Result<()> {
        let names = ["a", "b", "c", "d"];
        self.node().add_pods(&names)?;
        assert_eq!(failures(&ping::ping_pairs(&self.lab.pod_pairs(), || {})), Vec::<String>::new());
        self.node().del_pods(&names)
    }
}

/// A runtime's answers to an ADD that failed.
#[derive(Clone, Copy, Debug)]
enum Reaction {
    Del,
    /// It tries the same ADD once more, and deletes the pod later.
    AddAgainThenDel,
    /// Its DEL has an empty `CNI_NETNS`, as the namespace is gone already.
    DelWithoutNamespace,
}

const REACTIONS: [Reaction; 3] = [Reaction::Del, Reaction::AddAgainThenDel, Reaction::DelWithoutNamespace];

fn react(scene: &Scene, reaction: Reaction, sandbox: &podlane_tests::lab::Sandbox) -> anyhow::Result<()> {
    let node = scene.node();
    let del = node.call("DEL", "x", sandbox)?;
    match reaction {
        Reaction::Del => {
            del.make()?.success()?;
            sandbox.namespace.delete()
        }
        Reaction::AddAgainThenDel => {
            let result = node.call("ADD", "x", sandbox)?.make()?.result()?;
            ping::ping(&sandbox.namespace, scene.bystander.address())
                .with_context(|| format!("{result:?}"))?;
            del.make()?.success()?;
            sandbox.namespace.delete()
        }
        Reaction::DelWithoutNamespace => {
            sandbox.namespace.delete()?;
            del.with("CNI_NETNS", "").make()?.success().map(|_| ())
        }
    }
}

#[test]
fn an_agent_killed_at_any_step_of_add_leaves_nothing() -> anyhow::Result<()> {
    let scene = Scene::set()?;
    let mut steps = 0;
    for (n, reaction) in (1..MOST_STEPS).zip(REACTIONS.into_iter().cycle()) {
        let sandbox = scene.node().make_sandbox(&format!("add{n}"))?;
        scene.arm(n)?;
        let answer = scene.node().call("ADD", "x", &sandbox)?.make()?;
        let died = scene.revive()?;
        let what = format!("ADD, killed at step {n}, then {reaction:?}");
        if died {
            let failure = answer.failure()?;
            ensure!(failure.code == 11, "{what}: {failure:?}");
        } else {
            answer.success()?;
        }
        react(&scene, reaction, &sandbox).context(what.clone())?;
        scene.assert_as_before(&what)?;
        if !died {
            break;
        }
        steps = n;
    }
    println!("killed at each of {steps} steps of ADD");
    assert!(steps > 10 && steps + 2 < MOST_STEPS, "{steps} steps");
    scene.assert_no_lease_lost()
}

#[test]
fn an_agent_killed_at_any_step_of_del_leaves_nothing() -> anyhow::Result<()> {
    let scene = Scene::set()?;
    let mut steps = 0;
    for n in 1..MOST_STEPS {
        let sandbox = scene.node().make_sandbox(&format!("del{n}"))?;
        scene.node().call("ADD", "x", &sandbox)?.make()?.success()?;
        let del = scene.node().call("DEL", "x", &sandbox)?;
        scene.arm(n)?;
        let answer = del.make()?;
        let died = scene.revive()?;
        let what = format!("DEL, killed at step {n}");
        if answer.0.code != Some(0) {
            ensure!(died, "{what}: {answer:?}");
            // A runtime repeats a DEL that failed.
            del.make()?.success().context(what.clone())?;
        }
        sandbox.namespace.delete()?;
        scene.assert_as_before(&what)?;
        if !died {
            break;
        }
        steps = n;
    }
    println!("killed at each of {steps} steps of DEL");
    assert!(steps > 4 && steps + 2 < MOST_STEPS, "{steps} steps");
    scene.assert_no_lease_lost()
}

#[test]
fn an_agent_killed_at_any_step_of_starting_leaves_nothing() -> anyhow::Result<()> {
    let scene = Scene::set()?;
    let agent = scene.agent()?;
    for n in 1..MOST_STEPS {
        // One attachment half made, one whose pod is gone.
        let half = scene.node().make_sandbox(&format!("half{n}"))?;
        let gone = scene.node().make_sandbox(&format!("gone{n}"))?;
        scene.node().call("ADD", "gone", &gone)?.make()?.success()?;
        scene.arm(9)?;
        scene.node().call("ADD", "half", &half)?.make()?.failure()?;
        agent.wait_exit()?;
        gone.namespace.delete()?;
        scene.arm(n)?;
        agent.start()?;
        let failpoint = agent.run_dir().join("failpoint");
        let died = loop {
            if !failpoint.exists() {
                break true;
            }
            if agent.get("/healthz").is_ok_and(|(status, _)| status == 200) {
                break false;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        scene.revive()?;
        for sandbox in [&half, &gone] {
            scene.node().call("DEL", "x", sandbox)?.make()?.success()?;
        }
        half.namespace.delete()?;
        scene.assert_as_before(&format!("killed at step {n} of starting"))?;
        if !died {
            println!("killed at each of {} steps of starting", n - 1);
            assert!(n > 10, "{n} steps");
            break;
        }
    }
    scene.assert_no_lease_lost()
}

#[test]
fn an_agent_killed_at_random_moments_leaves_nothing() -> anyhow::Result<()> {
    let rounds = std::env::var(ROUNDS_VARIABLE).map_or(Ok(12), |rounds| rounds.parse())?;
    let scene = Scene::set()?;
    // How long the pair takes here, so that the moments are spread over it.
    let sandbox = scene.node().make_sandbox("clock")?;
    let start = Instant::now();
    let pair = ["ADD", "DEL"];
    for command in pair {
        scene.node().call(command, "x", &sandbox)?.make()?.success()?;
    }
    let span = start.elapsed();
    sandbox.namespace.delete()?;

    for round in 0..rounds {
        let sandbox = scene.node().make_sandbox(&format!("r{round}"))?;
        let moment = span.mul_f64(f64::from(round) / f64::from(rounds.max(1)));
        let agent = scene.agent()?;
        std::thread::scope(|scope| -> anyhow::Result<()> {
            let killer = scope.spawn(move || {
                std::thread::sleep(moment);
                agent.kill()
            });
            for command in pair {
                // Whether it worked is a matter of luck.
                scene.node().call(command, "x", &sandbox)?.make()?;
            }
            killer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        agent.start_and_wait()?;
        let what = format!("round {round}, killed after {moment:?}");
        react(&scene, REACTIONS[usize::try_from(round)? % 3], &sandbox).context(what.clone())?;
        scene.assert_as_before(&what)?;
    }
    scene.assert_no_lease_lost()
}
