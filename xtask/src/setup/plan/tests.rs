//! Machines, and what set-up plans for them.

use super::super::needs::{KERNEL_TOOLS, TOOLS};
use super::*;

const STABLE_SRC: Toolchain = Toolchain { version: Version(1, 96, 0), has_src: true, has_clippy: true };
const NO_SRC: Toolchain = Toolchain { version: Version(1, 97, 0), has_src: false, has_clippy: true };

/// Debian 12 with rustup's stable and root, nothing else.
fn bare_debian() -> Facts {
    Facts {
        kernel: Some("6.1.0-40-amd64".to_owned()),
        has_btf: true,
        privilege: Privilege::Root,
        has_apt: true,
        lists_are_fresh: false,
        offered_rustc: None,
        has_rustup: true,
        chosen: None,
        bpf: None,
        nightly: None,
        debian: None,
        bpf_linker: None,
        missing_tools: TOOLS.iter().map(|tool| tool.command).collect(),
        missing_components: Vec::new(),
    }
}

/// All is there.
fn ready() -> Facts {
    Facts {
        bpf: Some(STABLE_SRC),
        debian: Some(STABLE_SRC),
        bpf_linker: Some(BPF_LINKER),
        missing_tools: Vec::new(),
        ..bare_debian()
    }
}

fn debian_rust() -> Step {
    Step::InstallDebianRust(vec!["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy"])
}

fn all_tools() -> Step {
    Step::InstallTools(TOOLS.iter().collect())
}

#[test]
fn a_ready_machine_needs_nothing() {
    assert!(plan(&ready(), Scope::Lab).is_empty());
    assert!(plan(&ready(), Scope::Build).is_empty());
}

#[test]
fn bare_debian_gets_debians_rust_the_linker_and_the_tools() {
    assert_eq!(
        plan(&bare_debian(), Scope::Lab),
        Plan {
            steps: vec![
                Step::UpdatePackageLists,
                debian_rust(),
                Step::LinkToolchain,
                Step::InstallLinker,
                all_tools()
            ],
            problems: Vec::new(),
        }
    );
}

#[test]
fn package_lists_are_updated_once() {
    let facts = Facts { lists_are_fresh: true, offered_rustc: Some(Version(1, 96, 0)), ..bare_debian() };
    assert_eq!(plan(&facts, Scope::Lab).steps[0], debian_rust());
}

#[test]
fn unit_tests_need_no_lab_tools_no_kernel_and_no_root() {
    let facts = Facts {
        kernel: None,
        has_btf: false,
        privilege: Privilege::None,
        missing_tools: vec!["ip"],
        ..ready()
    };
    assert!(plan(&facts, Scope::Build).is_empty());
}

#[test]
fn debians_rust_without_a_link_is_linked_and_nothing_installed() {
    let facts = Facts { bpf: None, ..ready() };
    assert_eq!(plan(&facts, Scope::Lab).steps, [Step::LinkToolchain]);
}

#[test]
fn nightly_with_its_sources_is_enough() {
    let facts = Facts { bpf: None, debian: None, nightly: Some(STABLE_SRC), ..ready() };
    assert!(plan(&facts, Scope::Lab).is_empty());
}

#[test]
fn nightly_without_sources_is_not() {
    let facts = Facts { bpf: None, debian: None, nightly: Some(NO_SRC), ..ready() };
    assert_eq!(
        plan(&facts, Scope::Lab).steps,
        [Step::UpdatePackageLists, debian_rust(), Step::LinkToolchain]
    );
}

#[test]
fn without_apt_rustup_gets_nightly() {
    let facts = Facts { bpf: None, debian: None, has_apt: false, ..ready() };
    assert_eq!(plan(&facts, Scope::Lab).steps, [Step::InstallNightly]);
}

#[test]
fn where_apt_offers_an_old_rustc_rustup_gets_nightly() {
    let facts = Facts {
        bpf: None,
        debian: None,
        lists_are_fresh: true,
        offered_rustc: Some(Version(1, 85, 0)),
        ..ready()
    };
    assert_eq!(plan(&facts, Scope::Lab).steps, [Step::InstallNightly]);
}

#[test]
fn debians_rust_alone_does_without_rustup() {
    let facts = Facts { has_rustup: false, bpf: None, ..ready() };
    assert!(plan(&facts, Scope::Lab).is_empty());
    let facts = Facts { has_rustup: false, bpf: None, debian: None, ..ready() };
    assert_eq!(plan(&facts, Scope::Lab).steps, [Step::UpdatePackageLists, debian_rust()]);
}

#[test]
fn debians_clippy_is_added_where_that_can_be_done() {
    let no_clippy = Toolchain { has_clippy: false, ..STABLE_SRC };
    let facts = Facts { bpf: Some(no_clippy), debian: Some(no_clippy), ..ready() };
    assert_eq!(plan(&facts, Scope::Build).steps, [Step::UpdatePackageLists, Step::InstallDebianClippy]);
    assert!(plan(&Facts { privilege: Privilege::None, ..facts }, Scope::Build).is_empty());
}

#[test]
fn an_old_linker_is_replaced_and_a_newer_one_kept() {
    let facts = Facts { bpf_linker: Some(Version(0, 9, 15)), ..ready() };
    assert_eq!(plan(&facts, Scope::Lab).steps, [Step::InstallLinker]);
    let facts = Facts { bpf_linker: Some(Version(0, 13, 0)), ..ready() };
    assert!(plan(&facts, Scope::Lab).is_empty());
}

