//! An API server that runs already, for which the tests have an administrator's kubeconfig. The lab's nodes reach it
//! through a relay on the host outside, which can be turned off.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use podlane_tests::lab::Namespace;
use serde_norway::Value;

/// Names the environment variable with the kubeconfig's path.
const KUBECONFIG: &str = "PODLANE_KUBECONFIG";
const LOOK: Duration = Duration::from_millis(5);

/// The relay, and what the kubeconfig says.
#[derive(Debug)]
pub struct Given {
    kubeconfig: Value,
    /// Name or address of the server, as its certificate has it, and its port.
    host: String,
    port: u16,
    namespace: Namespace,
    address: String,
    open: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
    listening: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// The kubeconfig's path, if there is one.
pub fn kubeconfig() -> Option<PathBuf> {
    std::env::var_os(KUBECONFIG).map(PathBuf::from)
}

impl Given {
    /// Starts the relay.
    pub fn start(path: &Path, namespace: &Namespace, address: &str) -> anyhow::Result<Self> {
        let kubeconfig: Value = serde_norway::from_str(&fs_err::read_to_string(path)?)?;
        let server = kubeconfig["clusters"][0]["cluster"]["server"].as_str();
        let server = server.with_context(|| format!("{} names no server", path.display()))?;
        let authority = server.strip_prefix("https://").context("the server is not reached by https")?;
        let authority = authority.trim_end_matches('/');
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host.to_owned(), port.parse().context("the server's port")?),
            None => (authority.to_owned(), 443),
        };
        let given = Self {
            host,
            port,
            kubeconfig,
            namespace: namespace.clone(),
            address: address.to_owned(),
            open: Arc::default(),
            streams: Arc::default(),
            listening: Mutex::default(),
        };
        given.resume()?;
        Ok(given)
    }

    /// The kubeconfig, with the relay as its server; with another token instead of the administrator's credentials.
    pub fn kubeconfig(&self, token: Option<&str>) -> anyhow::Result<String> {
        let mut kubeconfig = self.kubeconfig.clone();
        let cluster = &mut kubeconfig["clusters"][0]["cluster"];
        cluster["server"] = format!("https://{}", self.address).into();
        cluster["tls-server-name"] = self.host.as_str().into();
        if let Some(token) = token {
            let user = serde_norway::Mapping::from_iter([("token".into(), token.into())]);
            kubeconfig["users"][0]["user"] = user.into();
        }
        Ok(serde_norway::to_string(&kubeconfig)?)
    }

    /// Cuts the lab off from the server.
    pub fn stop(&self) {
        self.open.store(false, Ordering::Relaxed);
        if let Some(thread) = lock(&self.listening).take() {
            thread.join().ok();
        }
        for stream in lock(&self.streams).drain(..) {
            // One that has ended needs no end.
            stream.shutdown(Shutdown::Both).ok();
        }
    }

    /// Connects it again.
    pub fn resume(&self) -> anyhow::Result<()> {
        let listener = self.namespace.run(|| TcpListener::bind(&self.address))??;
        listener.set_nonblocking(true)?;
        self.open.store(true, Ordering::Relaxed);
        let (open, streams) = (Arc::clone(&self.open), Arc::clone(&self.streams));
        let target = (self.host.trim_matches(['[', ']']).to_owned(), self.port);
        TcpStream::connect((target.0.as_str(), target.1))
            .with_context(|| format!("connecting to {target:?}"))?;
        *lock(&self.listening) = Some(std::thread::spawn(move || {
            while open.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((near, _)) => {
                        // A failed connection is closed: the client sees that.
                        relay(near, &target, &streams).ok();
                    }
                    Err(_) => std::thread::sleep(LOOK),
                }
            }
        }));
        Ok(())
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Copies in both directions until one of them ends.
fn relay(near: TcpStream, target: &(String, u16), streams: &Mutex<Vec<TcpStream>>) -> anyhow::Result<()> {
    near.set_nonblocking(false)?;
    let far = TcpStream::connect((target.0.as_str(), target.1))?;
    ensure!(near.set_nodelay(true).is_ok() && far.set_nodelay(true).is_ok(), "no TCP");
    lock(streams).extend([near.try_clone()?, far.try_clone()?]);
    for (mut from, mut to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                if to.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            for stream in [from, to] {
                stream.shutdown(Shutdown::Both).ok();
            }
        });
    }
    Ok(())
}
