//! Connections of the journals: each is made with a write of its own, and is good once that is durable.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use unanimo_core::Incarnation;
use uuid::Uuid;

use super::super::super::Error;
use super::super::names::Names;
use super::super::session::{Connector, Session, SessionError};
use super::super::{failed, no_answer, proof};
use super::Writer;

/// Tries to write the row of the journals while it is locked; each waits for as long as a statement waits
/// for a lock.
const LOCKED_TRIES_MAX: u32 = 25;

/// The way to connections. Cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::store::postgres) struct Connections {
    connector: Connector,
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
    session: Session,
    /// Number of that transaction.
    number: i64,
    wanted: proof::Wanted,
}

impl Connections {
    pub(in crate::store::postgres) fn new(
        connector: Connector,
        answer_timeout: Duration,
        names: Names,
    ) -> Self {
        let connector = connector.with_generic_plans();
        Self { connector, answer_timeout, names, unproven: Arc::default() }
    }

    /// Connects, and commits a write: what this connection reads from then on is at least as
    /// durable as that, whatever became of the connections before it.
    pub(in crate::store::postgres) async fn connect(
        &self,
        me: Incarnation,
        nonce: Uuid,
    ) -> Result<Writer, Error> {
        let connected = async {
            let made = match self.take(me, nonce) {
                Some(made) => Some(made),
                None => self.make(me, nonce).await?,
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
    async fn make(&self, me: Incarnation, nonce: Uuid) -> Result<Option<Made>, SessionError> {
        let making = async {
            let mut session = self.connector.open(self.answer_timeout).await?;
            let tables = self.connector.tables();
            let number = commit_own(&mut session, me, tables, nonce).await?;
            let Some(number) = number else {
                self.connector.look_for_fence(&mut session, me, nonce).await?;
                return Ok(None);
            };
            Ok(Some(Made { me, nonce, session, number, wanted: proof::Wanted::default() }))
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

    fn take(&self, me: Incarnation, nonce: Uuid) -> Option<Made> {
        let mut unproven = self.unproven();
        unproven.retain(|made| self.connector.progress.is_current(&made.session));
        let place = unproven.iter().position(|made| (made.me, made.nonce) == (me, nonce))?;
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
/// incarnation has no right to write in these tables. Its row is the other lane's as well, which may hold it
/// while a standby is waited for.
pub(super) async fn commit_own(
    session: &mut Session,
    me: Incarnation,
    tables: &str,
    nonce: Uuid,
) -> Result<Option<i64>, sqlx::Error> {
    let mut tries = 0;
    loop {
        tries += 1;
        let done = sqlx::query_scalar(concat!(
            "WITH ",
            fence!("$3", "tableoid = ($2::text)::oid"),
            " INSERT INTO journals (incarnation) SELECT $1 FROM fence
             ON CONFLICT (incarnation) DO UPDATE SET connections = journals.connections + 1
             RETURNING txid_current()"
        ))
        .bind(me.0)
        .bind(tables)
        .bind(nonce)
        .fetch_optional(&mut session.connection)
        .await;
        match done {
            Err(sqlx::Error::Database(error))
                if error.code().as_deref() == Some("55P03") && tries < LOCKED_TRIES_MAX => {}
            done => return done,
        }
    }
}
