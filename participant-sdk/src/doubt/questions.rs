//! The sweeper's questions whose statements take the same parameters on every database.

use uuid::Uuid;

use super::RowKey;

/// Names a statement; the parameters are in this order.
#[cfg(any(feature = "mysql", feature = "sqlite"))]
#[derive(Clone, Copy, Debug)]
pub(crate) enum Question {
    /// Number of prepared rows that are no steps, milliseconds of the oldest of them, number of steps:
    /// participant.
    CountPrepared,
    /// Prepared rows as [`DoubtRow`](super::DoubtRow) with their age: participant, grace in
    /// milliseconds, key to go on after (two parameters), limit.
    PreparedRows,
    /// Prepared rows as [`OpenRow`](super::OpenRow): participant, key to go on after (two parameters),
    /// limit.
    OpenRows,
    /// Output of a prepared row, and its media type: participant, key (two parameters).
    OpenOutput,
    /// Names of prepared rows as [`NamedRow`](super::NamedRow): their least age in milliseconds.
    Names,
    /// Number of prepared rows whose `tx_id` is none: participant.
    Unreadable,
    /// The database's time of day, in milliseconds since 1970.
    Clock,
    /// Deletes rows that left nothing behind: participant, the time before which their `prepare_until` is, limit.
    /// On MariaDB it lists their keys.
    PurgeUndone,
    /// Committed rows as [`Row`](super::Row) with their `prepare_until`: participant, retention in
    /// milliseconds, `prepare_until` and key to go on after (three parameters), limit.
    CommittedRows,
    /// Committed rows without `prepare_until` as [`Row`](super::Row) with a number that means nothing:
    /// participant, retention in milliseconds, key to go on after (two parameters), limit.
    UnboundedRows,
}

/// Returns the key to go on after; before the first row, one that is less than every key.
pub(crate) fn position(after: Option<&RowKey>) -> (Uuid, &str) {
    after.map_or((Uuid::nil(), ""), |(tx_id, branch_id)| (*tx_id, branch_id))
}

