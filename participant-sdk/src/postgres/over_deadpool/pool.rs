//! Pools, and the sessions that are taken from them.

use std::fmt;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, PoolError, RecyclingMethod};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_postgres::Config;

use super::Opener;
use super::connection::{TokioConnection, from_tokio};
use crate::postgres::driver::{ACQUIRE_TIMEOUT, Care, Connection, Error, Pool, Session};

/// Pause after a session that could not be opened; it doubles with each.
const PAUSE: Duration = Duration::from_millis(10);

/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Longest time for which a session is made fit for its next use, before it is closed instead.
const CARE_TIMEOUT: Duration = Duration::from_secs(5);

/// Pool of `deadpool-postgres`.
#[derive(Clone)]
pub struct TokioPool {
    sessions: deadpool_postgres::Pool,
    care: Care,
}

impl fmt::Debug for TokioPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokioPool").field("status", &self.sessions.status()).finish_non_exhaustive()
    }
}

impl TokioPool {
    pub(super) fn new(opener: Opener, sessions_max: u32, care: Care) -> Self {
        // A look at whether it is open: what else there is to ask is Care's.
        let config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        // Its own configuration is not used: that of the opener may change.
        let manager = Manager::from_connect(Config::new(), opener, config);
        let sessions = deadpool_postgres::Pool::builder(manager).max_size(sessions_max as usize);
        // It asks for a runtime only where it is given timeouts.
        let sessions = sessions.build().expect("a pool without timeouts");
        Self { sessions, care }
    }

    /// Takes a session; `None` says that the one that was taken is of no use any more.
    async fn attempt(&self) -> Result<Option<TokioSession>, Refused> {
        let object = self.sessions.get().await.map_err(|error| match error {
            PoolError::Backend(error) => refused(from_tokio(error)),
            other => Refused::ForGood(Error::other(other)),
        })?;
        let is_new = Object::metrics(&object).recycle_count == 0;
        let mut session = TokioSession::new(object, self.care.clone());
        if is_new {
            let set_up = self.care.set_up(session.connection()).await;
            return set_up.map(|()| Some(session)).map_err(Refused::ForNow);
        }
        match self.care.is_fit(session.connection()).await {
            Ok(true) => Ok(Some(session)),
            Ok(false) => Ok(None),
            Err(error) => {
                tracing::debug!(%error, "a session cannot be used again");
                Ok(None)
            }
        }
    }
}

/// A session that could not be opened.
enum Refused {
    /// The server comes up, or a proxy turns to another one.
    ForNow(Error),
    ForGood(Error),
}

/// Codes of refusals that pass: `too_many_connections`, `cannot_connect_now`.
const PASSING: [&str; 2] = ["53300", "57P03"];

fn refused(error: Error) -> Refused {
    match error.answer() {
        Some(answer) if !PASSING.contains(&answer.code.as_str()) => Refused::ForGood(error),
        _ => Refused::ForNow(error),
    }
}

impl Pool for TokioPool {
    type Connection = TokioConnection;
    type Session = TokioSession;

    async fn acquire(&self) -> Result<TokioSession, Error> {
        let until = Instant::now() + ACQUIRE_TIMEOUT;
        let (mut pause, mut why) = (PAUSE, "none is free".to_owned());
        loop {
            match timeout_at(until, self.attempt()).await {
                Ok(Ok(Some(session))) => return Ok(session),
                Ok(Ok(None)) => continue,
                Ok(Err(Refused::ForGood(error))) => return Err(error),
                Ok(Err(Refused::ForNow(error))) => why = error.to_string(),
                Err(_) => {}
            }
            if Instant::now() + pause >= until {
                let text = format!("there is no session within {ACQUIRE_TIMEOUT:?}: {why}");
                return Err(Error::other(text));
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// Session of a pool of `deadpool-postgres`.
#[derive(Debug)]
pub struct TokioSession {
    /// It is there until the session ends.
    connection: Option<TokioConnection>,
    in_transaction: bool,
    care: Care,
}

impl TokioSession {
    fn new(object: Object, care: Care) -> Self {
        Self { connection: Some(object.into()), in_transaction: false, care }
    }

    /// Makes the session fit for somebody else.
    async fn clean(&mut self) -> Result<(), Error> {
        if self.in_transaction {
            let rolled_back = timeout(CARE_TIMEOUT, self.connection().run("ROLLBACK")).await;
            rolled_back.map_err(|_| Error::silent(CARE_TIMEOUT))??;
        }
        let care = self.care.clone();
        care.clean(self.connection()).await
    }
}

impl Session for TokioSession {
    type Connection = TokioConnection;

    fn connection(&mut self) -> &mut TokioConnection {
        self.connection.as_mut().expect("it has not ended")
    }

    async fn begin(&mut self, statements: &str) -> Result<(), Error> {
        // Before it is known that there is one: a rollback too many does no harm.
        self.in_transaction = true;
        self.connection().run(statements).await
    }

    async fn commit(&mut self) -> Result<(), Error> {
        self.connection().run("COMMIT").await?;
        self.in_transaction = false;
        Ok(())
    }

    fn release(mut self) {
        tokio::spawn(async move {
            // Otherwise it is dropped, and so closed.
            if self.clean().await.is_ok() {
                // Back to its pool.
                drop(self.connection.take());
            }
        });
    }
}

impl Drop for TokioSession {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close_now();
        }
    }
}
