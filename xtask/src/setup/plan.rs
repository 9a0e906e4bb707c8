//! From facts to what is to be done, and to what cannot be.

use std::fmt;

use super::Scope;
use super::facts::{Facts, Toolchain, Version, usable};
use super::needs::{
    BPF_LINKER, BPF_TOOLCHAIN, DEBIAN_CLIPPY, DEBIAN_RUST, OLDEST_KERNEL, OLDEST_RUSTC, Tool, tools,
};
use crate::privilege::Privilege;

/// What set-up has to do, in this order, and what it cannot do anything about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) problems: Vec<Problem>,
}

impl Plan {
    /// The machine is ready.
    pub(crate) fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.problems.is_empty()
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// `apt-get update`.
    UpdatePackageLists,
    /// `apt-get install` of Debian's rustc.
    InstallDebianRust(Vec<&'static str>),
    /// `apt-get install` of clippy for Debian's rustc.
    InstallDebianClippy,
    /// `rustup toolchain link`.
    LinkToolchain,
    /// `rustup toolchain install nightly`.
    InstallNightly,
    /// `cargo install bpf-linker`.
    InstallLinker,
    /// `rustup component add`.
    AddComponents(Vec<&'static str>),
    /// `apt-get install` of the tools.
    InstallTools(Vec<&'static Tool>),
}

impl Step {
    /// What it brings.
    pub(crate) fn what(&self) -> String {
        match self {
            Self::UpdatePackageLists => "apt's package lists".to_owned(),
            Self::InstallDebianRust(packages) => format!("the packages {}", packages.join(", ")),
            Self::InstallDebianClippy => format!("the package {DEBIAN_CLIPPY}"),
            Self::LinkToolchain => format!("the rustup toolchain `{BPF_TOOLCHAIN}`"),
            Self::InstallNightly => "rustup's nightly with rust-src".to_owned(),
            Self::InstallLinker => format!("bpf-linker {BPF_LINKER}"),
            Self::AddComponents(components) => format!("the rustup components {}", components.join(", ")),
            Self::InstallTools(tools) => {
                let packages: Vec<_> = tools.iter().map(|tool| tool.package).collect();
                format!("the packages {}", packages.join(", "))
            }
        }
    }

    /// Why it is needed.
    pub(crate) fn why(&self) -> String {
        match self {
            Self::UpdatePackageLists => "to know what can be installed".to_owned(),
            Self::InstallDebianRust(_) => {
                "a rustc with the sources of `core`: the eBPF target has no ready-made one".to_owned()
            }
            Self::InstallDebianClippy => "checks the programs as compiled for the eBPF target".to_owned(),
            Self::LinkToolchain => "lets the build find Debian's rustc beside rustup's".to_owned(),
            Self::InstallNightly => "builds `core` for the eBPF target".to_owned(),
            Self::InstallLinker => {
                "links the eBPF programs; it is compiled, which takes about 3 minutes".to_owned()
            }
            Self::AddComponents(_) => "check format and lints".to_owned(),
            Self::InstallTools(tools) => {
                let reasons: Vec<_> =
                    tools.iter().map(|tool| format!("{} {}", tool.command, tool.why)).collect();
                reasons.join("; ")
            }
        }
    }

    /// Where to look when it was done and did not help.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::InstallLinker => "is cargo's bin folder on PATH?",
            Self::LinkToolchain => "does `rustup run bpf rustc --version` work?",
            _ => "see its output above",
        }
    }

    /// Whether only root can do it.
    pub(crate) fn needs_root(&self) -> bool {
        matches!(
            self,
            Self::UpdatePackageLists
                | Self::InstallDebianRust(_)
                | Self::InstallDebianClippy
                | Self::InstallTools(_)
        )
    }
}

/// What stands in the way, with the way out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// Not Linux, or no /proc.
    NoKernel,
    OldKernel(String),
    NoBtf,
    /// Things that apt would bring, without apt.
    NoApt(Vec<String>),
    /// Root is needed for this and cannot be had.
    NoRoot(String),
    /// PODLANE_BPF_TOOLCHAIN names something that does not do.
    BadChoice(String, Option<Toolchain>),
    /// Format and lints cannot be checked, and there is no rustup to bring what does.
    NoComponents(Vec<&'static str>),
    /// Neither Debian's rustc nor rustup: what apt offers.
    NoToolchain(Option<Version>),
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKernel => write!(
                out,
                "/proc/sys/kernel/osrelease cannot be read: Podlane runs on Linux {}.{} or newer, with /proc mounted",
                OLDEST_KERNEL.0, OLDEST_KERNEL.1
            ),
            Self::OldKernel(release) => write!(
                out,
                "the kernel is {release}, and bpf_redirect_peer needs {}.{} or newer: boot a newer kernel",
                OLDEST_KERNEL.0, OLDEST_KERNEL.1
            ),
            Self::NoBtf => out.write_str(
                "/sys/kernel/btf/vmlinux is missing, so programs cannot be matched to this kernel: \
                 boot a kernel built with CONFIG_DEBUG_INFO_BTF=y (distributions' kernels are), with /sys mounted",
            ),
            Self::NoApt(missing) => write!(
                out,
                "there is no apt-get here to install what is missing; install it by hand: {}",
                missing.join(", ")
            ),
            Self::NoRoot(what) => {
                write!(out, "{what} needs root, and there is no sudo: run this as root, or install sudo")
            }
            Self::BadChoice(name, None) => write!(
                out,
                "PODLANE_BPF_TOOLCHAIN={name}: rustup has no such toolchain; install it or unset the variable"
            ),
            Self::BadChoice(name, Some(Toolchain { version, has_src: true, .. })) => write!(
                out,
                "PODLANE_BPF_TOOLCHAIN={name} is rustc {version}; {OLDEST_RUSTC} or newer is needed: \
                 update it or unset the variable"
            ),
            Self::BadChoice(name, Some(_)) => write!(
                out,
                "PODLANE_BPF_TOOLCHAIN={name} lacks the sources of `core`: \
                 `rustup component add rust-src --toolchain {name}`, or unset the variable"
            ),
            Self::NoComponents(names) => write!(
                out,
                "{} missing beside this cargo: install rustup from https://rustup.rs, or the distribution's packages",
                names.join(" and ")
            ),
            Self::NoToolchain(Some(version)) => write!(
                out,
                "apt offers rustc-web {version}, but {OLDEST_RUSTC} or newer is needed, and rustup is missing: \
                 add Debian's security archive to apt's sources, or install rustup from https://rustup.rs"
            ),
            Self::NoToolchain(None) => write!(
                out,
                "no Rust toolchain can build eBPF programs: apt does not offer rustc-web {OLDEST_RUSTC} or newer \
                 (Debian 12 has it in its security archive), and rustup is missing: install it from https://rustup.rs"
            ),
        }
    }
}

