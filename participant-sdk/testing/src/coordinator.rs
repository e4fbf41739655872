//! A coordinator inside the test's own process.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use unanimo_coordinator::config::{DatabaseUrl, Period};
use unanimo_coordinator::coordinator::{Ended, StartError};
use unanimo_coordinator::{Builder, Config, Running};
use unanimo_sdk::Client;

/// Longest wait of a stop for transactions that are under way.
const DRAIN: Period = Period::millis(200);

/// The longest pause between calls that are sent again, and between registrations.
const PAUSE_MAX: Period = Period::secs(1);

/// Between attempts of a coordinator that was not quick enough to give up its file and port.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// Longest wait until a killed coordinator's file and port are free.
const RESTART_PATIENCE: Duration = Duration::from_secs(20);

/// A coordinator that cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no folder to keep its state in.
    #[error("make a temporary folder")]
    Folder(#[source] std::io::Error),
    /// It does not start.
    #[error("start a coordinator")]
    Start(#[source] StartError),
    /// It ended by itself.
    #[error("stop the coordinator: it had ended by itself")]
    Ended(#[source] Ended),
    /// It serves nothing.
    #[error("start a coordinator: it has no address")]
    NoAddress,
}

/// A coordinator on a temporary SQLite file and free ports.
///
/// Dropping it ends it at once, as a crash would; [`Self::stop`] ends it in good order. Either way
/// nothing is left behind.
#[derive(Debug)]
pub struct Coordinator {
    // Ended before its folder is removed.
    running: Option<Running>,
    address: SocketAddr,
    folder: TempDir,
}

impl Coordinator {
    /// Starts one.
    ///
    /// # Errors
    /// There is no temporary folder, or no port to be had.
    pub async fn start() -> Result<Self, Error> {
        let folder = tempfile::tempdir().map_err(Error::Folder)?;
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let running = begin(&folder, any_port).await.map_err(Error::Start)?;
        let address = running.grpc_address().ok_or(Error::NoAddress)?;
        Ok(Self { running: Some(running), address, folder })
    }

    /// Where it serves, for [`Serve::register_with`](unanimo_sdk::Serve::register_with) and
    /// [`Client::new`]: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A client of it.
    ///
    /// # Errors
    /// As of [`Client::new`].
    pub fn client(&self) -> Result<Client, unanimo_sdk::client::Error> {
        Client::new(self.endpoint())
    }

    /// Ends it as a crash would, in the middle of whatever it is doing, and starts it again on the
    /// same file and port.
    ///
    /// # Errors
    /// It does not start.
    pub async fn crash(&mut self) -> Result<(), Error> {
        drop(self.running.take());
        let started = Instant::now();
        // What it had open is closed when the runtime comes round to it.
        let running = loop {
            match begin(&self.folder, self.address).await {
                Ok(running) => break running,
                Err(error) if started.elapsed() > RESTART_PATIENCE => {
                    return Err(Error::Start(error));
                }
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        };
        self.running = Some(running);
        Ok(())
    }

    /// Stops it in good order.
    ///
    /// # Errors
    /// It had ended by itself.
    pub async fn stop(mut self) -> Result<(), Error> {
        match self.running.take() {
            Some(running) => running.stop().await.map_err(Error::Ended),
            None => Ok(()),
        }
    }
}

async fn begin(folder: &TempDir, listen: SocketAddr) -> Result<Running, StartError> {
    let file = folder.path().join("coordinator.db");
    let config = Config {
        database_url: DatabaseUrl::new(format!("sqlite:{}", file.display())),
        listen,
        admin_listen: ([127, 0, 0, 1], 0).into(),
        drain_timeout: DRAIN,
        // What fails in a test is back in a moment: nobody wants to wait for longer pauses.
        prepare_backoff_max: PAUSE_MAX,
        phase_two_backoff_max: PAUSE_MAX,
        keep_alive_interval: PAUSE_MAX,
        ..Config::default()
    };
    Builder::new(config).start().await
}
