//! Proof that a commit is where the synchronous standbys have it.
//!
//! A commit that waits for a synchronous standby can be told to wait no longer (`pg_cancel_backend`):
//! it then succeeds, with a warning that the driver shows to nobody. So where standbys are waited for,
//! they are asked: the primary's log as it is flushed after the commit must be flushed there, too.

use std::time::Duration;

use tokio::time::Instant;

use super::no_answer;
use super::session::{Session, SessionError};

/// Longest wait for the answer of one look.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two looks at the standbys, at first and at last.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Compares the standbys with a position of the log; at first with the present end of what is flushed.
/// The number of standbys that a commit waits for begins the list, or is one.
const LOOK: &str = "
WITH wanted AS MATERIALIZED (
    SELECT coalesce($1::text::pg_lsn, pg_current_wal_flush_lsn()) AS position,
        current_setting('synchronous_standby_names') AS names
)
SELECT position::text, current_user::text, pg_has_role(current_user, 'pg_read_all_stats', 'usage'),
    names = '' OR coalesce(substring(names FROM '(?i)^\\s*(?:first\\s+|any\\s+)?(\\d+)\\s*\\(')::int8, 1) <= (
        SELECT count(*) FROM pg_stat_replication
        WHERE sync_state IN ('sync', 'quorum') AND flush_lsn >= position)
FROM wanted";

/// Position of the log that the standbys are to have; none before the first look.
#[derive(Debug, Default)]
pub(super) struct Wanted(Option<String>);

/// Waits until the standbys have what this session has committed. A standby that is slow is waited for as
/// long as a statement.
///
/// # Errors
/// They do not have it after `patience`.
pub(super) async fn prove(session: &mut Session, patience: Duration) -> Result<(), SessionError> {
    prove_on(session, &mut Wanted::default(), patience).await
}

/// Waits for what is wanted. After [`SessionError::Unproven`] the session is still good, and may be asked
/// on: nothing has to be sent again.
pub(super) async fn prove_on(
    session: &mut Session,
    wanted: &mut Wanted,
    patience: Duration,
) -> Result<(), SessionError> {
    let (end, mut pause) = (Instant::now() + patience, PAUSE_MIN);
    loop {
        let looking =
            sqlx::query_as(LOOK).bind(wanted.0.as_deref()).fetch_one(&mut session.connection);
        // One that is not answered in time leaves the session half way through it.
        let looked = tokio::time::timeout(LOOK_TIMEOUT.min(patience), looking).await;
        let (position, role, can_see, proven): (String, String, bool, bool) =
            looked.unwrap_or_else(|_| Err(no_answer()))?;
        if proven {
            return Ok(());
        }
        if !can_see {
            return Err(SessionError::Blind { role });
        }
        wanted.0 = Some(position);
        if Instant::now() >= end {
            return Err(SessionError::Unproven);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
