//! Proof that a commit is where the synchronous standbys have it.
//!
//! A commit that waits for a synchronous standby can be told to wait no longer (`pg_cancel_backend`): it then
//! succeeds, with a warning that drivers show to nobody. So where standbys are waited for, they are asked: the
//! primary's log as it is flushed behind the commit must be flushed there, too. Before that nothing is answered.
//!
//! It is the commit's own session that asks. Behind a proxy another session may lead to another server, whose log and
//! whose standbys tell nothing of this commit.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::driver::{Care, Error, Parameter, Session};
use super::error::fault;
use super::statements;
use crate::resource::Fault;

/// Longest wait for standbys that lag behind a commit which should have waited for them.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest time of a look, as of the other questions to a session that wait for nobody.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

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

/// Waits until the synchronous standbys have what was committed in this session, which is outside of a transaction.
/// Where there are none it asks nobody. A role that may not see them is told so, and the commit itself is then all
/// that there is. After an error the session is to be dropped.
pub(super) async fn proven(session: &mut impl Session, care: &Care) -> Result<(), Fault> {
    if !care.standbys().are_to_be_asked() {
        return Ok(());
    }
    let doing = "ask whether the standbys have what was committed";
    let (end, mut pause, mut wanted) = (Instant::now() + PATIENCE, PAUSE_MIN, None);
    loop {
        let looked = look(session, wanted.as_deref()).await;
        let (position, role, can_see, is_proven) = looked.map_err(fault(doing))?;
        if is_proven {
            return Ok(());
        }
        if !can_see {
            care.standbys().cannot_be_seen(&role);
            return Ok(());
        }
        if Instant::now() >= end {
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
    let wanted = [Parameter::Text(wanted.unwrap_or_default())];
    let looked = statements::one(session.connection(), LOOK, &wanted);
    timeout(LOOK_TIMEOUT, looked).await.unwrap_or_else(|_| Err(Error::silent(LOOK_TIMEOUT)))
}

/// Time for which one session's word that commits wait for standbys holds for all. Sessions of several servers share
/// it, so that the word of one, which has no standbys, ends it for nobody: no operation lasts as long. What it costs
/// where standbys are given up is a question for each commit of that time.
const WAITED_FOR: Duration = Duration::from_secs(60 * 60);

/// Time for which a role that may not see the standbys is not asked again.
const BLIND_FOR: Duration = Duration::from_secs(5 * 60);

/// Knowledge of standbys that commits wait for.
#[derive(Debug, Default)]
pub(super) struct Standbys(Mutex<Known>);

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Time at which a session last said that it waits for them.
    seen_at: Option<Instant>,
    /// Time at which the role was last found to be blind.
    blind_at: Option<Instant>,
}

impl Known {
    fn are_waited_for(&self, now: Instant) -> bool {
        self.seen_at.is_some_and(|at| now.duration_since(at) < WAITED_FOR)
    }

    fn are_seen(&self, now: Instant) -> bool {
        self.blind_at.is_none_or(|at| now.duration_since(at) >= BLIND_FOR)
    }
}

impl Standbys {
    /// A session that is taken waits for them at its commit.
    pub(super) fn are_there(&self) {
        self.known(|known| known.seen_at = Some(Instant::now()));
    }

    /// Tells whether commits wait for them, as far as is known.
    pub(super) fn are_waited_for(&self) -> bool {
        self.known(|known| known.are_waited_for(Instant::now()))
    }

    fn are_to_be_asked(&self) -> bool {
        let now = Instant::now();
        self.known(|known| known.are_waited_for(now) && known.are_seen(now))
    }

    fn cannot_be_seen(&self, role: &str) {
        let is_new = self.known(|known| known.blind_at.replace(Instant::now()).is_none());
        if is_new {
            tracing::warn!(
                role,
                "a commit whose wait for a synchronous standby is ended by hand will not be noticed: \
                 GRANT pg_read_all_stats to this role"
            );
        }
    }

    fn known<T>(&self, act: impl FnOnce(&mut Known) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s3_standbys_that_were_seen_are_asked_for_an_hour_but_by_who_is_blind() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut known = Known::default();
        assert!(!known.are_waited_for(at(0)));
        known.seen_at = Some(at(0));
        assert!(known.are_waited_for(at(0)) && known.are_waited_for(at(3_599)));
        assert!(!known.are_waited_for(at(3_600)));
        assert!(known.are_seen(at(0)));
        known.blind_at = Some(at(0));
        assert!(!known.are_seen(at(0)) && !known.are_seen(at(299)));
        assert!(known.are_seen(at(300)), "it may have been granted meanwhile");
    }
}