/// Makes the methods of [`Sweepable`](super::Sweepable) for the [`Question`]s. A macro, because each
/// database has its own types. The database's type has `question`, which returns a statement, and
/// `sweeping`, which begins a transaction for one: on MariaDB a statement outside of one would leave
/// one open.
#[cfg(any(feature = "mysql", feature = "sqlite"))]
macro_rules! answer_questions {
    ($fault:path, $type:ty, $tx_id:expr) => {
        async fn count_prepared(
            &self,
            participant: &str,
        ) -> Result<$crate::doubt::Count, $crate::resource::Fault> {
            let mut sweeping = self.sweeping().await?;
            let counted = sqlx::query_as(self.question($crate::doubt::Question::CountPrepared))
                .bind(participant)
                .fetch_one(&mut *sweeping)
                .await;
            let counted = counted.map_err($fault("count the rows that are prepared"))?;
            sweeping.release();
            Ok($crate::doubt::count(counted))
        }

        async fn prepared_rows(
            &self,
            participant: &str,
            grace: std::time::Duration,
            after: Option<&$crate::doubt::RowKey>,
            limit: usize,
        ) -> Result<Vec<$crate::doubt::Doubt>, $crate::resource::Fault> {
            let (tx_id, branch_id) = $crate::doubt::position(after);
            let mut sweeping = self.sweeping().await?;
            let rows = sqlx::query_as(self.question($crate::doubt::Question::PreparedRows))
                .bind(participant)
                .bind($crate::doubt::millis(grace))
                .bind($tx_id(tx_id))
                .bind(branch_id)
                .bind($crate::doubt::limit(limit))
                .fetch_all(&mut *sweeping)
                .await;
            let rows = rows.map_err($fault("list the rows that are prepared"))?;
            sweeping.release();
            let rows: Vec<$crate::doubt::DoubtRow<$type>> = rows;
            rows.into_iter().map($crate::doubt::doubt).collect()
        }

        async fn open_rows(
            &self,
            participant: &str,
            after: Option<&$crate::doubt::RowKey>,
            limit: usize,
        ) -> Result<Vec<$crate::doubt::Open>, $crate::resource::Fault> {
            let (tx_id, branch_id) = $crate::doubt::position(after);
            let mut sweeping = self.sweeping().await?;
            let rows = sqlx::query_as(self.question($crate::doubt::Question::OpenRows))
                .bind(participant)
                .bind($tx_id(tx_id))
                .bind(branch_id)
                .bind($crate::doubt::limit(limit))
                .fetch_all(&mut *sweeping)
                .await;
            let rows = rows.map_err($fault("list the rows that are open"))?;
            sweeping.release();
            let rows: Vec<$crate::doubt::OpenRow<$type>> = rows;
            rows.into_iter().map($crate::doubt::open).collect()
        }

        async fn open_output(
            &self,
            participant: &str,
            key: &$crate::doubt::RowKey,
        ) -> Result<Option<$crate::payload::Payload>, $crate::resource::Fault> {
            let mut sweeping = self.sweeping().await?;
            let output = sqlx::query_as(self.question($crate::doubt::Question::OpenOutput))
                .bind(participant)
                .bind($tx_id(key.0))
                .bind(&key.1)
                .fetch_optional(&mut *sweeping)
                .await;
            let output = output.map_err($fault("read the output of a row that is open"))?;
            sweeping.release();
            let output: Option<(Vec<u8>, String)> = output;
            Ok(output.map(|(data, media_type)| $crate::payload::Payload::new(data, media_type)))
        }

        async fn names(
            &self,
            too_old: std::time::Duration,
        ) -> Result<Vec<$crate::doubt::Named>, $crate::resource::Fault> {
            let mut sweeping = self.sweeping().await?;
            let rows = sqlx::query_as(self.question($crate::doubt::Question::Names))
                .bind($crate::doubt::millis(too_old))
                .fetch_all(&mut *sweeping)
                .await;
            let rows = rows.map_err($fault("list the names of rows that are prepared"))?;
            sweeping.release();
            let rows: Vec<$crate::doubt::NamedRow> = rows;
            let rows = rows.into_iter().map($crate::doubt::named);
            Ok(rows.chain(self.other_names().await?).collect())
        }

        async fn unreadable_rows(&self, participant: &str) -> Result<u64, $crate::resource::Fault> {
            let mut sweeping = self.sweeping().await?;
            let told = sqlx::query_as(self.question($crate::doubt::Question::Unreadable))
                .bind(participant)
                .fetch_one(&mut *sweeping)
                .await;
            let (rows,): (i64,) = told.map_err($fault("look for rows that cannot be read"))?;
            sweeping.release();
            Ok(rows.unsigned_abs())
        }

        async fn clock_ms(&self) -> Result<i64, $crate::resource::Fault> {
            let mut sweeping = self.sweeping().await?;
            let told = sqlx::query_as(self.question($crate::doubt::Question::Clock))
                .fetch_one(&mut *sweeping)
                .await;
            let (now_ms,): (i64,) = told.map_err($fault("read the clock"))?;
            sweeping.release();
            Ok(now_ms)
        }

        async fn committed_rows(
            &self,
            participant: &str,
            retention: std::time::Duration,
            after: Option<&$crate::doubt::Committed>,
            limit: usize,
        ) -> Result<Vec<$crate::doubt::Committed>, $crate::resource::Fault> {
            let (tx_id, branch_id) = $crate::doubt::position(after.map(|row| &row.key));
            let mut sweeping = self.sweeping().await?;
            let rows = sqlx::query_as(self.question($crate::doubt::Question::CommittedRows))
                .bind(participant)
                .bind($crate::doubt::millis(retention))
                .bind(after.map_or(0, |row| row.prepare_until))
                .bind($tx_id(tx_id))
                .bind(branch_id)
                .bind($crate::doubt::limit(limit))
                .fetch_all(&mut *sweeping)
                .await;
            let rows = rows.map_err($fault("list the rows that are committed"))?;
            sweeping.release();
            let rows: Vec<$crate::doubt::Row<$type>> = rows;
            rows.into_iter().map($crate::doubt::committed).collect()
        }

        async fn unbounded_rows(
            &self,
            participant: &str,
            retention: std::time::Duration,
            after: Option<&$crate::doubt::RowKey>,
            limit: usize,
        ) -> Result<Vec<$crate::doubt::Committed>, $crate::resource::Fault> {
            let (tx_id, branch_id) = $crate::doubt::position(after);
            let mut sweeping = self.sweeping().await?;
            let rows = sqlx::query_as(self.question($crate::doubt::Question::UnboundedRows))
                .bind(participant)
                .bind($crate::doubt::millis(retention))
                .bind($tx_id(tx_id))
                .bind(branch_id)
                .bind($crate::doubt::limit(limit))
                .fetch_all(&mut *sweeping)
                .await;
            let rows = rows.map_err($fault("list the rows that have no bound"))?;
            sweeping.release();
            let rows: Vec<$crate::doubt::Row<$type>> = rows;
            rows.into_iter().map($crate::doubt::committed).collect()
        }
    };
}
#[cfg(any(feature = "mysql", feature = "sqlite"))]
pub(crate) use answer_questions;

/// Makes [`Sweepable::purge_undone`](super::Sweepable::purge_undone), where one statement passes by the rows
/// that others hold.
#[cfg(feature = "sqlite")]
macro_rules! purge_undone {
    ($fault:path) => {
        async fn purge_undone(
            &self,
            participant: &str,
            until_ms: i64,
            limit: usize,
        ) -> Result<u64, $crate::resource::Fault> {
            let mut sweeping = self.sweeping().await?;
            let purged = sqlx::query(self.question($crate::doubt::Question::PurgeUndone))
                .bind(participant)
                .bind(until_ms)
                .bind($crate::doubt::limit(limit))
                .execute(&mut *sweeping)
                .await
                .map_err($fault("purge barrier rows"))?;
            sweeping.commit().await.map_err($fault("purge barrier rows"))?;
            Ok(purged.rows_affected())
        }
    };
}
#[cfg(feature = "sqlite")]
pub(crate) use purge_undone;
