//! Progress of a database, as far as this process knows it.
//!
//! A database that is restored to an earlier time under a running process has the same place and the same
//! tables. The server's transactions tell it: their numbers only grow, also at a failover to a standby that
//! has everything that was acknowledged. So the next one has a higher number than each one of this process,
//! unless some of these are not there any more. The server has to be started for that, so it is enough to
//! compare each new session.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::session::{Session, SessionError};

/// Number of the next transaction.
const NEXT: &str = "SELECT txid_snapshot_xmax(txid_current_snapshot())";

/// Highest number of a transaction that is known to be durable; 0 before there is one. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<AtomicI64>);

impl Progress {
    /// Notes a transaction that is committed, and that the standbys have where they are waited for.
    pub(super) fn note(&self, number: i64) {
        self.0.fetch_max(number, Ordering::Relaxed);
    }

    /// Looks whether all of them are there.
    pub(super) async fn check(&self, session: &mut Session) -> Result<(), SessionError> {
        let known = self.0.load(Ordering::Relaxed);
        if known == 0 {
            return Ok(());
        }
        let next: i64 = sqlx::query_scalar(NEXT).fetch_one(&mut session.connection).await?;
        if next > known {
            return Ok(());
        }
        let found = format!(
            "its next transaction has number {next}, and this process has written transaction {known}"
        );
        Err(session.restored(found))
    }
}
