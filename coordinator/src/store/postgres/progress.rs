//! Progress of a database, as far as this process knows it.
//!
//! A database that is restored to an earlier time under a running process has the same place and the same
//! tables. The server's transactions tell it: their numbers only grow, also at a failover to a standby that
//! has everything that was acknowledged. So the next one has a higher number than each one of this process,
//! unless some of these are not there any more. The server has to be started for that, so it is enough to
//! compare each new session.
//!
//! A server that was a standby, and was promoted, is on a new timeline. It may lack what was acknowledged, and nobody
//! has put it there by hand: so this process goes on with it, and looks again at what it holds in memory. No session
//! with the server before it is used any more, and none is opened on an earlier timeline: that server may be
//! alive, and what it acknowledges is lost.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::session::{Session, SessionError};
use crate::alarm::DATABASE_WENT_BACK;

/// Number of the next transaction.
const NEXT: &str = "SELECT txid_snapshot_xmax(txid_current_snapshot())";

/// Number of the timeline, at the beginning of the name of the log's file.
const TIMELINE: &str = "SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)";

/// Progress that is known. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// Highest number of a transaction that is known to be durable; 0 before there is one.
    highest: i64,
    /// The timeline; 0 if it is not known.
    timeline: u32,
    /// Number of promoted servers that were found.
    generation: u64,
}

/// Server of a new session.
#[derive(Clone, Copy, Debug)]
struct Found {
    next: i64,
    timeline: u32,
    /// Highest number that was known before it was asked.
    highest: i64,
}

impl Progress {
    /// Notes a transaction that is committed, and that the standbys have where they are waited for.
    pub(super) fn note(&self, session: &Session, number: i64) {
        let mut known = self.known();
        if session.generation == known.generation {
            known.highest = known.highest.max(number);
        }
    }

    /// Tells whether a session is with the server that takes writes now.
    pub(super) fn is_current(&self, session: &Session) -> bool {
        session.generation == self.generation()
    }

    /// Counts the promoted servers that were found.
    pub(super) fn generation(&self) -> u64 {
        self.known().generation
    }

    /// Looks whether all of the known transactions are there.
    pub(super) async fn check(&self, session: &mut Session) -> Result<(), SessionError> {
        // Before the question: what another session commits meanwhile may be later than its answer.
        let highest = self.known().highest;
        let next: i64 = sqlx::query_scalar(NEXT).fetch_one(&mut session.connection).await?;
        let timeline = timeline(session).await?;
        self.compare(session, Found { next, timeline, highest })
    }

    fn compare(&self, session: &mut Session, found: Found) -> Result<(), SessionError> {
        let Found { next, timeline, highest } = found;
        let mut known = self.known();
        let lacks = highest > 0 && next <= highest;
        if timeline != 0 && timeline < known.timeline {
            return Err(session.not_writable(
                "is on an earlier timeline than the one before, so a standby was promoted in its place",
            ));
        }
        if timeline > known.timeline && known.timeline != 0 {
            known.generation += 1;
            known.highest = 0;
            tell_promoted(session, timeline, lacks.then_some((next, highest)));
        } else if lacks {
            return Err(session.restored(format!(
                "its next transaction has number {next}, and this process has written transaction {highest}"
            )));
        }
        known.timeline = known.timeline.max(timeline);
        session.generation = known.generation;
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing in here panics half way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the timeline of the server; 0 if it does not tell.
async fn timeline(session: &mut Session) -> Result<u32, sqlx::Error> {
    match sqlx::query_scalar(TIMELINE).fetch_one(&mut session.connection).await {
        Ok(name) => {
            let name: Option<String> = name;
            Ok(name.and_then(|name| u32::from_str_radix(&name, 16).ok()).unwrap_or(0))
        }
        // Some that speak the protocol have no log of this kind.
        Err(sqlx::Error::Database(_)) => Ok(0),
        Err(error) => Err(error),
    }
}

/// Tells that a standby was promoted; with the numbers that show that it lacks something, if they do.
fn tell_promoted(session: &Session, timeline: u32, lacks: Option<(i64, i64)>) {
    let server = session.server();
    match lacks {
        None => tracing::warn!(
            server,
            timeline,
            "a standby of the database was promoted; what is in memory is compared with it"
        ),
        Some((next, known)) => tracing::error!(
            alarm = DATABASE_WENT_BACK,
            server,
            timeline,
            next,
            known,
            "a standby of the database was promoted, and lacks what was acknowledged: what is in memory is \
             written again"
        ),
    }
}
