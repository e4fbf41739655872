//! The session of the heartbeat.
//!
//! It is no other's: a renewal never queues behind a slow read. A renewal that has not succeeded in its
//! time is given up with its session, and the next one begins with a new session, which ends the server's side of the one that
//! was given up: that may hold the heartbeat's row. So one that hangs costs one renewal, unless the server cannot end it
//! (the process is stopped, or hangs in a write): then the lease runs out.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use unanimo_core::Incarnation;
use uuid::Uuid;

use super::no_answer;
use super::proof;
use super::session::{Connector, Session, SessionError};

/// The fence is read without a lock: a renewal never waits for a batch. Who fences marks the
/// heartbeat's row as well, and a renewal that meets that looks at the row again: it never succeeds
/// after a fence whose snapshot it did not see. In other tables than those that were opened there is no
/// fence of this incarnation.
const RENEW: &str = "
UPDATE heartbeats SET counter = counter + 1
WHERE incarnation = $1 AND NOT fenced
    AND EXISTS (SELECT 1 FROM fences WHERE incarnation = $1 AND nonce = $3 AND NOT fenced
        AND tableoid = ($2::text)::oid)
RETURNING counter, txid_current(), current_setting('synchronous_standby_names') <> ''";

/// Names the server's side of a session: a number alone may be another one's later.
const SELF: &str = "
SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()";

/// Ends the server's side of a session that is still at a renewal. One that is not may be another client's by now, of a pooler.
const END: &str = "
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid = $1 AND backend_start::text = $2 AND usename = current_user AND state = 'active'
    AND query LIKE '%UPDATE heartbeats SET counter%'";

/// The server's side of a session.
type Backend = (i32, Option<String>);

/// The heartbeat's session, if it has one that is good.
#[derive(Clone, Debug)]
pub(super) struct Heartbeat {
    connector: Connector,
    session: Arc<Mutex<Option<Session>>>,
    /// The server's side of the session that was opened last, until that is known to be kept no more.
    backend: Arc<Mutex<Option<Backend>>>,
    /// The last renewal that is known to be durable.
    last: Arc<Mutex<Option<Renewal>>>,
}

/// A renewal: whose it is, and the counter that it has written.
#[derive(Clone, Copy, Debug)]
struct Renewal {
    me: Incarnation,
    counter: i64,
    /// Promoted servers that were found before it.
    generation: u64,
}

impl Heartbeat {
    pub(super) fn new(connector: Connector) -> Self {
        let (session, backend, last) = Default::default();
        Self { connector, session, backend, last }
    }

    /// Moves the heartbeat; `false` if the incarnation is fenced. Given up after `patience`.
    pub(super) async fn renew(
        &self,
        me: Incarnation,
        nonce: Uuid,
        patience: Duration,
    ) -> Result<bool, SessionError> {
        let this = self.clone();
        // In a task of its own: whoever goes away leaves no session half way through a statement.
        let task = tokio::spawn(async move {
            let kept = this.take();
            let renewing = this.renew_once(kept, me, nonce, patience);
            let renewed = tokio::time::timeout(patience, renewing).await;
            let (moved, session) = renewed.unwrap_or_else(|_| Err(no_answer().into()))?;
            this.keep(session);
            Ok(moved)
        });
        task.await.unwrap_or(Err(SessionError::Driver(sqlx::Error::WorkerCrashed)))
    }

    async fn renew_once(
        &self,
        kept: Option<Session>,
        me: Incarnation,
        nonce: Uuid,
        patience: Duration,
    ) -> Result<(bool, Session), SessionError> {
        let started = Instant::now();
        let mut session = match kept.filter(|kept| self.connector.progress.is_current(kept)) {
            Some(session) => session,
            None => self.open(patience).await?,
        };
        let renew = sqlx::query_as(RENEW).bind(me.0).bind(self.connector.tables()).bind(nonce);
        let moved: Option<(i64, i64, bool)> = renew.fetch_optional(&mut session.connection).await?;
        // Somebody may have put other tables in the place of those that were opened.
        let Some((counter, number, synchronous)) = moved else {
            self.connector.look_for_fence(&mut session, me, nonce).await?;
            return Ok((false, session));
        };
        let renewal = Renewal { me, counter, generation: session.generation };
        self.compare(&session, renewal)?;
        if synchronous {
            // In the time that is left, and a little less, so that it is said what was waited for.
            let left = (patience - patience / 10).saturating_sub(started.elapsed());
            proof::prove(&mut session, left).await?;
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(renewal);
        self.connector.progress.note(&session, number);
        if !self.connector.progress.is_current(&session) {
            return Err(SessionError::Former { server: session.server().to_owned() });
        }
        Ok((true, session))
    }

    /// Opens a session. The one before was given up.
    async fn open(&self, patience: Duration) -> Result<Session, SessionError> {
        let mut session = self.connector.open(patience).await?;
        let connection = &mut session.connection;
        let former = self.backend().take();
        if let Some((pid, since)) = former {
            let ended = sqlx::query(END).bind(pid).bind(since).execute(&mut *connection).await;
            match ended {
                Ok(ended) if ended.rows_affected() == 0 => {}
                Ok(_) => tracing::info!(pid, "a session whose renewal was given up is ended"),
                // It may hold nothing.
                Err(error) => tracing::debug!(%error, "failed to end a session that was given up"),
            }
        }
        let found = sqlx::query_as(SELF).fetch_optional(connection).await;
        *self.backend() = found.unwrap_or_default();
        Ok(session)
    }

    fn backend(&self) -> std::sync::MutexGuard<'_, Option<Backend>> {
        self.backend.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compares a renewal with the last one. Nobody else moves this counter, so one that was there before
    /// is of a restored database, unless a standby that is behind was promoted.
    fn compare(
        &self,
        session: &Session,
        Renewal { me, counter, generation }: Renewal,
    ) -> Result<(), SessionError> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_behind = |last: &Renewal| {
            (last.me, last.generation) == (me, generation) && counter <= last.counter
        };
        match last.filter(is_behind) {
            None => Ok(()),
            Some(Renewal { counter: last, .. }) => Err(session.restored(format!(
                "this process has counted its heartbeats to {last}, and the next one has number {counter}"
            ))),
        }
    }

    /// Closes the session.
    pub(super) fn close(&self) {
        drop(self.take());
    }

    fn take(&self) -> Option<Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn keep(&self, session: Session) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
    }
}
