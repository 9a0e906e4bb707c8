//! The limit: nothing but one veth pair between the two ends.

use anyhow::Result;

use super::{Endpoint, node_endpoint};
use crate::lab::{Builder, Lab};

/// The cable between the nodes has the cost of finished checksums, as every contender's across nodes; a veth pair
/// between two pods does not, so the same node has a pair of its own.
pub(super) fn build(lab: Builder) -> Result<(Lab, [Endpoint; 3])> {
    let lab = lab.build()?;
    let (one, other) = (lab.node(1).make_sandbox("client")?, lab.node(1).make_sandbox("server")?);
    one.namespace
        .ip(&[format!("link add eth0 type veth peer name eth0 netns {}", other.namespace.name())])?;
    let ends = [(one, 1), (other, 2)].map(|(sandbox, host)| -> Result<Endpoint> {
        let addresses = [format!("10.244.1.{host}"), format!("fd00:244:1::{host}")];
        sandbox.namespace.ip(&[
            format!("address add {}/24 dev eth0", addresses[0]),
            format!("address add {}/64 dev eth0 nodad", addresses[1]),
            "link set eth0 up".to_owned(),
        ])?;
        let addresses = addresses.iter().map(|address| address.parse()).collect::<Result<_, _>>()?;
        Ok(Endpoint { namespace: sandbox.namespace, addresses })
    });
    let [client, server] = ends;
    let far = node_endpoint(lab.node(2));
    Ok((lab, [client?, server?, far]))
}
