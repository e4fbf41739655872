//! The driver of `tokio-postgres`, with pools of `deadpool-postgres`.

mod connection;
mod pool;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Connect};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, NoTls, Socket};

pub use self::connection::TokioConnection;
use self::connection::from_tokio;
pub use self::pool::{TokioPool, TokioSession};
use super::driver::{ACQUIRE_TIMEOUT, Care, Driver, Error};
use super::own::APPLICATION_NAME;
use crate::action::BoxFuture;

/// Idle time of a client's connection before it asks whether its server is still there, and the pause
/// between two such questions.
const KEEPALIVE: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(5)];

/// Idle time that `tokio-postgres` has if nobody says anything.
const KEEPALIVE_BY_DEFAULT: Duration = Duration::from_secs(2 * 60 * 60);

/// Driver of `tokio-postgres`, with pools of `deadpool-postgres`.
///
/// ```no_run
/// use unanimo_sdk::{Postgres, TokioPostgres};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let config: tokio_postgres::Config = "host=db user=shop dbname=shop".parse()?;
/// let database = Postgres::over(TokioPostgres::new(config)).await?;
/// # Ok(())
/// # }
/// ```
///
/// Handlers work with a [`TokioConnection`]. The pools are the participant's own, of the sizes that
/// [`PostgresOptions`](crate::PostgresOptions) gives; what the service's own pool does never meets them.
#[derive(Clone)]
pub struct TokioPostgres {
    /// They may change while the participant lives.
    config: Arc<RwLock<Config>>,
    open: Arc<Open>,
}

/// Setting of sessions that only read outside of transactions which say otherwise.
const READ_ONLY: &str = "default_transaction_read_only";

type Opened = Result<(Client, JoinHandle<()>), tokio_postgres::Error>;

type Open = dyn Fn(Config) -> BoxFuture<'static, Opened> + Send + Sync;

impl fmt::Debug for TokioPostgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The password is not shown.
        f.debug_struct("TokioPostgres").field("config", &self.config()).finish_non_exhaustive()
    }
}

impl TokioPostgres {
    /// Connects by this configuration, without TLS. Where it says nothing of them, connections get keepalives
    /// after 10 s, and the application's name `unanimo-participant`.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self::with_tls(config, NoTls)
    }

    /// Connects by this configuration and TLS connector.
    pub fn with_tls<T>(config: Config, tls: T) -> Self
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let open = move |config: Config| -> BoxFuture<'static, Opened> {
            let tls = tls.clone();
            Box::pin(async move {
                let (client, connection) = config.connect(tls).await?;
                let task = tokio::spawn(async move {
                    // Whoever is at work on it gets the error, too.
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "a connection to the database has ended");
                    }
                });
                Ok((client, task))
            })
        };
        let driver = Self { config: Arc::default(), open: Arc::new(open) };
        driver.set_config(config);
        driver
    }

    /// Opens new connections by this configuration from now on, such as a rotated login. Those that are open
    /// stay. It holds for all clones, also for the one in a [`Postgres`](crate::Postgres).
    ///
    /// Of several hosts the first is taken that takes writes, and one that does not answer in its share of the
    /// time is passed over.
    pub fn set_config(&self, mut config: Config) {
        let servers = config.get_hosts().len().max(config.get_hostaddrs().len());
        if servers > 1 {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
            if config.get_connect_timeout().is_none() {
                config.connect_timeout(
                    ACQUIRE_TIMEOUT / u32::try_from(servers + 1).unwrap_or(u32::MAX),
                );
            }
        }
        if config.get_application_name().is_none() {
            config.application_name(APPLICATION_NAME);
        }
        if config.get_keepalives_idle() == KEEPALIVE_BY_DEFAULT {
            let [idle, interval] = KEEPALIVE;
            config.keepalives_idle(idle).keepalives_interval(interval).keepalives_retries(3);
        }
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    fn config(&self) -> Config {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens a connection with these settings. Given at its start, they are what RESET goes back to.
    fn open<'s>(
        &self,
        settings: impl Iterator<Item = (&'s str, &'s str)>,
    ) -> BoxFuture<'static, Opened> {
        let mut config = self.config();
        // Whoever asks for a server that takes writes believes what the session says of itself. Care sets this one.
        let is_asked = config.get_target_session_attrs() != TargetSessionAttrs::Any;
        let settings = settings.filter(|(name, _)| !is_asked || *name != READ_ONLY);
        let given = config.get_options().unwrap_or_default().to_owned();
        let options = settings.fold(given, |options, (name, value)| {
            let value = value.replace('\\', r"\\").replace(' ', r"\ ");
            format!("{options} -c {name}={value}")
        });
        config.options(options.trim_start());
        (self.open)(config)
    }
}

impl Default for TokioPostgres {
    fn default() -> Self {
        Self::new(Config::new())
    }
}

impl Driver for TokioPostgres {
    type Connection = TokioConnection;
    type Pool = TokioPool;

    async fn connect(&self, settings: &[(&str, String)]) -> Result<TokioConnection, Error> {
        let settings = settings.iter().map(|(name, value)| (*name, value.as_str()));
        match timeout(ACQUIRE_TIMEOUT, self.open(settings)).await {
            Ok(Ok((client, task))) => Ok(ClientWrapper::new(client, task).into()),
            Ok(Err(error)) => Err(from_tokio(error)),
            Err(_) => Err(Error::silent(ACQUIRE_TIMEOUT)),
        }
    }

    fn pool(&self, sessions_max: u32, care: Care) -> TokioPool {
        let opener = Opener { driver: self.clone(), care: care.clone() };
        TokioPool::new(opener, sessions_max, care)
    }
}

/// Opens the sessions of a pool.
struct Opener {
    driver: TokioPostgres,
    care: Care,
}

impl Connect for Opener {
    /// By the configuration as it is now: the pool's own is of the time when it was made.
    fn connect(&self, _: &Config) -> BoxFuture<'_, Opened> {
        let settings = self.care.settings().iter();
        self.driver.open(settings.map(|(name, value)| (*name, value.as_str())))
    }
}
