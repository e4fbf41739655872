//! Rows of an earlier time: the database has lost what was written since.

use std::collections::HashMap;

use unanimo_core::{BranchNumber, Incarnation, Version};
use uuid::Uuid;

use super::super::super::{BatchError, Earlier, Write};
use super::super::no_answer;
use super::{Obstacle, Writer};

/// Reads what is stored of transactions. One whose owner is another one that is not fenced is no writer's of
/// today.
const EARLIER: &str = "
SELECT tx_id, owner, version,
    owner = $2 OR EXISTS (
        SELECT 1 FROM fences WHERE incarnation = transactions.owner AND fenced) AS is_free,
    (SELECT count(*) FROM branches WHERE branches.tx_id = transactions.tx_id) AS branches,
    ARRAY(SELECT number FROM outputs WHERE outputs.tx_id = transactions.tx_id) AS outputs
FROM transactions WHERE tx_id = ANY($1)";

#[derive(Debug, sqlx::FromRow)]
struct Row {
    tx_id: Uuid,
    owner: i64,
    version: i64,
    is_free: bool,
    branches: i64,
    outputs: Vec<i16>,
}

impl Row {
    fn into_earlier(self) -> Earlier {
        let number = |number: i16| u16::try_from(number).ok().and_then(BranchNumber::new);
        Earlier {
            row: Some((Incarnation(self.owner), Version(self.version))),
            branches: usize::try_from(self.branches).unwrap_or(0),
            outputs: self.outputs.into_iter().filter_map(number).collect(),
        }
    }
}

impl Writer {
    /// Finds the transactions that are as they were before they were written last: their rows have an earlier
    /// version than this writer was told to be durable, or are not there.
    pub(super) async fn earlier(
        &mut self,
        missed: &[&Write],
        obstacles: &[Obstacle],
    ) -> Result<HashMap<Uuid, Earlier>, BatchError> {
        let is_behind = |write: &&&Write| {
            let tx_id = write.transition.tx_id.0;
            let own = obstacles.iter().find(|row| row.tx_id == tx_id);
            write.transition.begins.is_none()
                && own.is_none_or(|row| row.version < write.known_from().0)
        };
        let behind: Vec<&&Write> = missed.iter().filter(is_behind).collect();
        if behind.is_empty() {
            return Ok(HashMap::new());
        }
        let ids: Vec<Uuid> = behind.iter().map(|write| write.transition.tx_id.0).collect();
        let read = sqlx::query_as(EARLIER)
            .bind(ids)
            .bind(self.me.0)
            .fetch_all(&mut self.session.connection);
        let read = tokio::time::timeout(self.answer_timeout, read).await;
        let rows: Vec<Row> = read
            .unwrap_or_else(|_| Err(no_answer()))
            .map_err(|error| BatchError::Indeterminate(error.into()))?;
        let mut rows: HashMap<Uuid, Row> = rows.into_iter().map(|row| (row.tx_id, row)).collect();
        let found = behind.iter().filter_map(|write| {
            let tx_id = write.transition.tx_id.0;
            match rows.remove(&tx_id) {
                None => Some((tx_id, Earlier::default())),
                Some(row) if row.is_free && row.version < write.known_from().0 => {
                    Some((tx_id, row.into_earlier()))
                }
                Some(_) => None,
            }
        });
        Ok(found.collect())
    }
}
