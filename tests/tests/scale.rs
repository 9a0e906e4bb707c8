//! One agent among many nodes that exist only in its source: everything arrives, and changes do. How long it takes is
//! printed; `cargo xtask bench scale` measures it properly.

use std::time::Duration;

use podlane_tests::Binaries;
use podlane_tests::bench::scale::{Size, measure};
use podlane_tests::sources::{EtcdSource, FileSource, KubernetesSource, Source};

/// Sets the number of nodes.
const NODES_VARIABLE: &str = "PODLANE_SCALE_NODES";

fn converges<S: Source>(name: &str) -> anyhow::Result<()> {
    let nodes = std::env::var(NODES_VARIABLE).map_or(Ok(1000), |nodes| nodes.parse())?;
    let size = Size { nodes, changes: 10, watched: Duration::from_secs(5) };
    println!("{:#?}", measure::<S>(name, &Binaries::find()?, size)?);
    Ok(())
}

#[test]
fn a_thousand_nodes_of_the_cluster_file_arrive() -> anyhow::Result<()> {
    converges::<FileSource>("file")
}

#[test]
fn a_thousand_nodes_in_etcd_arrive() -> anyhow::Result<()> {
    converges::<EtcdSource>("etcd")
}

#[test]
fn a_thousand_nodes_in_the_kubernetes_api_arrive() -> anyhow::Result<()> {
    converges::<KubernetesSource>("kubernetes")
}
