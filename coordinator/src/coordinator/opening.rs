//! First questions to the database.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Status;
use crate::cluster::birth::{Candidate, Created, Patience};
use crate::config::Config;
use crate::engine::Clock;
use crate::env::Env;
use crate::store::{self, Error, Opening, Registration, Relocation, Start, Store};

/// Longest wait for another process to let go of an SQLite file: one that ends takes a moment. Whoever
/// has two processes on one file is told so, and not left to wait.
const FILE_PATIENCE: Duration = Duration::from_secs(5);

/// Pause between two tries.
const FILE_PAUSE: Duration = Duration::from_millis(100);

/// Hears what a start waits for.
type Told<'a> = &'a (dyn Fn(String) + Send + Sync);

/// Opens the store and creates an incarnation, when it is this process's turn.
pub(super) async fn take_turn(
    config: &Config,
    mut relocated: Option<Relocation>,
    status: &Status,
) -> Result<(Arc<dyn Store>, Created), Error> {
    let told = |at| status.starts(at);
    let candidate = Candidate { node: config.node.as_str(), lease: config.lease.0, told: &told };
    loop {
        let opening = connect(config, relocated.clone(), &told).await?;
        let store = candidate.open(&*opening).await?;
        // It was said of what was there then.
        relocated = relocated.and_then(|told| told.heard());
        match candidate.create(&*store).await {
            Ok(created) => return Ok((store, created)),
            // Asked anew, it says what the tables are now: another group's, a later version's, or in
            // another place.
            Err(error @ Error::Changed) => tracing::info!("{error}; the start begins again"),
            Err(error) if error.is_elsewhere() => {
                tracing::info!(error = store::in_full(&error), "the start begins again");
            }
            Err(error) => return Err(error),
        }
        store.close().await;
        tokio::time::sleep(FILE_PAUSE).await;
    }
}

/// Connects to the database.
async fn connect(
    config: &Config,
    relocated: Option<Relocation>,
    told: Told<'_>,
) -> Result<Box<dyn Opening>, Error> {
    told("it connects to its database".to_owned());
    let (url, options) = (config.database_url.expose(), config.postgres());
    let start = Start { node: config.node.as_str().to_owned(), told: relocated };
    let mut patience = Patience::default();
    let mut in_use: Option<Instant> = None;
    let opening = loop {
        match store::connect(url, &options, start.clone()).await {
            Ok(opening) => break opening,
            Err(error @ Error::InUse { .. }) => {
                let since = *in_use.get_or_insert_with(|| {
                    tracing::warn!(patience = ?FILE_PATIENCE, "{error}; the start waits");
                    Instant::now()
                });
                if since.elapsed() >= FILE_PATIENCE {
                    return Err(error);
                }
                tokio::time::sleep(FILE_PAUSE).await;
            }
            Err(error) => patience.wait(error, told).await?,
        }
    };
    if opening.is_new() {
        tracing::warn!(
            database = %config.database_url,
            "this database holds no transactions yet: a new coordinator group begins in it"
        );
    }
    Ok(opening)
}

/// Reads the participants that have registered before.
pub(super) async fn registrations(
    store: &dyn Store,
    status: &Status,
) -> Result<Vec<Registration>, Error> {
    let told = |at| status.starts(at);
    let mut patience = Patience::default();
    loop {
        match store.endpoints().list().await {
            Ok(registrations) => return Ok(registrations),
            Err(error) => patience.wait(error, &told).await?,
        }
    }
}

/// Makes the clock that transactions go by, from the times that the database knows.
pub(super) async fn clock(
    store: &dyn Store,
    env: &Arc<dyn Env>,
    status: &Status,
) -> Result<Clock, Error> {
    let told = |at| status.starts(at);
    let mut patience = Patience::default();
    loop {
        match store.purge().times().await {
            Ok(times) => {
                let database = env.of_database(times.database);
                return Ok(Clock::new(Arc::clone(env), database));
            }
            Err(error) => patience.wait(error, &told).await?,
        }
    }
}
