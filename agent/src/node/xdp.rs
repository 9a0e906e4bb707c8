//! XDP at the uplinks.

use std::collections::BTreeMap;

use super::{NodeTask, ledger::Ledger};
use crate::{datapath::XdpMode, netlink::Link};

impl NodeTask {
    /// Attaches `xdp_from_wire` to the uplinks in the mode that is set, once for each device. Returns what went wrong:
    /// tc's `from_wire` does the work there.
    pub(super) fn attach_xdp(&mut self, uplinks: &[Link], ledger: &mut Ledger) -> Vec<String> {
        let mode = self.datapath.xdp_mode();
        let mut problems = Vec::new();
        let mut attached = BTreeMap::new();
        for uplink in uplinks {
            let found = self.memory.xdp.get(&uplink.name) == Some(&uplink.index)
                && (mode == XdpMode::Off
                    || self.datapath.is_xdp_attached(&uplink.name).unwrap_or_else(|error| {
                        problems.push(format!("{error:#}"));
                        true
                    }));
            if !found && let Err(error) = self.datapath.attach_xdp(&uplink.name) {
                problems.push(format!("{error:#}: {}; tc does its work meanwhile", way_out(mode)));
                continue;
            }
            if mode != XdpMode::Off {
                let thing = format!("the XDP program on {} (index {})", uplink.name, uplink.index);
                ledger.keep(thing, found, "attached again");
            }
            attached.insert(uplink.name.clone(), uplink.index);
        }
        self.memory.xdp = attached;
        problems
    }
}

const fn way_out(mode: XdpMode) -> &'static str {
    match mode {
        XdpMode::Native => "where the driver has no XDP, set xdp to generic or off",
        XdpMode::Generic | XdpMode::Off => "set xdp to off",
    }
}
