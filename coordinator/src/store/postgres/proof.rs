//! Proof that a commit is where the synchronous standbys have it.
//!
//! A commit that waits for a synchronous standby can be told to wait no longer (`pg_cancel_backend`):
//! it then succeeds, with a warning that the driver shows to nobody. So where standbys are waited for,
//! they are asked: the primary's log as it is flushed after the commit must be flushed there, too.

use std::time::Duration;

use super::session::{Session, SessionError};

/// Longest time for which the standbys are asked: what they lack at first is the log of others since the
/// commit, and is on its way.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between two looks at the standbys.
const PAUSE: Duration = Duration::from_millis(2);

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

/// Waits until the standbys have what this session has committed.
///
/// # Errors
/// They do not have it for longer than a commit's wait has any reason to end.
pub(super) async fn prove(session: &mut Session) -> Result<(), SessionError> {
    let proving = async {
        let mut wanted: Option<String> = None;
        loop {
            let (position, role, can_see, proven): (String, String, bool, bool) =
                sqlx::query_as(LOOK).bind(&wanted).fetch_one(&mut session.connection).await?;
            if proven {
                return Ok(());
            }
            if !can_see {
                return Err(SessionError::Blind { role });
            }
            wanted = Some(position);
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(PATIENCE, proving).await.unwrap_or(Err(SessionError::Unproven))
}
