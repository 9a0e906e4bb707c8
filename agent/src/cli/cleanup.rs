//! `podlane cleanup`: everything that Podlane has put on this node, taken away again.

use std::{os::unix::net::UnixStream, path::Path, process::ExitCode};

use anyhow::{Context as _, bail};
use clap::Args;
use ipnetwork::IpNetwork;

use super::Places;
use crate::{
    api::SOCKET_NAME,
    datapath,
    netlink::Netlink,
    node::{NodeFile, OVERLAY_DEVICE, remove_masquerade},
    pods::{GIVEN_FILE, PENDING_DELETES_DIR, RECORDS_DIR, is_host_interface},
    rcu,
};

#[derive(Debug, Args)]
pub(super) struct CleanupArgs {
    #[command(flatten)]
    places: Places,
}

pub(super) fn run(args: &CleanupArgs) -> anyhow::Result<ExitCode> {
    let socket = args.places.run_dir.join(SOCKET_NAME);
    if UnixStream::connect(&socket).is_ok() {
        bail!("an agent is running (it answers at {}): stop it first", socket.display());
    }
    for what in super::block_on(clean(&args.places))? {
        println!("removed {what}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns what was removed, in words. What is already gone is no error, so that it can be run again.
async fn clean(places: &Places) -> anyhow::Result<Vec<String>> {
    let netlink = Netlink::new()?;
    let file = NodeFile::read(&places.run_dir)?;
    let mut removed = Vec::new();
    // Also undoes what a killed agent has left of it.
    rcu::prepare(&places.run_dir, true);
    let short_waits = rcu::expedite();

    let uplinks: Vec<String> = file.uplinks.iter().cloned().collect();
    removed.extend(datapath::remove(&places.bpf_dir, &uplinks)?);

    let links = netlink.links().await?;
    for link in &links {
        if is_host_interface(&link.name) && link.kind.as_deref() == Some("veth") {
            netlink.delete_link(link.index).await?;
            removed.push(format!(
                "interface {} ({})",
                link.name,
                link.alias.as_deref().unwrap_or("no pod named")
            ));
        }
    }
    if let Some(overlay) = links.iter().find(|link| link.name == OVERLAY_DEVICE && link.vxlan.is_some()) {
        netlink.delete_link(overlay.index).await?;
        removed.push(format!("interface {OVERLAY_DEVICE}"));
    }
    for rule in netlink.rules().await? {
        netlink.delete_rule(rule).await?;
        removed.push(format!("routing rule {rule}"));
    }
    if remove_masquerade().await? {
        removed.push("nftables table inet podlane".to_owned());
    }
    for route in netlink.routes().await? {
        netlink.delete_route(&route).await?;
        removed.push(format!("route {route}"));
    }
    if let Some(lo) = links.iter().find(|link| link.loopback) {
        for gateway in &file.gateways {
            netlink.delete_address(lo.index, IpNetwork::from(*gateway)).await?;
            removed.push(format!("address {gateway} of {}", lo.name));
        }
    }
    drop(short_waits);
    removed.extend(remove_run_dir(&places.run_dir)?);
    Ok(removed)
}

/// Removes what the agent writes there, and the folder if nothing else is in it.
fn remove_run_dir(run_dir: &Path) -> anyhow::Result<Vec<String>> {
    if !run_dir.exists() {
        return Ok(Vec::new());
    }
    for folder in [RECORDS_DIR, PENDING_DELETES_DIR] {
        let folder = run_dir.join(folder);
        if folder.exists() {
            fs_err::remove_dir_all(&folder).context("removing the attachment records")?;
        }
    }
    NodeFile::remove(run_dir)?;
    for (file, what) in [(SOCKET_NAME, "the socket"), (GIVEN_FILE, "the addresses given last")] {
        let path = run_dir.join(file);
        if path.exists() {
            fs_err::remove_file(&path).with_context(|| format!("removing {what}"))?;
        }
    }
    // It may hold the cluster or config file of a lab: those are not ours.
    if fs_err::read_dir(run_dir)?.next().is_none() {
        fs_err::remove_dir(run_dir).context("removing runDir")?;
    }
    Ok(vec![format!("the agent's files in {}", run_dir.display())])
}
