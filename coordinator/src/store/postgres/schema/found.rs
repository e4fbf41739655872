//! Incarnations in tables that are not opened yet, of whatever version they are.
//!
//! The same rules hold as after the opening: a rival goes by the length of the lease that is stored, and
//! fences only while the counter is the one that it has watched, in one statement. The version is looked
//! for each time: while this process waits, another one may bring the tables to another version.

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection, Row};
use unanimo_core::Incarnation;

use super::super::super::incarnations::HAS_DISPLACED;
use super::super::super::{Error, LiveIncarnation};
use super::super::incarnations::{FENCE, IS_FENCED};
use super::super::session::Session;
use super::super::{failed, no_answer, proof};
use super::place::compare_place;
use super::{Found, Opening, Tables, look, quoted, session};

/// Migration from which on a heartbeat is marked as fenced as well, and has the length of its lease.
const HEARTBEATS_FENCED: i64 = 10;

/// Migration from which on a fence tells that an incarnation was displaced.
const FENCES_DISPLACED: i64 = 11;

/// Statement that lists who may write; `$lease` is the length of the lease, where it is known.
const LIVE: &str = "
SELECT incarnation, node, counter, $lease FROM fences JOIN heartbeats USING (incarnation)
WHERE NOT fences.fenced ORDER BY incarnation";

/// Fences in tables whose heartbeats have no mark: the heartbeat goes instead. A renewal that waits for
/// its row finds none, and fails.
const FENCE_UNMARKED: &str = "
WITH silent AS (
    DELETE FROM heartbeats WHERE incarnation = $1 AND ($3::int8 IS NULL OR counter = $3)
        AND EXISTS (SELECT 1 FROM fences WHERE incarnation = $1 AND NOT fenced)
    RETURNING 1
)
UPDATE fences SET fenced = true, fenced_by = $2
WHERE incarnation = $1 AND NOT fenced AND EXISTS (SELECT 1 FROM silent)";

impl Found {
    fn has(&self, migration: i64) -> bool {
        match self.tables {
            Tables::None => false,
            Tables::Old { version, .. } | Tables::Own { version } => version >= migration,
        }
    }
}

impl Opening {
    pub(super) async fn list(&self) -> Result<Vec<LiveIncarnation>, Error> {
        let doing = "list the incarnations";
        let working = async {
            let (mut session, found) = self.look_again(doing).await?;
            if found.tables == Tables::None {
                return Ok(Vec::new());
            }
            let lease = if found.has(HEARTBEATS_FENCED) { "lease_ms" } else { "0::int8" };
            let rows = sqlx::query(AssertSqlSafe(LIVE.replace("$lease", lease)))
                .fetch_all(&mut session.connection)
                .await
                .map_err(Error::database(doing))?;
            let _ = session.connection.close().await;
            let read = |row: &PgRow| {
                let (incarnation, node) = (row.try_get(0)?, row.try_get(1)?);
                let (counter, lease_ms) = (row.try_get(2)?, row.try_get(3)?);
                Ok(LiveIncarnation::from_columns(incarnation, node, counter, lease_ms))
            };
            rows.iter().map(read).collect::<Result<_, _>>().map_err(Error::database(doing))
        };
        self.in_time(doing, working).await
    }

    /// Fences; with a counter only while the heartbeat's is that. Tells whether it is fenced now.
    pub(super) async fn fence_if(
        &self,
        incarnation: Incarnation,
        counter: Option<i64>,
        by: &str,
    ) -> Result<bool, Error> {
        let doing = "fence an incarnation";
        let working = async {
            let (mut session, found) = self.look_again(doing).await?;
            let fence = if found.has(HEARTBEATS_FENCED) { FENCE } else { FENCE_UNMARKED };
            let connection = &mut session.connection;
            sqlx::query(fence)
                .bind(incarnation.0)
                .bind(by)
                .bind(counter)
                .execute(&mut *connection)
                .await
                .map_err(Error::database(doing))?;
            let fenced: Option<bool> = sqlx::query_scalar(IS_FENCED)
                .bind(incarnation.0)
                .fetch_optional(connection)
                .await
                .map_err(Error::database(doing))?;
            if session.synchronous {
                let proving = proof::prove(&mut session, self.options.statement_timeout);
                proving.await.map_err(|error| failed(doing, error))?;
            }
            let _ = session.connection.close().await;
            Ok(fenced.unwrap_or(true))
        };
        self.in_time(doing, working).await
    }

    pub(super) async fn displaced(&self, live: &LiveIncarnation) -> Result<bool, Error> {
        let doing = "read whom an incarnation has fenced";
        let working = async {
            let (mut session, found) = self.look_again(doing).await?;
            if !found.has(FENCES_DISPLACED) {
                return Ok(false);
            }
            let displaced: Option<bool> = sqlx::query_scalar(HAS_DISPLACED)
                .bind(live.incarnation.0)
                .bind(&live.node)
                .fetch_optional(&mut session.connection)
                .await
                .map_err(Error::database(doing))?;
            let _ = session.connection.close().await;
            Ok(displaced.unwrap_or(false))
        };
        self.in_time(doing, working).await
    }

    /// Opens a session whose search path leads to the tables, wherever and of whatever version they are
    /// by now.
    async fn look_again(&self, doing: &'static str) -> Result<(Session, Found), Error> {
        let mut session = session(&self.connector, &self.options).await?;
        let connection = &mut session.connection;
        let schema = &self.options.schema;
        let tables = look(connection, schema, &self.path).await?;
        let change = compare_place(connection, schema, &tables, &self.start).await?;
        let found = Found { tables, change };
        *self.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = found.clone();
        let schema = match &found.tables {
            Tables::Old { schema, .. } => schema,
            Tables::None | Tables::Own { .. } => schema,
        };
        let path = format!("SET search_path = {}; SET lock_timeout = '200ms'", quoted(schema));
        super::execute(connection, &path, doing).await?;
        Ok((session, found))
    }

    async fn in_time<T>(
        &self,
        doing: &'static str,
        working: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let worked = tokio::time::timeout(self.options.answer_timeout() * 2, working).await;
        worked.unwrap_or_else(|_| Err(Error::database(doing)(no_answer())))
    }
}
