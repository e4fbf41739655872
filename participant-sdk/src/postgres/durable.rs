//! Proof that a commit is where the synchronous standbys have it.
//!
//! A commit that waits for a synchronous standby can be told to wait no longer (`pg_cancel_backend`): it then
//! succeeds, with a warning that drivers show to nobody. So where standbys are waited for, they are asked: the
//! primary's log as it is flushed behind the commit must be flushed there, too. Before that nothing is answered.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::driver::{Care, Error, Parameter, Pool, Session};
use super::error::fault;
use super::statements;
use crate::resource::Fault;

/// Longest wait for standbys that lag behind a commit which should have waited for them.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks at the standbys, at first and at last.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Compares the standbys with a position of the log; at first with the present end of what is flushed. The number
/// of standbys that a commit waits for begins the list, or is one.
const LOOK: &str = "
WITH wanted AS MATERIALIZED (
    SELECT coalesce(nullif($1::text, '')::pg_lsn, pg_current_wal_flush_lsn()) AS position,
        current_setting('synchronous_standby_names') AS names
)
SELECT position::text, current_user::text, pg_has_role(current_user, 'pg_read_all_stats', 'usage'),
    names = '' OR coalesce(substring(names FROM '(?i)^\\s*(?:first\\s+|any\\s+)?(\\d+)\\s*\\(')::int8, 1) <= (
        SELECT count(*) FROM pg_stat_replication
        WHERE sync_state IN ('sync', 'quorum') AND flush_lsn >= position)
FROM wanted";

/// Result of a look: the position, the role, that it may see the standbys, and that they have it.
type Look = (String, String, bool, bool);

/// Waits until the synchronous standbys have what was committed before. Where there are none it asks nobody. A
/// role that may not see them is told so once, and the commit itself is then all that there is.
pub(super) async fn proven<O: Pool>(pool: &O, care: &Care) -> Result<(), Fault> {
    if !care.is_synchronous() {
        return Ok(());
    }
    let doing = fault("ask whether the standbys have what was committed");
    let mut session = pool.acquire().await.map_err(&doing)?;
    let (end, mut pause, mut wanted) = (Instant::now() + PATIENCE, PAUSE_MIN, None);
    loop {
        let looked = look(&mut session, wanted.as_deref()).await;
        let (position, role, can_see, is_proven) = looked.map_err(&doing)?;
        if !is_proven && !can_see {
            care.is_blind(&role);
        }
        if is_proven || !can_see {
            session.release();
            return Ok(());
        }
        if Instant::now() >= end {
            session.release();
            let doing = "wait for the synchronous standbys";
            let text = format!("they do not have the log up to {position}");
            return Err(Fault::Indeterminate { doing, text });
        }
        wanted = Some(position);
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn look(session: &mut impl Session, wanted: Option<&str>) -> Result<Look, Error> {
    let wanted = wanted.unwrap_or_default();
    statements::one(session.connection(), LOOK, &[Parameter::Text(wanted)]).await
}
