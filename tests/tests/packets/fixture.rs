//! The loaded programs on a small node of their own: a network namespace with two pods' interfaces and an uplink.

use std::mem::{offset_of, size_of};
use std::net::Ipv4Addr;

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, PerCpuArray, xdp::DevMapHash},
    programs::{ProgramError, SchedClassifier, TcAttachType, TestRun as _, TestRunOptions, Xdp, tc},
};
use aya_ebpf_bindings::bindings::__sk_buff;
use dataplane_common::{
    ALL_PODS, ALL_ROUTES, Counter, FlowEntry, FlowFilter, FlowGate, FlowKey, Hook, Ip4, Ip6, NextHopKind,
    NodeEntry, PodEntry, PodSlot, RouteEntry, RouteKey, RouteSlot, Settings, TunnelEntry, Verdict,
    counter_index, filter_place, pod_slot, route_slot,
};
use nix::sched::{CloneFlags, unshare};
use podlane::datapath::{Features, PostRouting};
use podlane_tests::netfilter;

mod addresses;
mod case;
mod devices;
mod tables;

pub use addresses::*;
pub use case::{Case, From};
use devices::{interface, overlay_device, send_frame};
pub use tables::udp_flow;
use tables::{drain, fill, map, route4};

/// Return codes of XDP programs (`linux/bpf.h`).
const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;
const XDP_REDIRECT: i32 = 4;

/// Return codes of tc programs (`linux/pkt_cls.h`).
const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_SHOT: i32 = 2;
const TC_ACT_REDIRECT: i32 = 7;

/// Where the programs find pods and routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tables {
    /// In the hashes; the slots are empty.
    Hashes,
    /// In the slots; the hashes have nothing but what has no slot.
    Slots,
}

/// With flows through the stack switched on, those are the UDP flows from port 40000 to port 5201 of pod A to pod B, of
/// pod A to the remote pod, and of the remote pod to pod B, in both families.
pub struct Fixture {
    ebpf: Ebpf,
    post_routing: Option<PostRouting>,
    /// Another map layout is being taken over: see `FlowGate::ALL`.
    pub handover: bool,
    /// The second filter is in use, see [`FlowGate::SECOND`].
    pub second_filter: bool,
    gate: Array<MapData, FlowGate>,
    filter: Array<MapData, FlowFilter>,
    flows4: HashMap<MapData, FlowKey<Ip4>, FlowEntry>,
    flows6: HashMap<MapData, FlowKey<Ip6>, FlowEntry>,
    counters: PerCpuArray<MapData, Counter>,
    tunnels: Array<MapData, TunnelEntry>,
    pod_a: u32,
    uplink: u32,
    overlay: u32,
    /// `skb->mark` after the last run.
    mark: u32,
}

