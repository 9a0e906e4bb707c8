//! What is asked of a node that forwards frames from its uplink to a pod, without sockets. The answer comes from the bench
//! of the programs, which has the programs that inject frames and count them.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::lab::Namespace;

/// How many of a node's frames are to be forwarded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Forwarding {
    /// Where.
    pub route: Route,
    /// Where in turns with it.
    pub beside: Route,
    /// Frames in a turn.
    pub frames: u32,
    /// In how many turns.
    pub turns: usize,
}

/// A way for frames, and what they say.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Route {
    /// The node that they come from.
    pub from: Namespace,
    /// The node whose uplink they arrive at.
    pub node: Namespace,
    /// The pod that they are for.
    pub pod: Namespace,
    /// Their source.
    pub source: Ipv4Addr,
    /// Their destination: the pod's.
    pub destination: Ipv4Addr,
    /// Who receives them.
    pub receiver: Receiver,
}

/// How frames get from the wire to a pod, when nothing but that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Receiver {
    /// As the kernel and programs at tc have them.
    Stack,
    /// The native XDP program at the uplink.
    Native,
    /// A program in its place that does nothing but send every frame to the pod, without a look at it.
    Floor,
}
