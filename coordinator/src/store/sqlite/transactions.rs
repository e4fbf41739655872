//! Transactions on SQLite: read and adopted. One writer at a time writes, so nothing comes between the
//! statements of a claim.

mod adopted;
mod counts;
mod parked;
#[cfg(test)]
mod plans;
mod read;

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row};
use unanimo_core::{Event, Incarnation, Timestamp, TxId, Version};
use uuid::Uuid;

pub(super) use self::adopted::adopt;
pub(super) use self::parked::marks;
pub(super) use self::read::{of_holder, of_ids, of_ids_without_data};
use super::super::listing::{CHUNK_MAX, Search, Source};
use super::super::rows::{
    self, COUNT_ATTENTION, HISTORY_BYTES_MAX, Read, SELECT_EVENTS, SELECT_HISTORY, ms_to_column,
    select_log,
};
use super::super::transactions::{ASLEEP, ASLEEP_PAGE_MAX, AsleepPage};
use super::super::{
    AttentionCount, Claim, Claimed, Error, Filter, Key, Page, PhaseCount, Stored, Transactions,
    in_full,
};
use super::Sqlite;
use super::damage::sound;

/// Rows of the log that are the last ones of their transactions. SQLite reads the tables of a CROSS JOIN in this order:
/// what is parked comes first, and history is never read.
macro_rules! is_last {
    ($row:literal) => {
        concat!(
            "NOT EXISTS (SELECT 1 FROM log AS later WHERE later.tx_id = ",
            $row,
            ".tx_id AND later.follows > ",
            $row,
            ".follows)"
        )
    };
}
pub(super) use is_last;

const CLAIM_OF_FENCED: &str = concat!(
    "
SELECT parked.tx_id FROM parked CROSS JOIN log AS last ON last.tx_id = parked.tx_id
WHERE parked.wake_ms IS NULL AND parked.owner IN (SELECT incarnation FROM fences WHERE fenced) AND length(parked.tx_id) = 16
    AND last.owner IN (SELECT incarnation FROM fences WHERE fenced)
    AND last.kind & 15 < 5 AND ",
    is_last!("last"),
    sound!("last"),
    " LIMIT $2"
);

const CLAIM_DUE: &str = concat!(
    "
SELECT parked.tx_id FROM parked CROSS JOIN log AS last ON last.tx_id = parked.tx_id
WHERE parked.wake_ms <= $2 AND NOT EXISTS (SELECT 1 FROM waits WHERE waits.tx_id = parked.tx_id) AND length(parked.tx_id) = 16
    AND (last.owner = $1 OR last.owner IN (SELECT incarnation FROM fences WHERE fenced))
    AND last.kind & 15 < 5 AND last.kind & 16 <> 0 AND ",
    is_last!("last"),
    sound!("last"),
    "
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.tx_id = parked.tx_id AND incarnation = $1)
ORDER BY parked.wake_ms LIMIT $3"
);

const CLAIM_ONE: &str = concat!(
    "
SELECT tx_id FROM log AS last
WHERE tx_id = $2 AND owner = $3 AND version = $4
    AND (owner = $1 OR owner IN (SELECT incarnation FROM fences WHERE fenced)) AND ",
    is_last!("last"),
    sound!("last")
);

/// The next row of a transaction says who owns it.
const ADOPT: &str = concat!(
    "
INSERT INTO log (tx_id, follows, version, owner, write_id, kind, ended_ms, stripped_ms, body)
SELECT tx_id, version, version + 1, $2, randomblob(16), kind & ~16, ended_ms, stripped_ms, x''
FROM log AS last WHERE tx_id = $1 AND ",
    is_last!("last")
);

const OWN: &str = concat!(
    "
INSERT INTO parked (tx_id, owner)
SELECT tx_id, $2 FROM log AS last WHERE tx_id = $1 AND kind & 15 < 5 AND ",
    is_last!("last"),
    "
ON CONFLICT (tx_id) DO UPDATE SET owner = excluded.owner, wake_ms = NULL"
);

pub(super) const SET_ASIDE: &str = "
INSERT INTO aside (tx_id, incarnation) VALUES ($1, $2)
ON CONFLICT (tx_id) DO UPDATE SET incarnation = excluded.incarnation";

const SELECT_SET_ASIDE: &str =
    "SELECT tx_id FROM aside WHERE tx_id > $1 AND length(tx_id) = 16 ORDER BY tx_id LIMIT $2";

const SELECT_OPEN: &str = concat!(
    "
SELECT last.tx_id, last.version FROM parked CROSS JOIN log AS last ON last.tx_id = parked.tx_id
WHERE parked.owner = $1 AND parked.wake_ms IS NULL AND length(last.tx_id) = 16
    AND last.owner = $1 AND last.kind & 15 < 5 AND ",
    is_last!("last"),
    sound!("last"),
    "
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.tx_id = last.tx_id AND incarnation = $1)
UNION
SELECT last.tx_id, last.version FROM log AS last
WHERE last.tx_id >= (SELECT parked_before FROM fences WHERE incarnation = $1)
    AND last.tx_id < (SELECT parks_from FROM fences WHERE incarnation = $1) AND length(last.tx_id) = 16
    AND last.owner = $1 AND last.kind & 15 < 5 AND last.kind & 16 = 0 AND ",
    is_last!("last"),
    sound!("last"),
    "
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.tx_id = last.tx_id AND incarnation = $1)"
);

