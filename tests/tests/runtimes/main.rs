//! Real container runtimes call the plugin.

mod cri;
mod podman;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use podlane_tests::lab::containerd::{Container, Containerd, quoted};
use podlane_tests::lab::{Namespace, Node};
use podlane_tests::probe::state;
use podlane_tests::{Binaries, Lab};

const PATIENCE: Duration = Duration::from_secs(5);

/// `podlane install-cni`, into other folders than the usual ones.
fn install_into(node: &Node, bin_dir: &Path, conf_dir: &Path) -> anyhow::Result<()> {
    let (podlane, agent) = (Binaries::find()?.podlane, node.agent()?);
    let command = node.command([podlane.as_os_str(), "install-cni".as_ref(), "--run-dir".as_ref()]);
    let command = command.arg(agent.run_dir());
    command.arg("--bin-dir").arg(bin_dir).arg("--conf-dir").arg(conf_dir).read().map(drop)
}

/// The page that is served there, as seen from a namespace.
fn fetch(from: &Namespace, port: SocketAddr) -> anyhow::Result<String> {
    from.run(|| -> anyhow::Result<String> {
        let mut stream = TcpStream::connect_timeout(&port, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, page) = answer.split_once("\r\n\r\n").with_context(|| format!("no page: {answer:?}"))?;
        Ok(page.to_owned())
    })?
    .with_context(|| format!("fetching from {port} in {}", from.name()))
}

/// What an operator does: `podlane install-cni`.
fn install(node: &Node) -> anyhow::Result<String> {
    let (podlane, agent) = (Binaries::find()?.podlane, node.agent()?);
    Ok(format!("{} install-cni --run-dir {} >/dev/null", quoted(&podlane), quoted(&agent.run_dir())))
}

fn address(container: &mut Container<'_>) -> anyhow::Result<String> {
    // It can be entered before its network is there.
    let show = "busybox ip -o -4 addr show eth0 | busybox grep /32";
    let shown = container.wait_for(&["/bin/sh", "-c", show])?;
    let address = shown.split_whitespace().find(|word| word.contains("/32")).context(shown.clone())?;
    Ok(address.replace("/32", ""))
}

fn same(node: &Node, before: &BTreeSet<String>) -> anyhow::Result<()> {
    let after = state::of(node)?;
    ensure!(after == *before, "{:?}", after.symmetric_difference(before).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn containerd_and_runc_make_reach_and_remove_containers() -> anyhow::Result<()> {
    let lab = Lab::builder().nodes(2).podlane(Binaries::find()?).build()?;
    let (one, two) = (lab.node(1), lab.node(2));
    let before = [state::of(one)?, state::of(two)?];
    let (here, there) = (Containerd::start(one)?, Containerd::start(two)?);

    // Bounded, should this process be killed.
    let sleep = ["/bin/sleep", "120"];
    let id = |name: &str| format!("{}-{name}", lab.id());
    let mut a = here.run(&id("a"), &install(one)?, &sleep)?;
    let mut b = here.run(&id("b"), &install(one)?, &sleep)?;
    let mut c = there.run(&id("c"), &install(two)?, &sleep)?;
    let addresses = [address(&mut a)?, address(&mut b)?, address(&mut c)?];
    for from in [&a, &b, &c] {
        for to in &addresses {
            from.exec(&["/bin/ping", "-c", "1", "-W", "2", to])?;
        }
    }
    // The agent knows them by the runtime's names, and dies and comes back under them.
    let (_, body) = one.agent()?.get("/v1/attachments")?;
    ensure!(body.contains(&format!("default-{}", id("a"))), "{body}");
    one.agent()?.kill()?;
    a.exec(&["/bin/ping", "-c", "1", "-W", "2", &addresses[2]])?;
    // A container that is removed meanwhile is cleaned up later.
    b.remove()?;
    one.agent()?.start_and_wait()?;
    c.exec(&["/bin/ping", "-c", "1", "-W", "2", &addresses[0]])?;
    a.remove()?;
    c.remove()?;
    for (node, before) in lab.nodes().iter().zip(&before) {
        same(node, before)?;
    }
    Ok(())
}
