//! etcd: a real one on the lab's node.

use serde_norway::Value;

use super::Source;
use crate::Lab;
use crate::lab::cluster::ClusterNode;
use crate::lab::etcd::Etcd;

/// Short, so that what waits for it does not wait long.
const LEASE_TTL: u64 = 5;

/// An etcd on the lab's node. The nodes in it have no lease, as no agent runs on them.
#[derive(Debug)]
pub struct EtcdSource {
    etcd: Etcd,
}

impl EtcdSource {
    /// The `etcd` section of the configuration of an agent that uses an etcd on the lab's first node.
    pub fn section(cluster_cidr: &str, lease_ttl: u64) -> serde_norway::Mapping {
        serde_norway::Mapping::from_iter([
            ("endpoints".into(), vec!["http://192.168.1.11:2379"].into()),
            ("clusterCIDRs".into(), vec![cluster_cidr].into()),
            ("leaseTTL".into(), lease_ttl.into()),
        ])
    }

    fn put(&self, name: &str, value: &str) -> anyhow::Result<()> {
        self.etcd.put_all([(format!("/podlane/nodes/{name}").as_str(), value)])
    }
}

impl Source for EtcdSource {
    fn settings() -> Vec<(&'static str, Value)> {
        vec![
            ("clusterSource", "etcd".into()),
            ("uplinks", vec![crate::lab::UPLINK].into()),
            ("etcd", Self::section("10.244.0.0/16", LEASE_TTL).into()),
        ]
    }

    fn start(lab: &Lab) -> anyhow::Result<Self> {
        Ok(Self { etcd: Etcd::start(lab.node(1))? })
    }

    fn join(&mut self, node: &ClusterNode) -> anyhow::Result<()> {
        self.put(&node.name, &record(node)?)
    }

    fn fill(&mut self, nodes: &[ClusterNode]) -> anyhow::Result<()> {
        let pair = |node: &ClusterNode| Ok((format!("/podlane/nodes/{}", node.name), record(node)?));
        let pairs = nodes.iter().map(pair).collect::<anyhow::Result<Vec<_>>>()?;
        self.etcd.put_all(pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())))
    }

    fn change(&mut self, node: &ClusterNode) -> anyhow::Result<()> {
        self.join(node)
    }

    fn leave(&mut self, name: &str) -> anyhow::Result<()> {
        self.etcd.ctl(["del", &format!("/podlane/nodes/{name}")]).read()?;
        Ok(())
    }

    fn garble(&mut self, name: &str) -> anyhow::Result<bool> {
        self.put(name, "nonsense")?;
        Ok(true)
    }

    fn fail(&mut self) -> anyhow::Result<()> {
        self.etcd.kill()
    }

    fn recover(&mut self) -> anyhow::Result<()> {
        self.etcd.resume()
    }
}

fn record(node: &ClusterNode) -> anyhow::Result<String> {
    let mut record = serde_json::to_value(node)?;
    record["version"] = 1.into();
    Ok(record.to_string())
}