/// Ends of the range of identifiers in which what is open may not be parked.
macro_rules! young_from {
    () => {
        "(SELECT min(parked_before) FROM fences WHERE NOT all_parked)"
    };
}
macro_rules! young_until {
    () => {
        "(SELECT max(parks_from) FROM fences WHERE NOT all_parked)"
    };
}
use {young_from, young_until};

/// Completes a SELECT of identifiers for a page, newest first, with the bytes of each one's rows.
macro_rules! page_of {
    ($($ids:expr),*) => {
        concat!(
            "
SELECT tx_id, (SELECT coalesce(sum(length(body)), 0) FROM log WHERE log.tx_id = page.tx_id",
            sound!("log"),
            ") FROM (",
            $($ids,)*
            "
ORDER BY tx_id DESC LIMIT $2) AS page ORDER BY tx_id DESC"
        )
    };
}

const PAGE_OF_ALL: &str = page_of!(
    "
SELECT tx_id FROM log
WHERE tx_id < $1 AND tx_id >= $3 AND created_ms IS NOT NULL AND length(tx_id) = 16",
    sound!("log")
);
const PAGE_OF_ATTENTION: &str = page_of!(
    "
SELECT tx_id FROM (
    SELECT tx_id FROM parked WHERE reasons <> 0 UNION SELECT tx_id FROM aside) AS known
WHERE tx_id < $1 AND tx_id >= $3 AND length(tx_id) = 16"
);
const PAGE_OF_OPEN: &str = page_of!(
    "
SELECT tx_id FROM (
    SELECT * FROM (
        SELECT tx_id FROM parked
        WHERE tx_id < $1 AND tx_id >= $3 AND length(tx_id) = 16 ORDER BY tx_id DESC LIMIT $2)
    UNION
    SELECT * FROM (
        SELECT tx_id FROM log
        WHERE tx_id < $1 AND tx_id >= $3 AND created_ms IS NOT NULL AND length(tx_id) = 16 AND tx_id >= ",
    young_from!(),
    " AND tx_id < ",
    young_until!(),
    sound!("log"),
    " ORDER BY tx_id DESC LIMIT $2)
) AS known"
);

#[async_trait]
impl Transactions for Sqlite {
    async fn claim(&self, me: Incarnation, claim: Claim) -> Result<Claimed, Error> {
        self.spared(Some(me), || Box::pin(self.claim_once(me, claim))).await
    }

    async fn set_aside(&self, me: Incarnation, tx_ids: &[TxId], aside: bool) -> Result<(), Error> {
        let ids: Vec<Uuid> = tx_ids.iter().map(|tx_id| tx_id.0).collect();
        let names = ids.clone();
        self.write("set transactions aside", Some(me), move |connection| {
            Box::pin(async move {
                for id in ids {
                    let query = match aside {
                        true => sqlx::query(SET_ASIDE).bind(id).bind(me.0),
                        false => sqlx::query("DELETE FROM aside WHERE tx_id = $1").bind(id),
                    };
                    query.execute(&mut *connection).await?;
                }
                Ok(())
            })
        })
        .await?;
        if !aside {
            self.opened.damage.take_back(&names).await;
        }
        Ok(())
    }

    async fn all_set_aside(&self, after: Option<TxId>, limit: u32) -> Result<Vec<TxId>, Error> {
        let query = sqlx::query_as(SELECT_SET_ASIDE)
            .bind(after.map_or(Uuid::nil(), |tx_id| tx_id.0))
            .bind(i64::from(limit));
        let rows: Vec<(Uuid,)> = self.rows("list what is set aside", query).await?;
        Ok(rows.into_iter().map(|(tx_id,)| TxId(tx_id)).collect())
    }

    async fn open_of(&self, owner: Incarnation) -> Result<Vec<(TxId, Version)>, Error> {
        if let Err(error) = self.spared(Some(owner), || Box::pin(self.park_own(owner))).await {
            let error = in_full(&error);
            tracing::warn!(error, "failed to park open transactions; they are found without that");
        }
        let open = || self.open_of_once(owner);
        let rows: Vec<(Uuid, i64)> = self.spared(Some(owner), || Box::pin(open())).await?;
        Ok(rows.into_iter().map(|(tx_id, version)| (TxId(tx_id), Version(version))).collect())
    }

    async fn find(&self, key: &Key) -> Result<Option<Stored>, Error> {
        let wanted = key.clone();
        let found = self.read("read a transaction", move |connection| {
            Box::pin(async move { read::by_key(connection, wanted).await })
        });
        Ok(rows::one(found.await?)?.filter(|stored| key.is_of(stored)))
    }

    async fn events(&self, tx_id: TxId) -> Result<Vec<Event>, Error> {
        const DOING: &str = "read a transaction's events";
        let acts = self.look(DOING, sqlx::query(SELECT_EVENTS).bind(tx_id.0)).await?;
        let rows = self.rows_of(DOING, tx_id).await?;
        let mut events = rows::acts(tx_id, &acts);
        events.extend(rows::read(&rows).pop().map(Read::into_events).unwrap_or_default());
        Ok(rows::events(tx_id, events))
    }

    async fn history(&self, tx_id: TxId, after: Version) -> Result<Vec<String>, Error> {
        let query =
            sqlx::query_as(SELECT_HISTORY).bind(tx_id.0).bind(after.0).bind(HISTORY_BYTES_MAX);
        rows::history(self.rows("read a transaction's history", query).await?, after)
    }

    async fn list(&self, filter: &Filter) -> Result<Page, Error> {
        self.spared(None, || Box::pin(self.list_once(filter))).await
    }

    async fn count(&self, ended_from: Timestamp) -> Result<Vec<PhaseCount>, Error> {
        self.spared(None, || Box::pin(self.count_once(ended_from))).await
    }

    async fn asleep(&self, after: TxId) -> Result<AsleepPage, Error> {
        let query = sqlx::query_as(ASLEEP).bind(after.0).bind(ASLEEP_PAGE_MAX);
        Ok(AsleepPage::of_rows(self.rows("count what sleeps", query).await?))
    }

    async fn attention(&self) -> Result<AttentionCount, Error> {
        const DOING: &str = "count transactions that need a person";
        let rows = self.look(DOING, sqlx::query(COUNT_ATTENTION)).await?;
        let count = rows.first().map(AttentionCount::from_row).transpose();
        let count = count.map_err(Error::database(DOING))?.unwrap_or_default();
        Ok(AttentionCount { damaged_ranges: self.opened.damage.lost(), ..count })
    }
}

impl Sqlite {
    async fn claim_once(&self, me: Incarnation, claim: Claim) -> Result<Claimed, Error> {
        // What was parked is adopted before somebody hears what was not.
        let parked = match claim {
            Claim::OfFenced(_) => self.park_fenced(me).await,
            Claim::Due { .. } | Claim::One(..) => Ok(()),
        };
        let opened = Arc::clone(&self.opened);
        let found = self
            .write("adopt transactions", Some(me), move |connection| {
                Box::pin(async move {
                    let query = match claim {
                        Claim::OfFenced(limit) => {
                            sqlx::query(opened.damage.sparing(CLAIM_OF_FENCED))
                                .bind(me.0)
                                .bind(i64::from(limit))
                        }
                        Claim::Due { until, limit } => {
                            sqlx::query(opened.damage.sparing(CLAIM_DUE))
                                .bind(me.0)
                                .bind(ms_to_column(until))
                                .bind(i64::from(limit))
                        }
                        Claim::One(tx_id, owner, version) => {
                            sqlx::query(opened.damage.sparing(CLAIM_ONE))
                                .bind(me.0)
                                .bind(tx_id.0)
                                .bind(owner.0)
                                .bind(version.0)
                        }
                    };
                    let claimed = query.fetch_all(&mut *connection).await?;
                    let ids = claimed.iter().filter_map(|row| row.try_get("tx_id").ok());
                    let ids: Vec<Uuid> = ids.collect();
                    adopt(connection, me, &ids).await
                })
            })
            .await?;
        if found.is_empty() {
            parked?;
        }
        Ok(rows::claimed(found))
    }

    async fn open_of_once(&self, owner: Incarnation) -> Result<Vec<(Uuid, i64)>, Error> {
        let query = sqlx::query_as(self.opened.damage.sparing(SELECT_OPEN)).bind(owner.0);
        self.rows("list open transactions", query).await
    }

    async fn list_once(&self, filter: &Filter) -> Result<Page, Error> {
        const DOING: &str = "list transactions";
        let mut search = Search::new(filter, Instant::now());
        while let Some(range) = search.next(Instant::now()) {
            let query = sqlx::query_as(self.opened.damage.sparing(match range.source {
                Source::All => PAGE_OF_ALL,
                Source::Attention => PAGE_OF_ATTENTION,
                Source::Open => PAGE_OF_OPEN,
            }));
            let query = query.bind(range.before).bind(CHUNK_MAX).bind(range.from);
            let ids = search.take(&self.rows(DOING, query).await?);
            let wanted = ids.clone();
            let found = self.read(DOING, move |connection| {
                Box::pin(async move { read::of_ids_without_data(connection, &wanted).await })
            });
            search.add(&ids, found.await?);
        }
        Ok(search.finish())
    }

    /// Reads all rows of a transaction, without its payloads and outputs.
    async fn rows_of(&self, doing: &'static str, tx_id: TxId) -> Result<Vec<SqliteRow>, Error> {
        let query = sqlx::query(select_log!("WHERE tx_id = $1 ORDER BY follows"));
        self.look(doing, query.bind(tx_id.0)).await
    }
}
