//! The settings as they can be given, each with what it may be.

use std::{path::PathBuf, str::FromStr};

use anyhow::bail;
use serde::{Deserialize, Serialize};

use crate::{
    cluster::{EtcdSettings, KubernetesSettings, SourceSetting},
    datapath::{AttachSetting, XdpMode},
};

/// The settings as they can be given: by flags and environment (clap), or in the file (serde), each key optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// This node's name in the cluster source [default: the host name]
    #[arg(long, env = "PODLANE_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,

    /// Where the cluster's nodes come from: file, kubernetes or etcd [default: file]
    #[arg(long, env = "PODLANE_CLUSTER_SOURCE", value_name = "SOURCE")]
    pub cluster_source: Option<SourceSetting>,

    /// The file that lists the cluster's nodes [default: /etc/podlane/cluster.yaml]
    #[arg(long, env = "PODLANE_CLUSTER_FILE", value_name = "FILE")]
    pub cluster_file: Option<PathBuf>,

    /// Of the etcd source.
    #[command(flatten)]
    pub etcd: EtcdSettings,

    /// How the Kubernetes API is reached.
    #[command(flatten)]
    pub kubernetes: KubernetesSettings,

    /// Uplink towards the other nodes; may be repeated [default: the device that carries the node's address]
    #[arg(long = "uplink", env = "PODLANE_UPLINKS", value_name = "DEVICE", value_delimiter = ',')]
    pub uplinks: Option<Vec<String>>,

    /// Folder for records and the API socket; emptied by a reboot, as pods are [default: /run/podlane]
    #[arg(long, env = "PODLANE_RUN_DIR", value_name = "DIR")]
    pub run_dir: Option<PathBuf>,

    /// Folder on a BPF file system for maps and links [default: /sys/fs/bpf/podlane]
    #[arg(long, env = "PODLANE_BPF_DIR", value_name = "DIR")]
    pub bpf_dir: Option<PathBuf>,

    /// MTU of the pods' interfaces, in bytes [default: the smallest of the uplinks']
    #[arg(long, env = "PODLANE_MTU", value_name = "BYTES")]
    pub mtu: Option<u32>,

    /// How programs are attached: auto, tcx or clsact [default: auto]
    #[arg(long, env = "PODLANE_ATTACH", value_name = "HOW")]
    pub attach: Option<AttachSetting>,

    /// Let the kernel hurry while a pod's programs come or go (/sys/kernel/rcu_expedited) [default: true]
    #[arg(long, env = "PODLANE_EXPEDITE_RCU", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub expedite_rcu: Option<bool>,

    /// How many pod addresses of each family the node can have [default: 256]
    #[arg(long, env = "PODLANE_MAX_PODS", value_name = "N")]
    pub max_pods: Option<u32>,

    /// How many peer pod CIDRs of each family there can be [default: 8192]
    #[arg(long, env = "PODLANE_MAX_ROUTES", value_name = "N")]
    pub max_routes: Option<u32>,

    /// How many flows of each family may go through the kernel's stack by the symmetry rule [default: 32768]
    #[arg(long, env = "PODLANE_MAX_STACK_FLOWS", value_name = "N")]
    pub max_stack_flows: Option<u32>,

    /// XDP at the uplinks: off, generic or native [default: off]
    #[arg(long, env = "PODLANE_XDP", value_name = "MODE")]
    pub xdp: Option<XdpMode>,

    /// VXLAN to other nodes: auto (where they are not on one segment), always or never [default: auto]
    #[arg(long, env = "PODLANE_TUNNEL", value_name = "WHEN")]
    pub tunnel: Option<TunnelSetting>,

    /// The overlay's network identifier, 1 to 16777215; the same on every node [default: 1]
    #[arg(long, env = "PODLANE_VNI", value_name = "N")]
    pub vni: Option<u32>,

    /// The overlay's UDP port; the same on every node [default: 8472]
    #[arg(long, env = "PODLANE_VXLAN_PORT", value_name = "PORT")]
    pub vxlan_port: Option<u16>,

    /// Hand packets for pods behind a router to that router, which has routes for the pod CIDRs, rather than tunnel
    /// them [default: false]
    #[arg(long, env = "PODLANE_ROUTED", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub routed: Option<bool>,

    /// Give packets from pods to destinations outside the cluster the node's address [default: true]
    #[arg(long, env = "PODLANE_MASQUERADE", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub masquerade: Option<bool>,

    /// IP address and port of /healthz, /readyz and /metrics, or off [default: 127.0.0.1:9844]
    #[arg(long, env = "PODLANE_METRICS_ADDRESS", value_name = "ADDRESS")]
    pub metrics_address: Option<String>,

    /// Install the CNI plugin and the network configuration once ready, as podlane install-cni does [default: false]
    #[arg(long, env = "PODLANE_INSTALL_CNI", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub install_cni: Option<bool>,

    /// Where the runtime looks for plugins [default: /opt/cni/bin]
    #[arg(long, env = "PODLANE_CNI_BIN_DIR", value_name = "DIR")]
    pub cni_bin_dir: Option<PathBuf>,

    /// Where the runtime looks for network configurations [default: /etc/cni/net.d]
    #[arg(long, env = "PODLANE_CNI_CONF_DIR", value_name = "DIR")]
    pub cni_conf_dir: Option<PathBuf>,

    /// Where kernel settings are written: in a container /proc/sys is read-only [default: /proc/sys]
    #[arg(long, env = "PODLANE_SYSCTL_DIR", value_name = "DIR")]
    pub sysctl_dir: Option<PathBuf>,

    /// error, warn, info, debug or trace [default: info]
    #[arg(long, env = "PODLANE_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,

    /// text or json [default: text]
    #[arg(long, env = "PODLANE_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<String>,

    /// Log every packet that a program drops; for debugging [default: false]
    #[arg(long, env = "PODLANE_LOG_DROPS", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub log_drops: Option<bool>,
}

/// When packets to another node go through the overlay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TunnelSetting {
    /// Where the node is not on an uplink's segment.
    #[default]
    Auto,
    /// To every node.
    Always,
    /// To none; nodes that are not on one segment need `routed`.
    Never,
}

impl FromStr for TunnelSetting {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => bail!("\"{text}\" is not a tunnel setting: use \"auto\", \"always\" or \"never\""),
        }
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}
