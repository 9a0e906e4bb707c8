//! The least that programs at tc can do between pods, in the lab of a contender.

use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, bail};
use aya::EbpfLoader;
use aya::maps::{Array, MapData};
use aya::programs::SchedClassifier;
use aya::programs::tc::TcAttachType;
use dataplane_common::bench::FloorHop;
use nix::net::if_::if_nametoindex;
use podlane_tests::lab::{Namespace, UPLINK};

use crate::forward::mac;

/// Attaches `floor_forward` to a node's uplink and to its pods' host-side interfaces, says so, and keeps it there until
/// standard input ends. Arguments: the namespaces of the node and of its peer; then the pods' IPv4 addresses, the
/// node's own with `=` and their interface.
pub fn hold(arguments: &[String]) -> Result<()> {
    let [node, peer, pods @ ..] = arguments else { bail!("floor NODE PEER ADDRESS[=INTERFACE]…") };
    let (node, peer) = (Namespace::named(node), Namespace::named(peer));
    let mut frame = [0; 12];
    frame[..6].copy_from_slice(&mac(&peer)?);
    frame[6..].copy_from_slice(&mac(&node)?);
    node.run(|| -> Result<()> {
        let mut floors = EbpfLoader::new().load(podlane::datapath::FLOORS)?;
        let mut hops: Array<MapData, FloorHop> =
            floors.take_map("floor_hops").context("no map floor_hops")?.try_into()?;
        let forward: &mut SchedClassifier =
            floors.program_mut("floor_forward").context("no floor_forward")?.try_into()?;
        forward.load()?;
        let mut attach = |interface: &str| {
            let attached = forward.attach(interface, TcAttachType::Ingress);
            attached.map(drop).with_context(|| format!("attaching to {interface}"))
        };
        attach(UPLINK)?;
        for pod in pods {
            let (address, interface) =
                pod.split_once('=').map_or((pod.as_str(), None), |(a, i)| (a, Some(i)));
            let address = u32::from(address.parse::<Ipv4Addr>().with_context(|| pod.clone())?);
            let macs = match interface {
                Some(interface) => {
                    attach(interface)?;
                    [0; 3]
                }
                None => bytemuck::pod_read_unaligned(&frame),
            };
            let ifindex = if_nametoindex(interface.unwrap_or(UPLINK))?;
            hops.set(FloorHop::place(address), FloorHop { address, ifindex, macs }, 0)?;
        }
        println!("attached");
        std::io::stdout().flush()?;
        std::io::stdin().read_to_end(&mut Vec::new())?;
        Ok(())
    })?
}
