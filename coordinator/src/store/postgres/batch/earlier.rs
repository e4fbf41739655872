//! Rows of an earlier time: the database has lost what was written since.

use std::collections::{HashMap, HashSet};

use sqlx::postgres::PgConnection;
use unanimo_core::Incarnation;
use uuid::Uuid;

use super::super::super::rows::Read;
use super::super::super::{BatchError, Earlier, Write};
use super::super::{no_answer, transactions};
use super::Writer;
use super::obstacles::Obstacles;

/// Owners that are no writer's of today: fenced ones, and the writer itself.
const FREE: &str = "
SELECT incarnation FROM fences WHERE incarnation = ANY($1) AND (fenced OR incarnation = $2)";

impl Writer {
    /// Finds the transactions that are as they were before they were written last: their rows have an earlier
    /// version than this writer was told to be durable, or are not there. One whose owner is another one that is
    /// not fenced is not among them, and none that cannot be read.
    pub(super) async fn earlier(
        &mut self,
        missed: &[&Write],
        obstacles: &Obstacles,
    ) -> Result<HashMap<Uuid, Earlier>, BatchError> {
        let is_behind = |write: &&&Write| {
            let last = obstacles.last_of(write.transition.tx_id.0);
            write.transition.begins.is_none()
                && !obstacles.own.contains(&write.write_id)
                && last.is_none_or(|row| row.version < write.known_from().0)
        };
        let behind: Vec<&&Write> = missed.iter().filter(is_behind).collect();
        if behind.is_empty() {
            return Ok(HashMap::new());
        }
        let ids: Vec<Uuid> = behind.iter().map(|write| write.transition.tx_id.0).collect();
        let owners = ids.iter().filter_map(|id| Some(obstacles.last_of(*id)?.owner)).collect();
        let reading = read(&mut self.session.connection, self.me, &ids, owners);
        let reading = tokio::time::timeout(self.answer_timeout, reading).await;
        let (found, free) = reading
            .unwrap_or_else(|_| Err(no_answer()))
            .map_err(|error| BatchError::Indeterminate(error.into()))?;
        let found = found.iter().map(|read| (read.tx_id, read.earlier()));
        let mut found: HashMap<Uuid, Option<Earlier>> = found.collect();
        let earlier = behind.iter().filter_map(|write| {
            let tx_id = write.transition.tx_id.0;
            let Some(earlier) = found.remove(&tx_id) else {
                return Some((tx_id, Earlier::default()));
            };
            let earlier = earlier?;
            let (owner, version) = earlier.row?;
            (free.contains(&owner.0) && version < write.known_from()).then_some((tx_id, earlier))
        });
        Ok(earlier.collect())
    }
}

/// Reads what is stored of transactions, and which of these owners are free.
async fn read(
    connection: &mut PgConnection,
    me: Incarnation,
    ids: &[Uuid],
    owners: Vec<i64>,
) -> Result<(Vec<Read>, HashSet<i64>), sqlx::Error> {
    let found = transactions::of_ids(connection, ids).await?;
    let free: Vec<i64> =
        sqlx::query_scalar(FREE).bind(owners).bind(me.0).fetch_all(connection).await?;
    Ok((found, free.into_iter().collect()))
}
