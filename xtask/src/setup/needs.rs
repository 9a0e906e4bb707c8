//! What must be on the machine, as tables: to need another tool, add a line.

use super::Scope;
use super::facts::Version;

/// A command that the lab or the tests call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tool {
    pub(crate) command: &'static str,
    /// The Debian package it comes in.
    pub(crate) package: &'static str,
    pub(crate) why: &'static str,
}

/// What every build needs beside Rust.
pub(crate) const BUILD_TOOLS: [Tool; 2] = [
    Tool { command: "protoc", package: "protobuf-compiler", why: "compiles etcd's protocol" },
    Tool {
        command: "/usr/include/google/protobuf/descriptor.proto",
        package: "libprotobuf-dev",
        why: "is part of etcd's protocol",
    },
];

/// The tools of the lab, the tests and the demo.
pub(crate) const TOOLS: [Tool; 19] = [
    Tool { command: "ip", package: "iproute2", why: "builds the lab's nodes and the classic network" },
    Tool { command: "ping", package: "iputils-ping", why: "checks that pods reach each other" },
    Tool { command: "bpftool", package: "bpftool", why: "shows maps and programs as an operator sees them" },
    Tool { command: "iperf3", package: "iperf3", why: "measures throughput between pods" },
    Tool { command: "ethtool", package: "ethtool", why: "switches checksum offload off on the lab's wires" },
    Tool {
        command: "iptables-nft-restore",
        package: "iptables",
        why: "a typical node's netfilter rules, for tests and benches; the portmap plugin works by it",
    },
    Tool {
        command: "/usr/lib/cni/bridge",
        package: "containernetworking-plugins",
        why: "plugins to be measured against, and to be chained to podlane-cni",
    },
    Tool {
        command: "nft",
        package: "nftables",
        why: "the agent masquerades pods' packets to the outside with it",
    },
    Tool {
        command: "traceroute",
        package: "traceroute",
        why: "shows the way between pods, as an operator sees it",
    },
    Tool { command: "tcpdump", package: "tcpdump", why: "records packets where a test wants to see them" },
    Tool { command: "containerd", package: "containerd", why: "a real container runtime calls the plugin" },
    Tool { command: "runc", package: "runc", why: "containerd runs containers by it" },
    Tool { command: "busybox", package: "busybox-static", why: "the image of those containers" },
    Tool { command: "podman", package: "podman", why: "another real container runtime calls the plugin" },
    Tool { command: "etcd", package: "etcd-server", why: "nodes find each other through a real one" },
    Tool {
        command: "etcdctl",
        package: "etcd-client",
        why: "shows and changes what is in it, as an operator does",
    },
    Tool { command: "/lib/systemd/systemd", package: "systemd", why: "runs the agent as a service" },
    Tool { command: "faketime", package: "faketime", why: "lets an agent's clock jump" },
    Tool { command: "openssl", package: "openssl", why: "makes certificates for it" },
];

/// The tools of `cargo xtask kernels`.
pub(crate) const KERNEL_TOOLS: [Tool; 4] = [
    Tool { command: "ip", package: "iproute2", why: "builds the tests' interfaces in the booted kernels" },
    Tool { command: "qemu-system-x86_64", package: "qemu-system-x86", why: "boots other kernels" },
    Tool { command: "busybox", package: "busybox-static", why: "is the user space of the booted kernels" },
    Tool { command: "xz", package: "xz-utils", why: "unpacks kernel modules" },
];

/// The tools that `cargo xtask e2e-kubernetes` builds a kube-apiserver with.
pub(crate) const APISERVER_TOOLS: [Tool; 4] = [
    Tool { command: "/usr/lib/go-1.19/bin/go", package: "golang-1.19-go", why: "compiles kube-apiserver" },
    Tool { command: "make", package: "make", why: "drives that" },
    Tool {
        command: "rsync",
        package: "rsync",
        why: "puts generated code and programs in their places there",
    },
    Tool { command: "dpkg-source", package: "dpkg-dev", why: "unpacks kube-apiserver's source package" },
];

/// What a scope needs beyond a toolchain.
pub(crate) fn tools(scope: Scope) -> impl Iterator<Item = &'static Tool> {
    let beyond: &[Tool] = match scope {
        Scope::Build => &[],
        Scope::Lab => &TOOLS,
        Scope::Kernels => &KERNEL_TOOLS,
        Scope::KubeApiserver => &APISERVER_TOOLS,
    };
    BUILD_TOOLS.iter().chain(beyond)
}

/// Components of the rustup toolchain that the tests call, by the program that each brings.
pub(crate) const COMPONENTS: [(&str, &str); 2] = [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")];

/// The oldest rustc that builds the workspace and the programs.
pub(crate) const OLDEST_RUSTC: Version = Version(1, 90, 0);

/// Debian's current rustc with its sources: it can build `core` for the BPF target.
pub(crate) const DEBIAN_RUST: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// Clippy for that rustc: lints the programs for the BPF target.
pub(crate) const DEBIAN_CLIPPY: &str = "rust-web-clippy";

/// The rustup name that Debian's rustc is linked under; agent/build.rs looks for it.
pub(crate) const BPF_TOOLCHAIN: &str = "bpf";

/// The last bpf-linker that uses rustc's own LLVM instead of asking for LLVM's development files.
pub(crate) const BPF_LINKER: Version = Version(0, 10, 3);

/// `bpf_redirect_peer` and `bpf_redirect_neigh` came with it.
pub(crate) const OLDEST_KERNEL: Version = Version(5, 10, 0);
