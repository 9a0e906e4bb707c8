//! The agent's settings: flags, then the environment, then the config file, then defaults. `docs/configuration.md`
//! documents every key.

mod settings;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};

use crate::{
    cluster::{EtcdConfig, KubernetesSettings, SourceSetting},
    datapath::{AttachSetting, XdpMode},
};

pub use settings::{LogFormat, Settings, TunnelSetting};

/// Where the config file is looked for when none is named.
pub const DEFAULT_FILE: &str = "/etc/podlane/config.yaml";

/// Default of `runDir`: what the agent keeps until the next boot.
pub const DEFAULT_RUN_DIR: &str = "/run/podlane";

/// Default of `bpfDir`: maps and links are pinned below it.
pub const DEFAULT_BPF_DIR: &str = "/sys/fs/bpf/podlane";

/// Default of `metricsAddress`: for who is on the node; no other port is open by default.
const DEFAULT_METRICS_ADDRESS: &str = "127.0.0.1:9844";

/// Default of `cniBinDir`, every runtime's own.
pub const DEFAULT_CNI_BIN_DIR: &str = "/opt/cni/bin";

/// Default of `cniConfDir`, every runtime's own.
pub const DEFAULT_CNI_CONF_DIR: &str = "/etc/cni/net.d";

const DEFAULT_SYSCTL_DIR: &str = "/proc/sys";

const DEFAULT_CLUSTER_FILE: &str = "/etc/podlane/cluster.yaml";

/// The settings in force, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `nodeName`.
    pub node_name: String,
    /// `clusterSource`.
    pub cluster_source: SourceSetting,
    /// `clusterFile`.
    pub cluster_file: PathBuf,
    /// `etcd`.
    pub etcd: EtcdConfig,
    /// `kubernetes`.
    pub kubernetes: KubernetesSettings,
    /// `uplinks`; empty means that they are found by the node's address.
    pub uplinks: Vec<String>,
    /// `runDir`.
    pub run_dir: PathBuf,
    /// `bpfDir`.
    pub bpf_dir: PathBuf,
    /// `mtu`; `None` means the uplinks'.
    pub mtu: Option<u32>,
    /// `attach`.
    pub attach: AttachSetting,
    /// `expediteRcu`.
    pub expedite_rcu: bool,
    /// `maxPods`.
    pub max_pods: u32,
    /// `maxRoutes`.
    pub max_routes: u32,
    /// `maxStackFlows`.
    pub max_stack_flows: u32,
    /// `xdp`.
    pub xdp: XdpMode,
    /// `tunnel`.
    pub tunnel: TunnelSetting,
    /// `vni`.
    pub vni: u32,
    /// `vxlanPort`.
    pub vxlan_port: u16,
    /// `routed`.
    pub routed: bool,
    /// `masquerade`.
    pub masquerade: bool,
    /// `metricsAddress`; `None` means off.
    pub metrics_address: Option<SocketAddr>,
    /// `installCni`.
    pub install_cni: bool,
    /// `cniBinDir`.
    pub cni_bin_dir: PathBuf,
    /// `cniConfDir`.
    pub cni_conf_dir: PathBuf,
    /// `sysctlDir`.
    pub sysctl_dir: PathBuf,
    /// `logLevel`.
    pub log_level: tracing::Level,
    /// `logFormat`.
    pub log_format: LogFormat,
    /// `logDrops`.
    pub log_drops: bool,
}

impl Config {
    /// Merges the flags and environment in `given` with the config file and the defaults.
    ///
    /// # Errors
    /// Names the key, the value and what is allowed; a file that was named but is not there is an error.
    pub fn resolve(given: Settings, file: Option<&Path>) -> anyhow::Result<Self> {
        let from_file = match file {
            Some(path) => read(path)?,
            None if Path::new(DEFAULT_FILE).exists() => read(Path::new(DEFAULT_FILE))?,
            None => Settings::default(),
        };
        given.or(from_file).check()
    }
}

