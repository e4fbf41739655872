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

use sqlx::postgres::PgConnection;

use super::session::{Session, SessionError, Shown};
use crate::alarm::DATABASE_WENT_BACK;

/// Number of the next transaction.
const NEXT: &str = "SELECT txid_snapshot_xmax(txid_current_snapshot())";

/// Number of the timeline, at the beginning of the name of the log's file.
const TIMELINE: &str = "SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)";

/// Reason for which a server is not used that others have left behind.
const FORMER: &str =
    "is on an earlier timeline than the one before, so a standby was promoted in its place";

/// Progress that is known. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// Highest number of a transaction that is known to be durable; 0 before there is one.
    highest: i64,
    /// The timeline; 0 if it is not known.
    timeline: u32,
    /// Identifier of the server whose timeline it is, as far as it was asked before the tables were opened.
    system: Option<String>,
    /// Number of promoted servers that were found.
    generation: u64,
}

/// Server of a new session.
#[derive(Clone, Copy, Debug)]
struct Found {
    next: i64,
    timeline: u32,
    /// Highest number that was known before it was asked, and promoted servers that were found by then.
    highest: i64,
    generation: u64,
}

/// Result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compared {
    /// It has what is known.
    Current,
    /// It was promoted; with true it lacks something.
    Promoted(bool),
    /// Another one was promoted in its place.
    Former,
    /// It lacks something, and nothing was promoted.
    Restored,
    /// The comparison was with the server before the one that was found meanwhile.
    Outdated,
}

impl Known {
    /// Returns what a new server is compared with, before it is asked: what another session commits meanwhile may be later
    /// than its answer. Number and generation are of one moment: the number says nothing of a server that was promoted since.
    fn before(&self) -> (i64, u64) {
        (self.highest, self.generation)
    }

    fn compare(&mut self, found: Found) -> Compared {
        let Found { next, timeline, highest, generation } = found;
        let lacks = highest > 0 && next <= highest;
        if timeline != 0 && timeline < self.timeline {
            return Compared::Former;
        }
        if timeline > self.timeline && self.timeline != 0 {
            self.generation += 1;
            self.highest = 0;
            self.timeline = timeline;
            return Compared::Promoted(lacks);
        }
        if generation != self.generation {
            return Compared::Outdated;
        }
        if lacks {
            return Compared::Restored;
        }
        self.timeline = self.timeline.max(timeline);
        Compared::Current
    }
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

    /// Takes a server that takes writes for the present one, before the tables are opened: nothing was written there
    /// yet. Not one on an earlier timeline than was seen of the same server's.
    pub(super) fn begin(&self, session: &mut Session, shown: &Shown) -> Result<(), SessionError> {
        let mut known = self.known();
        let same = known.system == shown.system;
        if same && shown.timeline != 0 && shown.timeline < known.timeline {
            return Err(session.not_writable(FORMER));
        }
        known.timeline = if same { known.timeline.max(shown.timeline) } else { shown.timeline };
        known.system.clone_from(&shown.system);
        session.generation = known.generation;
        Ok(())
    }

    /// Looks whether all of the known transactions are there.
    pub(super) async fn check(&self, session: &mut Session) -> Result<(), SessionError> {
        loop {
            let (highest, generation) = self.known().before();
            let next: i64 = sqlx::query_scalar(NEXT).fetch_one(&mut session.connection).await?;
            let timeline = timeline(&mut session.connection).await?;
            let found = Found { next, timeline, highest, generation };
            let compared = {
                let mut known = self.known();
                let compared = known.compare(found);
                if matches!(compared, Compared::Current | Compared::Promoted(_)) {
                    session.generation = known.generation;
                }
                compared
            };
            return match compared {
                Compared::Current => Ok(()),
                Compared::Promoted(lacks) => {
                    tell_promoted(session, timeline, lacks.then_some((next, highest)));
                    Ok(())
                }
                Compared::Former => Err(session.not_writable(FORMER)),
                Compared::Restored => Err(session.restored(format!(
                    "its next transaction has number {next}, and this process has written transaction {highest}"
                ))),
                // At most once for each server that is promoted meanwhile.
                Compared::Outdated => continue,
            };
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing in here panics half way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the timeline of a server that takes writes; 0 if it does not tell.
pub(super) async fn timeline(connection: &mut PgConnection) -> Result<u32, sqlx::Error> {
    match sqlx::query_scalar(TIMELINE).fetch_one(connection).await {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Answer of a server on this timeline to somebody who has asked when so much was known.
    fn found(known: &Known, timeline: u32, next: i64) -> Found {
        let (highest, generation) = known.before();
        Found { next, timeline, highest, generation }
    }

    fn known() -> Known {
        Known { highest: 900, timeline: 1, ..Known::default() }
    }

    /// S1, S4: sessions that are opened at once on a server that was promoted, and lacks what was acknowledged, find the same
    /// promotion. None takes it for a database that was restored.
    #[test]
    fn s1_s4_sessions_opened_at_once_find_one_promotion() {
        let mut known = known();
        let [first, second] = [found(&known, 2, 700), found(&known, 2, 701)];
        assert_eq!(known.compare(first), Compared::Promoted(true));
        assert_eq!(
            known.compare(second),
            Compared::Outdated,
            "asked before the promotion was found"
        );
        let again = found(&known, 2, 702);
        assert_eq!(known.compare(again), Compared::Current);
        assert_eq!((known.generation, known.timeline, known.highest), (1, 2, 0));
        // What it has taken since counts for it.
        known.highest = 710;
        let (lost, kept) = (found(&known, 2, 705), found(&known, 2, 711));
        assert_eq!(known.compare(lost), Compared::Restored);
        assert_eq!(known.compare(kept), Compared::Current);
    }

    /// A session with the server before, or with the one that is promoted after it, may have been asked at the same time.
    #[test]
    fn s3_a_server_is_compared_by_its_timeline_whenever_it_was_asked() {
        let mut known = known();
        let [former, second, third] = [1, 2, 3].map(|timeline| found(&known, timeline, 1_000));
        assert_eq!(known.compare(second), Compared::Promoted(false));
        assert_eq!(known.compare(former), Compared::Former);
        assert_eq!(known.compare(third), Compared::Promoted(false));
        assert_eq!((known.generation, known.timeline), (2, 3));
        let silent = found(&known, 0, 1_000);
        assert_eq!(known.compare(silent), Compared::Current, "it does not tell");
    }
}