impl Fixture {
    /// Runs `work` on a fixture in a network namespace that ends with it.
    pub fn with<T: Send + 'static>(tables: Tables, work: impl FnOnce(&mut Self) -> T + Send + 'static) -> T {
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET)
                .expect("packet tests need root, for a network namespace and BPF");
            work(&mut Self::new(tables))
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    fn new(tables: Tables) -> Self {
        let (pod_a, pod_b) = (interface("pla", HOST_MAC_A), interface("plb", HOST_MAC_B));
        let uplink = interface("uplink", UPLINK_MAC);
        let mut ebpf = podlane::datapath::load_unpinned().unwrap();
        let has_netfilter = Features::probe().unwrap().netfilter;
        let post_routing = has_netfilter.then(|| PostRouting::load(&ebpf).unwrap());

        let entry_a = PodEntry { ifindex: pod_a, mac: MAC_A, host_mac: HOST_MAC_A };
        let entry_b = PodEntry { ifindex: pod_b, mac: MAC_B, host_mac: HOST_MAC_B };
        let mut pods4: HashMap<_, Ip4, PodEntry> = map(&mut ebpf, "pods4");
        pods4.insert(Ip4::from(POD_A), entry_a, 0).unwrap();
        pods4.insert(Ip4::from(POD_B), entry_b, 0).unwrap();
        let mut pods6: HashMap<_, Ip6, PodEntry> = map(&mut ebpf, "pods6");
        pods6.insert(Ip6::from(POD_A6), entry_a, 0).unwrap();
        pods6.insert(Ip6::from(POD_B6), entry_b, 0).unwrap();

        let mut routes4: HashMap<_, RouteKey<Ip4>, RouteEntry> = map(&mut ebpf, "routes4");
        let direct = NextHopKind::Direct4 as u16;
        for (destination, length, kind) in
            [(REMOTE, 24, direct), (REMOTE_LONGER, 28, 77), (REMOTE_UNKNOWN, 24, 77)]
        {
            routes4
                .insert(RouteKey::new(Ip4::from(destination), length), route4(kind, uplink, MTU, PEER), 0)
                .unwrap();
        }
        let overlay = overlay_device();
        let tunnel = RouteEntry {
            mac: OVERLAY_PEER_MAC,
            ..route4(NextHopKind::Tunnel4 as u16, overlay, TUNNEL_MTU, PEER)
        };
        routes4.insert(RouteKey::new(Ip4::from(TUNNELLED), 24), tunnel, 0).unwrap();
        let wrapped = RouteEntry { tunnel: TUNNEL4, ..tunnel };
        let wrapped_by6 = RouteEntry {
            kind: NextHopKind::Tunnel6 as u16,
            next_hop: PEER6.octets(),
            tunnel: TUNNEL6,
            ..tunnel
        };
        let unused = RouteEntry { tunnel: NO_TUNNEL, ..tunnel };
        for (pod, route) in [(WRAPPED, wrapped), (WRAPPED_BY6, wrapped_by6), (UNUSED_TUNNEL, unused)] {
            routes4.insert(RouteKey::new(Ip4::from(pod), 24), route, 0).unwrap();
        }
        let mut tunnels: Array<_, TunnelEntry> = map(&mut ebpf, "tunnels");
        let direct4 = route4(NextHopKind::Direct4 as u16, uplink, 0, ROUTER);
        let by4 = TunnelEntry {
            ifindex: uplink,
            kind: direct4.kind,
            source: route4(0, 0, 0, NODE).next_hop,
            next_hop: direct4.next_hop,
            ..TunnelEntry::default()
        };
        let by6 = TunnelEntry {
            kind: NextHopKind::Direct6 as u16,
            source: NODE6.octets(),
            next_hop: ROUTER6.octets(),
            ..by4
        };
        tunnels.set(u32::from(TUNNEL4), by4, 0).unwrap();
        tunnels.set(u32::from(TUNNEL6), by6, 0).unwrap();

        let mut routes6: HashMap<_, RouteKey<Ip6>, RouteEntry> = map(&mut ebpf, "routes6");
        let route =
            RouteEntry { next_hop: PEER6.octets(), ..route4(NextHopKind::Direct6 as u16, uplink, MTU, PEER) };
        routes6.insert(RouteKey::new(Ip6::from(REMOTE6), 64), route, 0).unwrap();
        for (pod, route) in [(WRAPPED6, wrapped), (WRAPPED_BY6_6, wrapped_by6)] {
            routes6.insert(RouteKey::new(Ip6::from(pod), 64), route, 0).unwrap();
        }

        let (mut all_slots4, mut all_slots6) = (0, 0);
        if tables == Tables::Slots {
            let (pods4, routes4) =
                (drain(&mut pods4, |_| true), drain(&mut routes4, |key| key.prefix_len == 24));
            fill(&mut ebpf, "pod_slots4", pods4, |address, pod| {
                (pod_slot(address), PodSlot { address, pod })
            });
            fill(&mut ebpf, "route_slots4", routes4, |key, route| {
                (route_slot(key.prefix, key.prefix_len), RouteSlot { key, route })
            });
            let (pods6, routes6) = (drain(&mut pods6, |_| true), drain(&mut routes6, |_| true));
            fill(&mut ebpf, "pod_slots6", pods6, |address, pod| {
                (pod_slot(address), PodSlot { address, pod })
            });
            fill(&mut ebpf, "route_slots6", routes6, |key, route| {
                (route_slot(key.prefix, 48), RouteSlot { key, route })
            });
            // The hash still has the /28.
            (all_slots4, all_slots6) = (ALL_PODS, ALL_PODS | ALL_ROUTES);
        }

        let mut nodes4: HashMap<_, Ip4, NodeEntry> = map(&mut ebpf, "nodes4");
        nodes4.insert(Ip4::from(PEER), NodeEntry { tunnel: u32::from(TUNNEL4) }, 0).unwrap();
        let mut nodes6: HashMap<_, Ip6, NodeEntry> = map(&mut ebpf, "nodes6");
        nodes6.insert(Ip6::from(PEER6), NodeEntry { tunnel: u32::from(TUNNEL6) }, 0).unwrap();

        let mut ports: DevMapHash<_> = map(&mut ebpf, "wire_ports");
        ports.insert(pod_a, pod_a, None, 0).unwrap();
        ports.insert(pod_b, pod_b, None, 0).unwrap();

        let mut settings: Array<_, Settings> = map(&mut ebpf, "settings");
        let now = Settings {
            prefix_lens4: [28, 24, 0, 0],
            prefix_lens6: [64, 0, 0, 0],
            slot_prefix_len4: 24,
            slot_bits4: 24,
            slot_prefix_len6: 64,
            slot_bits6: 48,
            all_slots4,
            all_slots6,
            node4: Ip4::from(NODE),
            node6: Ip6::from(NODE6),
            uplink_macs: [UPLINK_MAC, [0; 6]],
        };
        settings.set(0, now, 0).unwrap();

        let gate = map(&mut ebpf, "flow_gate");
        let mut places = Vec::new();
        let mut flows4: HashMap<_, FlowKey<Ip4>, FlowEntry> = map(&mut ebpf, "stack_flows4");
        for (source, destination) in [(POD_A, POD_B), (POD_A, REMOTE), (REMOTE, POD_B)] {
            flows4
                .insert(udp_flow(Ip4::from(source), Ip4::from(destination)), FlowEntry { last_seen: 1 }, 0)
                .unwrap();
            places.push(filter_place(Ip4::from(source), Ip4::from(destination)));
        }
        let mut flows6: HashMap<_, FlowKey<Ip6>, FlowEntry> = map(&mut ebpf, "stack_flows6");
        for (source, destination) in [(POD_A6, POD_B6), (POD_A6, REMOTE6), (REMOTE6, POD_B6)] {
            flows6
                .insert(udp_flow(Ip6::from(source), Ip6::from(destination)), FlowEntry { last_seen: 1 }, 0)
                .unwrap();
            places.push(filter_place(Ip6::from(source), Ip6::from(destination)));
        }
        let mut filter: Array<_, FlowFilter> = map(&mut ebpf, "flow_filter");
        for element in 0..2 {
            let mut marks = filter.get(&element, 0).unwrap();
            places.iter().for_each(|place| marks.places[*place as usize] = 1);
            filter.set(element, marks, 0).unwrap();
        }

        let counters = map(&mut ebpf, "counters");
        Self {
            ebpf,
            post_routing,
            gate,
            filter,
            flows4,
            flows6,
            counters,
            tunnels,
            pod_a,
            uplink,
            overlay,
            mark: 0,
            handover: false,
            second_filter: false,
        }
    }

    /// Runs a case's packet through its program and compares.
    pub fn check(&mut self, case: &Case) -> Result<(), String> {
        let before = self.counter(case.hook, case.verdict);
        let (action, mut output) =
            self.run(case).map_err(|error| format!("{} bytes: {error:?}", case.packet.len()))?;
        let expected_action = match case.verdict {
            Verdict::Pass(_) if case.hook == Hook::PostRouting => netfilter::ACCEPT,
            Verdict::Pass(_) if case.hook == Hook::XdpFromWire => XDP_PASS,
            Verdict::Forwarded(_) if case.hook == Hook::XdpFromWire => XDP_REDIRECT,
            Verdict::Drop(_) if case.hook == Hook::XdpFromWire => XDP_DROP,
            Verdict::Pass(_) => TC_ACT_UNSPEC,
            Verdict::Forwarded(_) => TC_ACT_REDIRECT,
            Verdict::Drop(_) => TC_ACT_SHOT,
        };
        let after = self.counter(case.hook, case.verdict);
        if after.packets != before.packets + 1 {
            let counted: Vec<&str> = Verdict::all()
                .filter(|verdict| self.counter(case.hook, *verdict).packets > 0)
                .map(Verdict::name)
                .collect();
            return Err(format!(
                "not counted as {}; counted so far: {}",
                case.verdict.name(),
                counted.join(", ")
            ));
        }
        let length = u64::try_from(case.packet.len()).unwrap();
        if after.bytes != before.bytes + length {
            return Err(format!("{} bytes counted, not {length}", after.bytes - before.bytes));
        }
        if action != expected_action {
            return Err(format!("action {action}, not {expected_action}"));
        }
        if !matches!(case.hook, Hook::XdpFromWire | Hook::PostRouting) && self.mark != case.expected_mark() {
            return Err(format!("mark {:#x}, not {:#x}", self.mark, case.expected_mark()));
        }
        if let Some(port) = case.any_port_at.and_then(|place| output.get_mut(place..place + 2)) {
            let number = u16::from_be_bytes([port[0], port[1]]);
            if !(32768..61000).contains(&number) {
                return Err(format!("port {number} is not one of those to be taken"));
            }
            port.fill(0);
        }
        if output != case.expected {
            return Err(format!("the packet came out as\n{output:02x?}, not as\n{:02x?}", case.expected));
        }
        Ok(())
    }

    /// The program's return code and the packet afterwards.
    pub fn run(&mut self, case: &Case) -> Result<(i32, Vec<u8>), ProgramError> {
        let state = match (self.handover, case.flows, self.second_filter) {
            (true, _, _) => FlowGate::ALL,
            (false, false, _) => FlowGate::SHUT,
            (false, true, false) => FlowGate::FIRST,
            (false, true, true) => FlowGate::SECOND,
        };
        self.gate.set(0, FlowGate { state }, 0).unwrap();
        if case.hook == Hook::PostRouting {
            let program = self.post_routing.as_ref().unwrap();
            let (action, _) = netfilter::test_run(program.fd(), &case.packet).unwrap();
            return Ok((action, case.packet.clone()));
        }
        let mut output = vec![0; case.packet.len() + 256];
        let options = TestRunOptions {
            data_in: Some(&case.packet),
            data_out: Some(&mut output),
            ..TestRunOptions::default()
        };
        let mut context_out = vec![0; size_of::<__sk_buff>()];
        let result = if case.hook == Hook::XdpFromWire {
            let program: &mut Xdp = self.ebpf.program_mut(case.hook.name()).unwrap().try_into().unwrap();
            program.test_run(options)?
        } else {
            let context = self.context(case);
            // SAFETY: the context's bytes, as the kernel takes them.
            let bytes = unsafe {
                std::slice::from_raw_parts((&raw const context).cast::<u8>(), size_of::<__sk_buff>())
            };
            let program: &mut SchedClassifier =
                self.ebpf.program_mut(case.hook.name()).unwrap().try_into().unwrap();
            program.test_run(TestRunOptions {
                ctx_in: Some(bytes),
                ctx_out: Some(&mut context_out),
                ..options
            })?
        };
        let mark = &context_out[offset_of!(__sk_buff, mark)..][..4];
        self.mark = u32::from_ne_bytes(mark.try_into().unwrap());
        output.truncate(usize::try_from(result.data_size_out).unwrap());
        Ok((result.return_value.cast_signed(), output))
    }

    fn context(&self, case: &Case) -> __sk_buff {
        // SAFETY: plain old data (and pointers that the kernel fills in), for which zero is valid.
        let mut context: __sk_buff = unsafe { std::mem::zeroed() };
        context.ifindex = match case.from {
            From::PodA => self.pod_a,
            From::Wire => self.uplink,
            From::Overlay => self.overlay,
        };
        if let Some(size) = case.gso_size {
            context.gso_size = size;
            context.gso_segs = u32::try_from(case.packet.len()).unwrap().div_ceil(size);
        }
        context.mark = case.mark;
        context
    }

    /// An element of the map of tunnels.
    pub fn tunnel(&self, number: u16) -> TunnelEntry {
        self.tunnels.get(&u32::from(number), 0).unwrap()
    }

    /// Whether the stack's flow of this key has been noted, and the gate opened.
    pub fn has_flow4(&self, key: &FlowKey<Ip4>) -> bool {
        self.flows4.get(key, 0).is_ok() && self.gate.get(&0, 0).unwrap().state == FlowGate::FIRST
    }

    /// Whether the programs look for flows of these pods, by the first filter and by the second.
    pub fn is_marked(&self, source: Ipv4Addr, destination: Ipv4Addr) -> [bool; 2] {
        let place = filter_place(Ip4::from(source), Ip4::from(destination)) as usize;
        [0, 1].map(|element| self.filter.get(&element, 0).unwrap().places[place] != 0)
    }

    /// Takes the marks of these pods out of one filter.
    pub fn unmark(&mut self, element: u32, source: Ipv4Addr, destination: Ipv4Addr) {
        let place = filter_place(Ip4::from(source), Ip4::from(destination)) as usize;
        let mut marks = self.filter.get(&element, 0).unwrap();
        marks.places[place] = 0;
        self.filter.set(element, marks, 0).unwrap();
    }

    /// When a packet of that flow was last seen; `None` where it has not been noted.
    pub fn last_seen4(&self, key: &FlowKey<Ip4>) -> Option<u64> {
        Some(self.flows4.get(key, 0).ok()?.last_seen)
    }

    /// As [`Self::has_flow4`].
    pub fn has_flow6(&self, key: &FlowKey<Ip6>) -> bool {
        self.flows6.get(key, 0).is_ok() && self.gate.get(&0, 0).unwrap().state == FlowGate::FIRST
    }

    /// Attaches a program to the real interface, for [`Self::send`].
    pub fn attach(&mut self, hook: Hook, from: From) {
        let program: &mut SchedClassifier = self.ebpf.program_mut(hook.name()).unwrap().try_into().unwrap();
        // Before Linux 6.6 it goes to a clsact qdisc; where it is there already, or not needed, this does nothing.
        tc::qdisc_add_clsact(from.interface()).ok();
        program.attach(from.interface(), TcAttachType::Ingress).unwrap();
    }

    /// Sends a frame through the real interface that the program is attached to, and returns the verdicts counted.
    ///
    /// # Errors
    /// The kernel's, where it refuses to send a frame.
    pub fn send(&mut self, hook: Hook, from: From, frame: &[u8]) -> std::io::Result<Vec<&'static str>> {
        // What comes out of the overlay has gone in at the uplink.
        let sender = if from == From::Overlay { From::Wire } else { from };
        let before = self.verdicts(hook);
        let sent = send_frame(&format!("{}-peer", sender.interface()), frame);
        let mut counted = Vec::new();
        if sent.is_ok() {
            // The receiving side runs in a softirq, usually before the call returns.
            for _ in 0..1000 {
                let after = self.verdicts(hook);
                counted = after
                    .iter()
                    .zip(&before)
                    .filter(|(now, then)| now.1 > then.1)
                    .map(|(now, _)| now.0)
                    .collect();
                if !counted.is_empty() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        sent.map(|()| counted)
    }

    fn verdicts(&self, hook: Hook) -> Vec<(&'static str, u64)> {
        Verdict::all().map(|verdict| (verdict.name(), self.counter(hook, verdict).packets)).collect()
    }

    fn counter(&self, hook: Hook, verdict: Verdict) -> Counter {
        let values = self.counters.get(&counter_index(hook, verdict), 0).unwrap();
        values.iter().fold(Counter::default(), |sum, value| Counter {
            packets: sum.packets + value.packets,
            bytes: sum.bytes + value.bytes,
        })
    }
}
