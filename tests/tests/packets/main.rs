//! Packets in, packets out: the programs as the kernel runs them (`BPF_PROG_TEST_RUN`), by tables.
//!
//! Each case asserts the return code, the verdict that was counted, and every byte of the packet that comes out: TTL,
//! checksum and MAC addresses are part of that.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test's helpers stop at the first thing that is not as expected"
)]

mod fixture;
mod flow_filter;
mod from_pod;
mod from_wire;
mod overlay;
mod packet;
mod path_mtu;
mod to_wire;
mod truncated;
mod wrap;

use std::collections::BTreeSet;

use dataplane_common::{DropReason, Hook, PassReason, Verdict};
use fixture::{Case, Fixture, Tables};
use podlane::datapath::Features;

/// Runs a table, each case by its name, with pods and routes in the hashes and then in the slots only.
fn run(cases: fn() -> Vec<Case>) {
    for tables in [Tables::Hashes, Tables::Slots] {
        Fixture::with(tables, move |fixture| {
            fixture.second_filter = tables == Tables::Slots;
            let mut failures = Vec::new();
            for case in cases() {
                if let Err(failure) = fixture.check(&case) {
                    failures.push(format!("{} ({}): {failure}", case.name, case.hook.name()));
                }
            }
            assert!(failures.is_empty(), "{tables:?}: {}", failures.join("\n"));
        });
    }
}

#[test]
fn from_pod_does_what_its_table_says() {
    run(from_pod::cases);
}

#[test]
fn from_pod_wraps_what_goes_into_the_overlay() {
    run(wrap::cases);
}

#[test]
fn from_wire_does_what_its_tables_say() {
    run(|| from_wire::cases().into_iter().chain(path_mtu::cases()).collect());
}

#[test]
fn from_wire_unwraps_what_comes_by_the_overlay() {
    run(overlay::wire_cases);
}

/// Whether there can be XDP's program; says so where there cannot.
fn has_xdp() -> bool {
    let features = Features::probe().unwrap();
    if !features.xdp {
        println!("skipped: XDP: the program needs Linux 5.18, this is {}", features.kernel);
    }
    features.xdp
}

/// Whether there can be programs of netfilter; says so where there cannot.
fn has_netfilter() -> bool {
    let features = Features::probe().unwrap();
    if !features.netfilter {
        println!("skipped: netfilter: programs need Linux 6.4, this is {}", features.kernel);
    }
    // tcx is newer; Debian's kernels have both.
    assert!(features.netfilter || !features.tcx, "a kernel with tcx has no programs at netfilter");
    features.netfilter
}

/// What `from_wire` decides, XDP decides as well, before there is an skb; but the rare ICMP errors that it would forward,
/// XDP leaves to it.
#[test]
fn xdp_from_wire_does_what_its_tables_say() {
    fn cases() -> Vec<Case> {
        let as_xdp = |case: Case| match case.verdict {
            Verdict::Forwarded(_) if case.name.starts_with("an error about") => Case {
                hook: Hook::XdpFromWire,
                verdict: Verdict::Pass(PassReason::NotFromPod),
                expected: case.packet.clone(),
                ..case
            },
            _ => Case { hook: Hook::XdpFromWire, ..case },
        };
        from_wire::cases().into_iter().map(as_xdp).chain(overlay::xdp_cases()).collect()
    }
    if has_xdp() {
        run(cases);
    }
}

#[test]
fn to_pod_and_to_wire_do_what_their_table_says() {
    run(to_wire::cases);
}

#[test]
fn post_routing_does_what_its_table_says() {
    if has_netfilter() {
        run(to_wire::netfilter_cases);
    }
}

#[test]
fn while_another_map_layout_is_taken_over_everything_between_pods_takes_the_kernels_path() {
    Fixture::with(Tables::Slots, |fixture| {
        fixture.handover = true;
        let as_xdp = |case: Case| Case { hook: Hook::XdpFromWire, ..case };
        let xdp = if has_xdp() { from_wire::cases() } else { Vec::new() };
        let cases = from_pod::cases().into_iter().chain(from_wire::cases());
        let cases = cases.chain(xdp.into_iter().map(as_xdp));
        let mut failures = Vec::new();
        let mut count = 0;
        for case in cases.filter(|case| matches!(case.verdict, Verdict::Forwarded(_))) {
            // A router's error is not from a pod, but forwarded where it is about the fast path.
            let foreign = case.hook != Hook::FromPod && case.name.starts_with("an error about");
            let reason = if foreign { PassReason::NotFromPod } else { PassReason::StackFlow };
            let verdict = Verdict::Pass(reason);
            let case = Case { verdict, expected: case.packet.clone(), ..case };
            if let Err(failure) = fixture.check(&case) {
                failures.push(format!("{} ({}): {failure}", case.name, case.hook.name()));
            }
            count += 1;
        }
        assert!(failures.is_empty() && count > 30, "{count} cases\n{}", failures.join("\n"));
    });
}

#[test]
fn frames_cut_off_at_any_length_are_never_forwarded() {
    run(truncated::cases);
}

#[test]
fn every_verdict_has_a_case() {
    let cases = from_pod::cases().into_iter().chain(from_wire::cases()).chain(to_wire::cases());
    let overlay = wrap::cases().into_iter().chain(overlay::wire_cases()).chain(path_mtu::cases());
    let mut seen: BTreeSet<&str> = cases.chain(overlay).map(|case| case.verdict.name()).collect();
    seen.extend(overlay::verdicts());
    // Only a real device can refuse a frame: the end-to-end tests make one do so.
    seen.insert(Verdict::Drop(DropReason::RedirectFailed).name());
    let missing: Vec<&str> = Verdict::all().map(Verdict::name).filter(|name| !seen.contains(name)).collect();
    assert!(missing.is_empty(), "no packet test for: {}", missing.join(", "));
}
