//! Sessions for reads and rare writes: a small pool.
//!
//! A session is looked at before each use; one that is not good any more takes all idle ones with it,
//! because they lead to the same server. Work runs in a task that nobody cancels. One that outlives its
//! time closes its session: the server may have vanished without a word.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::Connection;
use sqlx::postgres::PgConnection;
use tokio::sync::Semaphore;

use super::session::{Connector, Session, SessionError, survives};
use super::{BoxFuture, PostgresOptions, no_answer, proof};

/// Longest time for which an idle session is kept: firewalls forget what is idle for longer.
const IDLE_MAX: Duration = Duration::from_secs(5 * 60);

/// Longest wait for the look at an idle session.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// The pool. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Sessions {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    connector: Connector,
    answer_timeout: Duration,
    /// Longest wait for the standbys: as long as a statement may take.
    proof_patience: Duration,
    slots: Semaphore,
    slots_max: u32,
    idle: Mutex<Vec<(Session, Instant)>>,
}

/// Proof that work wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// For results that are told to others: the standbys must have them.
    Wanted,
    /// For people, or for what is compared again before it counts.
    Needless,
}

impl Sessions {
    pub(super) fn new(connector: Connector, options: &PostgresOptions) -> Self {
        let slots_max = options.pool_connections;
        let shared = Shared {
            connector,
            answer_timeout: options.answer_timeout(),
            proof_patience: options.statement_timeout,
            slots: Semaphore::new(usize::try_from(slots_max).unwrap_or(1)),
            slots_max,
            idle: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Runs statements on a session, in a task of their own: a caller that goes away cancels nothing.
    pub(super) async fn run<T, F>(&self, proof: Proof, work: F) -> Result<T, SessionError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, T> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        let task = tokio::spawn(async move { shared.run(proof, work).await });
        task.await.unwrap_or(Err(SessionError::Driver(sqlx::Error::WorkerCrashed)))
    }

    /// Closes all sessions, and waits for those in use.
    pub(super) async fn close(&self) {
        let shared = &self.shared;
        let in_use = shared.slots.acquire_many(shared.slots_max);
        let _ = tokio::time::timeout(shared.answer_timeout, in_use).await;
        shared.slots.close();
        let idle = std::mem::take(&mut *shared.idle());
        for (session, _) in idle {
            // Nothing depends on how a session ends.
            let _ = tokio::time::timeout(LOOK_TIMEOUT, session.connection.close()).await;
        }
    }
}

impl Shared {
    async fn run<T, F>(&self, proof: Proof, work: F) -> Result<T, SessionError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, T> + Send + 'static,
    {
        let slot = tokio::time::timeout(self.answer_timeout, self.slots.acquire()).await;
        let Ok(slot) = slot else { return Err(no_answer().into()) };
        let _slot = slot.map_err(|_| SessionError::Closed)?;
        let mut session = match self.idle_one().await {
            Some(session) => session,
            None => self.connector.open(self.answer_timeout).await?,
        };
        let working = tokio::time::timeout(self.answer_timeout, work(&mut session.connection));
        let result = working.await.unwrap_or_else(|_| Err(no_answer()));
        if result.as_ref().err().is_some_and(|error| !survives(error)) {
            self.drop_idle();
            return result.map_err(SessionError::Driver);
        }
        if result.is_ok() && proof == Proof::Wanted && session.synchronous {
            proof::prove(&mut session, self.proof_patience).await?;
        }
        if !self.connector.progress.is_current(&session) {
            return Err(SessionError::Former { server: session.server().to_owned() });
        }
        self.idle().push((session, Instant::now()));
        result.map_err(SessionError::Driver)
    }

    /// Takes the session that was used last, if it is still good.
    async fn idle_one(&self) -> Option<Session> {
        loop {
            let (mut session, since) = self.idle().pop()?;
            if since.elapsed() > IDLE_MAX {
                // Those below it are idle for longer.
                self.drop_idle();
                return None;
            }
            if !self.connector.progress.is_current(&session) {
                self.drop_idle();
                return None;
            }
            match tokio::time::timeout(LOOK_TIMEOUT, session.check()).await {
                Ok(Ok(())) => return Some(session),
                Ok(Err(error)) => {
                    let error = super::super::in_full(&error);
                    tracing::info!(error, "a database session is thrown away");
                }
                Err(_) => tracing::info!("a database session that hangs is thrown away"),
            }
            self.drop_idle();
        }
    }

    fn drop_idle(&self) {
        self.idle().clear();
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Session, Instant)>> {
        // Nothing in here panics half way through a change.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
