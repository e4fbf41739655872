//! Connections of the journals: each is made with a write of its own, and is good once that is durable.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use unanimo_core::Incarnation;
use uuid::Uuid;

use super::super::super::Error;
use super::super::names::Names;
use super::super::session::{Connector, Session, SessionError};
use super::super::{failed, no_answer, proof};
use super::Writer;

/// Longest wait for the fence's row, which is held for a moment by whoever raises a mark in it.
const FENCE_WAIT_MAX: Duration = Duration::from_secs(5);

/// Time for which statements of a connection wait for locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store::postgres) enum Waits {
    /// A moment.
    Briefly,
    /// As long as those of any session.
    Long,
}

/// The way to connections. Cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::store::postgres) struct Connections {
    connector: Connector,
    /// The same, to sessions that wait for locks for a moment only.
    hasty: Connector,
    answer_timeout: Duration,
    names: Names,
    /// Those that the standbys do not have yet. Whoever connects next goes on with one: each new one would
    /// have a later position to wait for, and standbys that stay behind would never come up with it.
    unproven: Arc<Mutex<Vec<Made>>>,
}

/// A connection, with a write of its own that is committed.
#[derive(Debug)]
struct Made {
    me: Incarnation,
    nonce: Uuid,
    waits: Waits,
    session: Session,
    /// Number of that transaction.
    number: i64,
    wanted: proof::Wanted,
}

impl Connections {
    pub(in crate::store::postgres) fn new(
        connector: &Connector,
        answer_timeout: Duration,
        names: Names,
    ) -> Self {
        let connector = connector.with_generic_plans();
        let hasty = connector.hasty();
        Self { connector, hasty, answer_timeout, names, unproven: Arc::default() }
    }

    /// Connects, and commits a write: what this connection reads from then on is at least as
    /// durable as that, whatever became of the connections before it.
    pub(in crate::store::postgres) async fn connect(
        &self,
        (me, nonce): (Incarnation, Uuid),
        waits: Waits,
    ) -> Result<Writer, Error> {
        let connected = async {
            let made = match self.take((me, nonce, waits)) {
                Some(made) => Some(made),
                None => self.make((me, nonce), waits).await?,
            };
            match made {
                Some(made) => self.proven(made).await.map(Some),
                None => Ok(None),
            }
        };
        let session = connected.await.map_err(|error| failed("open a journal's connection", error));
        match session? {
            Some(session) => {
                let connector = self.connector.clone();
                // It reads which epochs there are: the database may be another one's by now.
                let names = self.names.clone();
                names.forget_at(session.generation);
                Ok(Writer::new(session, me, nonce, connector, self.answer_timeout, names))
            }
            None => Err(Error::Fenced(me)),
        }
    }

    /// Opens a session and writes; `None` if the incarnation is fenced.
    async fn make(
        &self,
        (me, nonce): (Incarnation, Uuid),
        waits: Waits,
    ) -> Result<Option<Made>, SessionError> {
        let connector = match waits {
            Waits::Briefly => &self.hasty,
            Waits::Long => &self.connector,
        };
        let making = async {
            let mut session = connector.open(self.answer_timeout).await?;
            let tables = self.connector.tables();
            let number = commit_own(&mut session, me, tables, nonce).await?;
            let Some(number) = number else {
                self.connector.look_for_fence(&mut session, me, nonce).await?;
                return Ok(None);
            };
            let wanted = proof::Wanted::default();
            Ok(Some(Made { me, nonce, waits, session, number, wanted }))
        };
        let made = tokio::time::timeout(self.answer_timeout * 2, making).await;
        made.unwrap_or_else(|_| Err(SessionError::Driver(no_answer())))
    }

    /// Returns the session once the standbys have its write.
    async fn proven(&self, mut made: Made) -> Result<Session, SessionError> {
        if made.session.synchronous {
            let Made { session, wanted, .. } = &mut made;
            let proving = proof::prove_on(session, wanted, self.answer_timeout).await;
            if matches!(proving, Err(SessionError::Unproven)) {
                self.unproven().push(made);
                return Err(SessionError::Unproven);
            }
            proving?;
        }
        self.connector.progress.note(&made.session, made.number);
        Ok(made.session)
    }

    fn take(&self, whose: (Incarnation, Uuid, Waits)) -> Option<Made> {
        let mut unproven = self.unproven();
        unproven.retain(|made| self.connector.progress.is_current(&made.session));
        let is_it = |made: &Made| (made.me, made.nonce, made.waits) == whose;
        let place = unproven.iter().position(is_it)?;
        Some(unproven.swap_remove(place))
    }

    fn unproven(&self) -> std::sync::MutexGuard<'_, Vec<Made>> {
        // Nothing in here panics half way through a change.
        self.unproven.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes those that nobody goes on with.
    pub(in crate::store::postgres) fn close(&self) {
        self.unproven().clear();
    }
}

/// Commits a write that concerns nobody else, and returns the number of its transaction; `None` if the
/// incarnation has no right to write in these tables. The write is the lock of its fence: it gives the transaction a
/// number, and a record in the log of the database, so that its commit is flushed there, and waits for the standbys, as any
/// other. All that share the lock can make it at once: a session that hangs half way through it holds up nobody.
pub(super) async fn commit_own(
    session: &mut Session,
    me: Incarnation,
    tables: &str,
    nonce: Uuid,
) -> Result<Option<i64>, sqlx::Error> {
    let until = Instant::now() + FENCE_WAIT_MAX;
    loop {
        let done = sqlx::query_scalar(concat!(
            "WITH ",
            fence!("$3", "tableoid = ($2::text)::oid"),
            " SELECT txid_current() FROM fence"
        ))
        .bind(me.0)
        .bind(tables)
        .bind(nonce)
        .fetch_optional(&mut session.connection)
        .await;
        match done {
            Err(error) if is_locked(&error) && Instant::now() < until => {}
            done => return done,
        }
    }
}

/// Tells whether the server gave up waiting for a lock. The session is as it was.
pub(super) fn is_locked(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    error.code().as_deref() == Some("55P03")
}