/// What this machine lacks.
pub(crate) fn plan(facts: &Facts, scope: Scope) -> Plan {
    let mut plan = Plan::default();
    let mut without_apt = Vec::new();
    toolchain(facts, &mut plan, &mut without_apt);
    if facts.bpf_linker.is_none_or(|version| version < BPF_LINKER) {
        plan.steps.push(Step::InstallLinker);
    }
    if !facts.missing_components.is_empty() {
        if facts.has_rustup {
            plan.steps.push(Step::AddComponents(facts.missing_components.clone()));
        } else {
            plan.problems.push(Problem::NoComponents(facts.missing_components.clone()));
        }
    }
    missing_tools(facts, scope, &mut plan, &mut without_apt);
    if scope == Scope::Lab {
        kernel(facts, &mut plan);
    }
    if !without_apt.is_empty() {
        plan.problems.push(Problem::NoApt(without_apt));
    }
    root(facts, scope, &mut plan);
    if plan.steps.iter().any(Step::needs_root) && !facts.lists_are_fresh {
        plan.steps.insert(0, Step::UpdatePackageLists);
    }
    plan
}

/// The same choice as agent/build.rs makes, and what brings it about where there is nothing to choose from.
fn toolchain(facts: &Facts, plan: &mut Plan, without_apt: &mut Vec<String>) {
    if let Some((name, toolchain)) = &facts.chosen {
        if !usable(toolchain.as_ref()) {
            plan.problems.push(Problem::BadChoice(name.clone(), *toolchain));
        }
        return;
    }
    // Without rustup the build uses Debian's rustc as it is.
    let debian_is_ready = usable(facts.debian.as_ref()) && (!facts.has_rustup || usable(facts.bpf.as_ref()));
    if debian_is_ready || usable(facts.bpf.as_ref()) || usable(facts.nightly.as_ref()) {
        debian_clippy(facts, debian_is_ready, plan);
        return;
    }
    // Before `apt-get update` nobody knows what apt offers: hope for the best, plan anew afterwards.
    let apt_may_have_it = facts.has_apt
        && (!facts.lists_are_fresh || facts.offered_rustc.is_some_and(|rustc| rustc >= OLDEST_RUSTC));
    if usable(facts.debian.as_ref()) {
        plan.steps.push(Step::LinkToolchain);
    } else if apt_may_have_it {
        let packages = DEBIAN_RUST.into_iter().chain([DEBIAN_CLIPPY]).collect();
        plan.steps.push(Step::InstallDebianRust(packages));
        if facts.has_rustup {
            plan.steps.push(Step::LinkToolchain);
        }
    } else if facts.has_rustup {
        plan.steps.push(Step::InstallNightly);
    } else if facts.has_apt {
        plan.problems.push(Problem::NoToolchain(facts.offered_rustc));
    } else {
        without_apt.push(format!("rustup (https://rustup.rs), or rustc {OLDEST_RUSTC} with its sources"));
    }
}

