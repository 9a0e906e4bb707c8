//! The ways through the programs, and what must become of the packets.

use dataplane_common::{Forwarded, Hook, MARK_FORWARDED, PassReason, Verdict};
use podlane_tests::netfilter;

/// How much a node has to do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub flows: u32,
    pub pods: u32,
    pub nodes: u32,
}

/// Where packets come from or go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The local pod whose interface the packets come in at.
    Client,
    /// The local pods, one after the other.
    LocalPods,
    /// A pod on each peer node, one after the other.
    RemotePods,
    /// A pod of a peer node behind the overlay.
    TunnelledPod,
    /// Something that is no pod.
    Outside,
}

/// What a program gets to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// The same packet again and again, written anew each time.
    Restored,
    /// The same, as the overlay device has received it.
    FromOverlay,
    /// A new packet each time: where the program changes its length, or can be called from no other.
    New,
    /// The same, in the overlay's headers.
    NewWrapped,
}

/// Where the kernel runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tc,
    Xdp,
    Netfilter,
}

impl Kind {
    /// The program that only returns. The kernel times a program of netfilter as one at tc.
    pub const fn empty(self) -> &'static str {
        match self {
            Self::Tc | Self::Netfilter => "floor_return",
            Self::Xdp => "floor_pass",
        }
    }

    /// What a program returns that leaves its packets to the kernel: `TC_ACT_UNSPEC`, `XDP_PASS`, `NF_ACCEPT`.
    pub const fn pass(self) -> i32 {
        match self {
            Self::Tc => -1,
            Self::Xdp => 2,
            Self::Netfilter => netfilter::ACCEPT,
        }
    }

    /// `TC_ACT_REDIRECT`, `XDP_REDIRECT`; programs of netfilter do not.
    const fn redirect(self) -> i32 {
        match self {
            Self::Tc => 7,
            Self::Xdp => 4,
            Self::Netfilter => self.pass(),
        }
    }
}

/// A way through a program.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    pub program: &'static str,
    pub name: &'static str,
    pub kind: Kind,
    pub from: End,
    pub to: End,
    pub ipv6: bool,
    pub given: Given,
    /// The packets' mark.
    pub mark: u32,
    /// Whether there are flows through the kernel's stack, though none of these.
    pub stack_flows: bool,
    /// The return code.
    pub action: i32,
    /// What our own programs count.
    pub counted: Option<(Hook, Verdict)>,
    /// Whether it is one of those that have targets.
    pub has_target: bool,
}

impl Path {
    const fn new(kind: Kind, program: &'static str, name: &'static str, from: End, to: End) -> Self {
        Self {
            program,
            name,
            kind,
            from,
            to,
            ipv6: false,
            given: Given::Restored,
            mark: 0,
            stack_flows: false,
            action: kind.redirect(),
            counted: None,
            has_target: false,
        }
    }

    const fn ours(hook: Hook, name: &'static str, from: End, to: End, verdict: Verdict) -> Self {
        let kind = match hook {
            Hook::XdpFromWire => Kind::Xdp,
            Hook::PostRouting => Kind::Netfilter,
            _ => Kind::Tc,
        };
        let action = if matches!(verdict, Verdict::Forwarded(_)) { kind.redirect() } else { kind.pass() };
        Self { action, counted: Some((hook, verdict)), ..Self::new(kind, hook.name(), name, from, to) }
    }

    const fn ipv6(self) -> Self {
        Self { ipv6: true, has_target: false, ..self }
    }

    const fn given(self, given: Given) -> Self {
        Self { given, ..self }
    }

    const fn with_stack_flows(self, name: &'static str) -> Self {
        Self { name, stack_flows: true, has_target: false, ..self }
    }

    /// What the programs at ingress have forwarded: left alone.
    const fn forwarded(hook: Hook) -> Self {
        let path = Self::ours(hook, "forwarded", Client, RemotePods, PASS);
        Self { mark: MARK_FORWARDED, counted: None, ..path }
    }

    const fn with_target(self) -> Self {
        Self { has_target: true, ..self }
    }
}

