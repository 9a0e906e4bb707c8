//! What the agent tells a service manager (sd_notify): that it is ready, alive, stopping. Without one it tells nobody.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;

use crate::api::StatusSource;
use crate::api::client::Client;

/// How often to look whether the agent has become ready.
const INTERVAL: Duration = Duration::from_millis(20);

/// Says when the agent is ready, to `ready` as well, then that it is alive for as long as its API answers.
pub(super) async fn report(status: Arc<dyn StatusSource>, socket: PathBuf, ready: watch::Sender<bool>) {
    while !status.started() {
        tokio::time::sleep(INTERVAL).await;
    }
    ready.send_replace(true);
    tell(&[NotifyState::Ready, NotifyState::Status("attaching pods")]);
    let Some(patience) = sd_notify::watchdog_enabled() else { return };
    let agent = Client::new(&socket).with_timeout(patience / 2);
    loop {
        let asked = agent.clone();
        let answer = tokio::task::spawn_blocking(move || asked.health()).await;
        match answer {
            // A problem is not cured by a restart; an agent that does not answer is.
            Ok(Ok(_)) => tell(&[NotifyState::Watchdog]),
            Ok(Err(error)) => tracing::error!(%error, "the agent does not answer itself"),
            Err(error) => tracing::error!(%error, "the agent cannot ask itself"),
        }
        tokio::time::sleep(patience / 3).await;
    }
}

/// The end has begun.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