/// Debian's rustc may be older than this set-up, installed without its clippy. Nice to have: not worth an error.
fn debian_clippy(facts: &Facts, debian_is_used: bool, plan: &mut Plan) {
    let lacks_it = facts.debian.is_some_and(|debian| !debian.has_clippy);
    if debian_is_used && lacks_it && facts.has_apt && facts.privilege != Privilege::None {
        plan.steps.push(Step::InstallDebianClippy);
    }
}

fn missing_tools(facts: &Facts, scope: Scope, plan: &mut Plan, without_apt: &mut Vec<String>) {
    let missing: Vec<_> = tools(scope).filter(|tool| facts.missing_tools.contains(&tool.command)).collect();
    if missing.is_empty() {
        return;
    }
    if facts.has_apt {
        plan.steps.push(Step::InstallTools(missing));
    } else {
        let described =
            |tool: &&Tool| format!("{} (Debian's package {}; {})", tool.command, tool.package, tool.why);
        without_apt.extend(missing.iter().map(described));
    }
}

fn kernel(facts: &Facts, plan: &mut Plan) {
    match facts.kernel.as_deref().map(|release| (release, Version::find_in(release))) {
        Some((_, Some(version))) if version >= OLDEST_KERNEL => {}
        Some((release, _)) => plan.problems.push(Problem::OldKernel(release.to_owned())),
        None => plan.problems.push(Problem::NoKernel),
    }
    if !facts.has_btf {
        plan.problems.push(Problem::NoBtf);
    }
}

fn root(facts: &Facts, scope: Scope, plan: &mut Plan) {
    if facts.privilege != Privilege::None {
        return;
    }
    for step in plan.steps.iter().filter(|step| step.needs_root()) {
        plan.problems.push(Problem::NoRoot(format!("installing {}", step.what())));
    }
    if scope == Scope::Lab {
        let lab = "the lab (network namespaces and eBPF programs)".to_owned();
        plan.problems.push(Problem::NoRoot(lab));
    }
}

#[cfg(test)]
mod tests;