impl Settings {
    /// These settings, and `other`'s where they say nothing.
    fn or(self, other: Self) -> Self {
        Self {
            node_name: self.node_name.or(other.node_name),
            cluster_source: self.cluster_source.or(other.cluster_source),
            cluster_file: self.cluster_file.or(other.cluster_file),
            etcd: self.etcd.or(other.etcd),
            kubernetes: self.kubernetes.or(other.kubernetes),
            uplinks: self.uplinks.or(other.uplinks),
            run_dir: self.run_dir.or(other.run_dir),
            bpf_dir: self.bpf_dir.or(other.bpf_dir),
            mtu: self.mtu.or(other.mtu),
            attach: self.attach.or(other.attach),
            expedite_rcu: self.expedite_rcu.or(other.expedite_rcu),
            max_pods: self.max_pods.or(other.max_pods),
            max_routes: self.max_routes.or(other.max_routes),
            max_stack_flows: self.max_stack_flows.or(other.max_stack_flows),
            xdp: self.xdp.or(other.xdp),
            tunnel: self.tunnel.or(other.tunnel),
            vni: self.vni.or(other.vni),
            vxlan_port: self.vxlan_port.or(other.vxlan_port),
            routed: self.routed.or(other.routed),
            masquerade: self.masquerade.or(other.masquerade),
            metrics_address: self.metrics_address.or(other.metrics_address),
            install_cni: self.install_cni.or(other.install_cni),
            cni_bin_dir: self.cni_bin_dir.or(other.cni_bin_dir),
            cni_conf_dir: self.cni_conf_dir.or(other.cni_conf_dir),
            sysctl_dir: self.sysctl_dir.or(other.sysctl_dir),
            log_level: self.log_level.or(other.log_level),
            log_format: self.log_format.or(other.log_format),
            log_drops: self.log_drops.or(other.log_drops),
        }
    }

    fn check(self) -> anyhow::Result<Config> {
        let node_name = match self.node_name {
            Some(name) => name,
            None => host_name()?,
        };
        ensure!(!node_name.is_empty(), "nodeName is empty: give the node's name in the cluster file");
        let uplinks = self.uplinks.unwrap_or_default();
        for uplink in &uplinks {
            // IFNAMSIZ is 16 with its closing NUL.
            let valid = !uplink.is_empty() && uplink.len() < 16 && !uplink.contains(['/', ' ', ':']);
            ensure!(
                valid,
                "uplinks: \"{uplink}\" is not an interface name (1 to 15 characters, no '/', ':' or space)"
            );
        }
        if let Some(mtu) = self.mtu {
            ensure!(
                (576..=65535).contains(&mtu),
                "mtu: {mtu} is out of range: 576 (1280 with IPv6) to 65535 bytes"
            );
        }
        let max_pods = in_range("maxPods", self.max_pods.unwrap_or(256), 1_000_000)?;
        let max_routes = in_range("maxRoutes", self.max_routes.unwrap_or(8192), 1_000_000)?;
        let max_stack_flows = in_range("maxStackFlows", self.max_stack_flows.unwrap_or(32768), 16_000_000)?;
        let vni = in_range("vni", self.vni.unwrap_or(1), 0x00ff_ffff)?;
        let vxlan_port = self.vxlan_port.unwrap_or(8472);
        ensure!(vxlan_port != 0, "vxlanPort: 0 is not a port: use 1 to 65535");
        let level = self.log_level.as_deref().unwrap_or("info");
        let Ok(log_level) = level.parse() else {
            bail!("logLevel: \"{level}\" is not a level: use error, warn, info, debug or trace");
        };
        let log_format = match self.log_format.as_deref().unwrap_or("text") {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            other => bail!("logFormat: \"{other}\" is not a format: use text or json"),
        };
        Ok(Config {
            node_name,
            cluster_source: self.cluster_source.unwrap_or_default(),
            cluster_file: self.cluster_file.unwrap_or_else(|| DEFAULT_CLUSTER_FILE.into()),
            etcd: self.etcd.check()?,
            kubernetes: self.kubernetes.check()?,
            uplinks,
            run_dir: absolute("runDir", self.run_dir, DEFAULT_RUN_DIR)?,
            bpf_dir: absolute("bpfDir", self.bpf_dir, DEFAULT_BPF_DIR)?,
            mtu: self.mtu,
            attach: self.attach.unwrap_or_default(),
            expedite_rcu: self.expedite_rcu.unwrap_or(true),
            max_pods,
            max_routes,
            max_stack_flows,
            xdp: self.xdp.unwrap_or_default(),
            tunnel: self.tunnel.unwrap_or_default(),
            vni,
            vxlan_port,
            routed: self.routed.unwrap_or(false),
            masquerade: self.masquerade.unwrap_or(true),
            metrics_address: address("metricsAddress", self.metrics_address, DEFAULT_METRICS_ADDRESS)?,
            install_cni: self.install_cni.unwrap_or(false),
            cni_bin_dir: absolute("cniBinDir", self.cni_bin_dir, DEFAULT_CNI_BIN_DIR)?,
            cni_conf_dir: absolute("cniConfDir", self.cni_conf_dir, DEFAULT_CNI_CONF_DIR)?,
            sysctl_dir: absolute("sysctlDir", self.sysctl_dir, DEFAULT_SYSCTL_DIR)?,
            log_level,
            log_format,
            log_drops: self.log_drops.unwrap_or(false),
        })
    }
}

fn read(path: &Path) -> anyhow::Result<Settings> {
    let text = fs_err::read_to_string(path).context("reading the config file")?;
    if text.trim().is_empty() {
        return Ok(Settings::default());
    }
    serde_norway::from_str(&text).with_context(|| format!("config file {}", path.display()))
}

