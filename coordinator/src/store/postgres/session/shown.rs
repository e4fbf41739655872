//! Signs by which a server is told from another one of the same database.

use sqlx::postgres::PgConnection;

use super::super::progress::timeline;

/// Functions that this role may ask; a right to them can be taken from it.
const ALLOWED: &str = "
SELECT pg_is_in_recovery(),
    has_function_privilege('pg_control_system()', 'EXECUTE'),
    has_function_privilege('pg_control_checkpoint()', 'EXECUTE')
        AND has_function_privilege('pg_control_recovery()', 'EXECUTE'),
    (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::int8";

const SYSTEM: &str = "SELECT system_identifier::text FROM pg_control_system()";

/// Latest timeline of which a standby has anything.
const TIMELINE_OF_STANDBY: &str = "
SELECT greatest((SELECT timeline_id FROM pg_control_checkpoint()),
    (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
    (SELECT max(received_tli) FROM pg_stat_wal_receiver))::int8";

/// Signs that a server shows, a standby as well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store::postgres) struct Shown {
    /// Its timeline; 0 if it does not tell.
    pub(in crate::store::postgres) timeline: u32,
    /// Its identifier, which it has in common with its standbys.
    pub(in crate::store::postgres) system: Option<String>,
    /// When it was started: two addresses may lead to one server.
    started: Option<i64>,
}

impl Shown {
    /// Asks a server. What it does not answer is not known.
    pub(super) async fn of(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let allowed: Result<(bool, bool, bool, i64), _> =
            sqlx::query_as(ALLOWED).fetch_one(&mut *connection).await;
        let Some((standby, tells_system, tells_timeline, started)) = answered(allowed)? else {
            return Ok(Self::default());
        };
        let mut shown = Self { started: Some(started), ..Self::default() };
        if tells_system {
            let system = sqlx::query_scalar(SYSTEM).fetch_one(&mut *connection).await;
            shown.system = answered(system)?;
        }
        shown.timeline = match standby {
            false => timeline(connection).await?,
            true if tells_timeline => {
                let asked = sqlx::query_scalar(TIMELINE_OF_STANDBY).fetch_one(connection).await;
                let shown: Option<i64> = answered(asked)?.flatten();
                shown.and_then(|shown| u32::try_from(shown).ok()).unwrap_or(0)
            }
            true => 0,
        };
        Ok(shown)
    }

    /// Tells whether both may be servers of one database.
    pub(super) fn may_be_of(&self, other: &Self) -> bool {
        match (&self.system, &other.system) {
            (Some(one), Some(two)) => one == two,
            _ => true,
        }
    }

    /// Tells whether both are servers of one database, and not one server at two addresses.
    pub(super) fn is_another_of(&self, other: &Self) -> bool {
        let are_two =
            self.started.is_some() && other.started.is_some() && self.started != other.started;
        self.may_be_of(other) && (are_two || self.timeline != other.timeline)
    }
}

/// Returns nothing for what the server refuses to answer: some that speak the protocol do not know these questions.
fn answered<T>(answer: Result<T, sqlx::Error>) -> Result<Option<T>, sqlx::Error> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(sqlx::Error::Database(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