use End::{Client, LocalPods, Outside, RemotePods, TunnelledPod};
use Hook::{FromOverlay, FromPod, FromWire, PostRouting, ToPod, ToWire, XdpFromWire};

const TO_POD: Verdict = Verdict::Forwarded(Forwarded::ToPod);
const TO_PEER: Verdict = Verdict::Forwarded(Forwarded::ToPeer);
const TO_TUNNEL: Verdict = Verdict::Forwarded(Forwarded::ToTunnel);
const PASS: Verdict = Verdict::Pass(PassReason::NotPod);
const NOTED: Verdict = Verdict::Pass(PassReason::Noted);

const FROM_POD: [Path; 3] = [
    Path::ours(FromPod, "to-local-pod", Client, LocalPods, TO_POD).with_target(),
    Path::ours(FromPod, "to-peer", Client, RemotePods, TO_PEER).with_target(),
    Path::ours(FromPod, "pass", Client, Outside, PASS),
];
const FROM_WIRE: [Path; 2] = [
    Path::ours(FromWire, "to-local-pod", RemotePods, LocalPods, TO_POD).with_target(),
    Path::ours(FromWire, "pass", Outside, Outside, PASS),
];
const XDP: [Path; 2] = [
    Path::ours(XdpFromWire, "to-local-pod", RemotePods, LocalPods, TO_POD),
    Path::ours(XdpFromWire, "pass", Outside, Outside, PASS),
];
const FROM_TUNNEL: &str = "from-tunnel";

/// Every way that is measured; a program that only returns is subtracted from each.
pub const PATHS: [Path; 33] = [
    FROM_POD[0],
    FROM_POD[1],
    FROM_POD[2],
    FROM_POD[0].with_stack_flows("to-local-pod-beside-stack-flows"),
    FROM_POD[1].with_stack_flows("to-peer-beside-stack-flows"),
    Path::ours(FromPod, "to-tunnel", Client, TunnelledPod, TO_TUNNEL).given(Given::New),
    FROM_POD[0].ipv6(),
    FROM_POD[1].ipv6(),
    FROM_POD[2].ipv6(),
    FROM_WIRE[0],
    FROM_WIRE[1],
    FROM_WIRE[0].with_stack_flows("to-local-pod-beside-stack-flows"),
    Path::ours(FromWire, FROM_TUNNEL, RemotePods, LocalPods, TO_POD).given(Given::NewWrapped),
    FROM_WIRE[0].ipv6(),
    FROM_WIRE[1].ipv6(),
    Path::ours(FromOverlay, "to-local-pod", RemotePods, LocalPods, TO_POD).given(Given::FromOverlay),
    XDP[0],
    XDP[1],
    Path::ours(XdpFromWire, FROM_TUNNEL, RemotePods, LocalPods, TO_POD).given(Given::NewWrapped),
    XDP[0].ipv6(),
    XDP[1].ipv6(),
    Path::ours(PostRouting, "pass", Client, Outside, PASS).given(Given::New),
    Path::ours(PostRouting, "note", Client, RemotePods, NOTED).given(Given::New),
    Path::forwarded(ToWire),
    Path::ours(ToWire, "pass", Client, Outside, PASS),
    Path::ours(ToWire, "note", Client, RemotePods, NOTED),
    Path::forwarded(ToPod),
    Path::ours(ToPod, "pass", Outside, LocalPods, PASS),
    Path::new(Kind::Tc, "floor_lookup", "to-local-pod", Client, LocalPods),
    Path::new(Kind::Tc, "floor_fib", "to-peer", Client, RemotePods),
    Path { action: Kind::Tc.pass(), ..Path::new(Kind::Tc, "floor_wrap", "to-tunnel", Client, TunnelledPod) }
        .given(Given::New),
    Path {
        action: Kind::Tc.pass(),
        ..Path::new(Kind::Tc, "floor_unwrap", FROM_TUNNEL, RemotePods, LocalPods)
    }
    .given(Given::NewWrapped),
    Path::new(Kind::Xdp, "floor_redirect", "to-local-pod", RemotePods, LocalPods),
];