#[test]
fn only_missing_tools_are_installed() {
    let facts = Facts { missing_tools: vec!["iperf3"], ..ready() };
    let plan = plan(&facts, Scope::Lab);
    assert_eq!(plan.steps[0], Step::UpdatePackageLists);
    assert_eq!(plan.steps[1].what(), "the packages iperf3");
    assert_eq!(plan.steps[1].why(), "iperf3 measures throughput between pods");
}

#[test]
fn qemu_is_only_installed_to_boot_other_kernels() {
    let facts = Facts { missing_tools: vec!["iperf3", "qemu-system-x86_64"], has_btf: false, ..ready() };
    let kernels = plan(&facts, Scope::Kernels);
    assert_eq!(
        kernels.steps,
        [Step::UpdatePackageLists, Step::InstallTools(vec![&KERNEL_TOOLS[1]])],
        "{kernels:?}"
    );
    assert!(kernels.problems.is_empty(), "{kernels:?}");
    let lab = plan(&Facts { missing_tools: vec!["qemu-system-x86_64"], ..ready() }, Scope::Lab);
    assert!(lab.is_empty(), "{lab:?}");
}

#[test]
fn missing_components_are_added() {
    let facts = Facts { missing_components: vec!["clippy"], ..ready() };
    assert_eq!(plan(&facts, Scope::Build).steps, [Step::AddComponents(vec!["clippy"])]);
}

#[test]
fn missing_components_without_rustup_are_named() {
    let facts = Facts { has_rustup: false, missing_components: vec!["rustfmt", "clippy"], ..ready() };
    assert!(problem(&facts).starts_with("rustfmt and clippy missing beside this cargo"));
}

/// The only problem of a machine, as the user reads it.
fn problem(facts: &Facts) -> String {
    let problems = plan(facts, Scope::Lab).problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems[0].to_string()
}

#[test]
fn an_old_kernel_is_named_with_what_it_lacks() {
    let text = problem(&Facts { kernel: Some("5.4.0-150-generic".to_owned()), ..ready() });
    assert!(
        text.contains("5.4.0-150-generic") && text.contains("5.10") && text.contains("redirect_peer"),
        "{text}"
    );
    assert!(plan(&Facts { kernel: Some("5.10.0-8-amd64".to_owned()), ..ready() }, Scope::Lab).is_empty());
}

#[test]
fn another_system_than_linux_is_named() {
    assert!(problem(&Facts { kernel: None, ..ready() }).contains("Linux 5.10"));
}

#[test]
fn missing_btf_is_named_with_the_kernel_option() {
    let text = problem(&Facts { has_btf: false, ..ready() });
    assert!(text.contains("/sys/kernel/btf/vmlinux") && text.contains("CONFIG_DEBUG_INFO_BTF"), "{text}");
}

#[test]
fn without_apt_everything_missing_is_listed() {
    let facts = Facts {
        has_apt: false,
        has_rustup: false,
        missing_tools: vec!["ip", "bpftool"],
        bpf: None,
        debian: None,
        ..ready()
    };
    let text = problem(&facts);
    for part in ["no apt-get", "ip (Debian's package iproute2", "bpftool", "https://rustup.rs"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn without_root_each_thing_that_needs_it_is_named() {
    let facts = Facts { privilege: Privilege::None, missing_tools: vec!["ip"], ..ready() };
    let problems = plan(&facts, Scope::Lab).problems;
    let texts: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(texts[0].starts_with("installing the packages iproute2 needs root"), "{texts:?}");
    assert!(texts[1].starts_with("the lab") && texts[1].contains("run this as root"), "{texts:?}");
}

#[test]
fn sudo_is_as_good_as_root() {
    assert!(plan(&Facts { privilege: Privilege::Sudo, ..ready() }, Scope::Lab).is_empty());
}

#[test]
fn a_chosen_toolchain_that_does_not_do_is_named_with_the_reason() {
    let chosen = |toolchain| Facts { chosen: Some(("mine".to_owned(), toolchain)), ..ready() };
    assert!(problem(&chosen(None)).contains("PODLANE_BPF_TOOLCHAIN=mine: rustup has no such toolchain"));
    assert!(problem(&chosen(Some(NO_SRC))).contains("rustup component add rust-src --toolchain mine"));
    let old = Toolchain { version: Version(1, 80, 0), ..STABLE_SRC };
    assert!(problem(&chosen(Some(old))).contains("is rustc 1.80.0; 1.90.0 or newer"));
    assert!(plan(&chosen(Some(STABLE_SRC)), Scope::Lab).is_empty());
}

#[test]
fn no_toolchain_at_all_names_both_ways_out() {
    let facts = Facts { has_rustup: false, bpf: None, debian: None, lists_are_fresh: true, ..ready() };
    let text = problem(&facts);
    assert!(text.contains("security archive") && text.contains("https://rustup.rs"), "{text}");
    let text = problem(&Facts { offered_rustc: Some(Version(1, 85, 0)), ..facts });
    assert!(text.contains("apt offers rustc-web 1.85.0"), "{text}");
}