fn host_name() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname().context("asking for the host name: set nodeName")?;
    name.into_string()
        .map_err(|name| anyhow::anyhow!("the host name {} is not UTF-8: set nodeName", name.display()))
}

fn in_range(key: &str, value: u32, most: u32) -> anyhow::Result<u32> {
    ensure!((1..=most).contains(&value), "{key}: {value} is out of range: 1 to {most}");
    Ok(value)
}

fn absolute(key: &str, value: Option<PathBuf>, default: &str) -> anyhow::Result<PathBuf> {
    let path = value.unwrap_or_else(|| default.into());
    ensure!(path.is_absolute(), "{key}: {} is not an absolute path", path.display());
    Ok(path)
}

fn address(key: &str, value: Option<String>, default: &str) -> anyhow::Result<Option<SocketAddr>> {
    let text = value.as_deref().unwrap_or(default);
    if text == "off" {
        return Ok(None);
    }
    match text.parse() {
        Ok(address) => Ok(Some(address)),
        Err(_) => {
            bail!("{key}: \"{text}\" is not an IP address and a port: use {default}, [::1]:9844 or off")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(given: Settings, file: &str) -> anyhow::Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        fs_err::write(&path, file).unwrap();
        Config::resolve(given, Some(&path))
    }

    fn error(file: &str) -> String {
        format!("{:#}", resolve(Settings::default(), file).unwrap_err())
    }

    #[test]
    fn an_empty_file_means_defaults() {
        let config = resolve(Settings::default(), "").unwrap();
        assert_eq!(config.run_dir, Path::new("/run/podlane"));
        assert_eq!((config.max_pods, config.max_routes, config.mtu), (256, 8192, None));
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let given = Settings { node_name: Some("flag".into()), ..Settings::default() };
        let config =
            resolve(given, "nodeName: file\nmtu: 1400\nuplinks: [eth0, eth1]\nattach: clsact").unwrap();
        assert_eq!((config.node_name.as_str(), config.mtu), ("flag", Some(1400)));
        assert_eq!(config.uplinks, ["eth0", "eth1"]);
        assert_eq!(config.attach, AttachSetting::Clsact);
    }

    #[test]
    fn errors_name_the_key_the_value_and_the_way_out() {
        for (file, expected) in [
            ("mtu: 100", "mtu: 100 is out of range: 576 (1280 with IPv6) to 65535 bytes"),
            ("mtu: large", "mtu: invalid type: string \"large\""),
            ("maxPods: 0", "maxPods: 0 is out of range: 1 to 1000000"),
            (
                "clusterSource: consul",
                "clusterSource: unknown variant `consul`, expected one of `file`, `kubernetes`, `etcd`",
            ),
            (
                "kubernetes: {server: '10.0.0.1:6443'}",
                "kubernetes.server: \"10.0.0.1:6443\" is not a server's URL: write it like https://",
            ),
            ("kubernetes: {config: a}", "unknown field `config`, expected `kubeconfig` or `server`"),
            ("vni: 0", "vni: 0 is out of range: 1 to 16777215"),
            ("vxlanPort: 0", "vxlanPort: 0 is not a port"),
            ("tunnel: maybe", "tunnel: unknown variant `maybe`, expected one of `auto`, `always`, `never`"),
            ("xdp: fast", "xdp: unknown variant `fast`, expected one of `off`, `generic`, `native`"),
            (
                "metricsAddress: \"9844\"",
                "metricsAddress: \"9844\" is not an IP address and a port: use 127.0.0.1",
            ),
            ("cniBinDir: bin", "cniBinDir: bin is not an absolute path"),
            ("logLevel: loud", "logLevel: \"loud\" is not a level: use error, warn"),
            ("logFormat: xml", "logFormat: \"xml\" is not a format: use text or json"),
            ("runDir: here", "runDir: here is not an absolute path"),
            ("attach: xdp", "attach: unknown variant `xdp`, expected one of `auto`, `tcx`, `clsact`"),
            ("nodename: a", "unknown field `nodename`, expected one of `nodeName`"),
            ("uplinks: [a/b]", "uplinks: \"a/b\" is not an interface name"),
            ("nodeName: ''", "nodeName is empty"),
        ] {
            let error = error(file);
            assert!(error.contains(expected), "{file}: {error}");
        }
    }

    #[test]
    fn a_named_file_that_is_not_there_is_an_error_with_its_path() {
        let error = format!(
            "{:#}",
            Config::resolve(Settings::default(), Some(Path::new("/nonexistent.yaml"))).unwrap_err()
        );
        assert!(error.contains("/nonexistent.yaml"), "{error}");
    }
}
