//! A connection to one member of etcd.

use std::time::Duration;

use anyhow::Context as _;
use etcd_client::{Channel, Client, ConnectOptions};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::settings::EtcdConfig;

/// How long etcd may take to answer a request.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A member that is cut off is noticed after this and [`PING_PATIENCE`]. etcd refuses pings that come faster than
/// every 5 seconds.
const PING: Duration = Duration::from_secs(10);
const PING_PATIENCE: Duration = Duration::from_secs(5);

/// Connects and logs in. Files are read each time, so that renewed certificates and passwords are taken.
///
/// # Errors
/// Names the endpoint, or the file that cannot be used.
pub(super) async fn connect(endpoint: &str, config: &EtcdConfig) -> anyhow::Result<Client> {
    let mut options = ConnectOptions::new().with_require_leader(true).with_auto_token_refresh(true);
    if let Some((name, file)) = &config.user {
        let password = EtcdConfig::read("passwordFile", file)?;
        options = options.with_user(name, password.trim_end_matches(['\r', '\n']));
    }
    let mut channel = Endpoint::from_shared(endpoint.to_owned())?
        .connect_timeout(PATIENCE / 2)
        .timeout(PATIENCE)
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PING_PATIENCE)
        .keep_alive_while_idle(true);
    if endpoint.starts_with("https://") {
        channel = channel.tls_config(tls(config)?).context("etcd's TLS settings")?;
    }
    let channel = channel.connect().await?;
    let client = Client::from_channel(Channel::Tonic(channel), Some(options));
    tokio::time::timeout(PATIENCE, client).await.context("logging in took too long")?.context("logging in")
}

fn tls(config: &EtcdConfig) -> anyhow::Result<ClientTlsConfig> {
    let mut tls = ClientTlsConfig::new();
    tls = match &config.ca_file {
        Some(file) => tls.ca_certificate(Certificate::from_pem(EtcdConfig::read("caFile", file)?)),
        None => tls.with_native_roots(),
    };
    if let Some((cert, key)) = &config.identity {
        let cert = EtcdConfig::read("certFile", cert)?;
        tls = tls.identity(Identity::from_pem(cert, EtcdConfig::read("keyFile", key)?));
    }
    Ok(tls)
}
