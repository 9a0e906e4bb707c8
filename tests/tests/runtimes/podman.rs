//! podman with its CNI backend.

use anyhow::{Context as _, ensure};
use podlane_tests::lab::Node;
use podlane_tests::lab::podman::Podman;
use podlane_tests::probe::{ping, state};
use podlane_tests::{Binaries, Lab};

const HOST_PORT: u16 = 8080;

fn podman(node: &Node) -> anyhow::Result<Podman> {
    let podman = Podman::prepare(node)?;
    super::install_into(node, &podman.cni_bin_dir(), &podman.cni_conf_dir())?;
    Ok(podman)
}

fn address(podman: &Podman, name: &str) -> anyhow::Result<String> {
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    Ok(podman.run(["inspect", "--format", format, name]).read()?.trim().to_owned())
}

#[test]
fn podman_makes_reaches_and_removes_containers() -> anyhow::Result<()> {
    let lab = Lab::builder().nodes(2).podlane(Binaries::find()?).build()?;
    let (one, two) = (lab.node(1), lab.node(2));
    let before = [state::of(one)?, state::of(two)?];
    let (here, there) = (podman(one)?, podman(two)?);

    let name = |short: &str| format!("{}-{short}", lab.id());
    let (a, b, c) = (name("a"), name("b"), name("c"));
    here.start(&a, &["--publish", &format!("{HOST_PORT}:80")])?;
    here.start(&b, &[])?;
    there.start(&c, &[])?;
    let addresses = [address(&here, &a)?, address(&here, &b)?, address(&there, &c)?];
    for (podman, from) in [(&here, &a), (&here, &b), (&there, &c)] {
        for to in &addresses {
            podman.exec(from, &["/bin/ping", "-c", "1", "-W", "2", to])?;
        }
    }
    ping::ping(two.namespace(), addresses[0].parse()?)?;
    // A published port is portmap's work, later in the chain.
    let serve = "mkdir -p /tmp/www && echo goods >/tmp/www/index.html && httpd -p 80 -h /tmp/www";
    here.exec(&a, &["/bin/sh", "-c", serve])?;
    let port = (one.addresses().next().context("no address")?, HOST_PORT).into();
    ensure!(super::fetch(two.namespace(), port)? == "goods\n");

    // A container that is restarted is another attachment of the same container.
    here.run(["restart", "--time", "0", &b]).read()?;
    let again = address(&here, &b)?;
    there.exec(&c, &["/bin/ping", "-c", "1", "-W", "2", &again])?;
    for (podman, container) in [(&here, &a), (&here, &b), (&there, &c)] {
        podman.remove(container)?;
    }
    for (node, before) in lab.nodes().iter().zip(&before) {
        super::same(node, before)?;
    }
    Ok(())
}
