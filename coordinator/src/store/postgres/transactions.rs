//! Transactions on PostgreSQL: read and adopted.

mod aside;
mod claims;
mod counts;
mod listed;
mod open;
mod pages;
mod parked;
mod read;
mod waits;

use std::time::Instant;

use async_trait::async_trait;
use sqlx::FromRow;
use sqlx::postgres::PgRow;
use unanimo_core::{Event, Incarnation, Timestamp, TxId, Version};
use uuid::Uuid;

pub(super) use self::aside::{Aside, set_failed_aside};
pub(super) use self::parked::{identifier_at, is_lock_timeout};
use self::parked::{park_fenced, park_own};
pub(super) use self::read::{of_ids, of_ids_without_data};
use super::super::listing::Search;
use super::super::rows::{
    self, COUNT_ATTENTION, HISTORY_BYTES_MAX, Read, SELECT_EVENTS, SELECT_HISTORY, select_log,
};
use super::super::transactions::{ASLEEP, ASLEEP_PAGE_MAX, AsleepPage};
use super::super::{
    AttentionCount, Claim, Claimed, Error, Filter, Key, Page, PhaseCount, Stored, Transactions,
    in_full,
};
use super::Postgres;

/// Adopts the transactions of CTE `free`: the next row of each says who owns it. Of two that adopt one at once,
/// the key lets one pass.
macro_rules! adopt {
    () => {
        "
), taken AS (
    INSERT INTO log (tx_id, follows, version, owner, write_id, kind, ended_ms, stripped_ms, body)
    SELECT tx_id, version, version + 1, $1, gen_random_uuid(), kind & ~16, ended_ms, stripped_ms, ''
    FROM free
    ON CONFLICT DO NOTHING
    RETURNING tx_id, kind
), owned AS (
    INSERT INTO parked (tx_id, owner) SELECT tx_id, $1 FROM taken WHERE kind & 15 < 5
    ON CONFLICT (tx_id) DO UPDATE SET owner = excluded.owner, wake_ms = NULL
), tried_again AS (
    DELETE FROM aside USING taken WHERE aside.tx_id = taken.tx_id
), no_waits AS (
    DELETE FROM waits USING taken WHERE waits.tx_id = taken.tx_id
)
SELECT tx_id FROM taken"
    };
}
use adopt;

/// The last row of the transaction of this name.
macro_rules! last_row {
    ($tx_id:literal) => {
        concat!(
            "(SELECT version, owner, kind, ended_ms, stripped_ms FROM log WHERE log.tx_id = ",
            $tx_id,
            " ORDER BY follows DESC LIMIT 1)"
        )
    };
}
use last_row;

/// Condition that no incarnation that still works has set a transaction aside: one that has looks at it again itself.
macro_rules! not_aside {
    ($tx_id:literal) => {
        concat!(
            "NOT EXISTS (
        SELECT 1 FROM aside WHERE aside.tx_id = ",
            $tx_id,
            " AND aside.incarnation = ANY(ARRAY(SELECT incarnation FROM fences WHERE NOT fenced)))"
        )
    };
}
use not_aside;

/// Owners of what may be claimed for one that is fenced; 0 has what could not be read when it was parked. An array, which
/// is read once, before all else: of a table that is joined the planner has to guess how many rows are fenced, and may read
/// all that is parked, whoever's it is.
macro_rules! fenced_or_unknown {
    () => {
        "ANY(ARRAY(SELECT incarnation FROM fences WHERE fenced UNION ALL SELECT 0::int8))"
    };
}
use fenced_or_unknown;

/// All that a fenced incarnation left is parked. What somebody holds is left for the next round.
const CLAIM_OF_FENCED: &str = concat!(
    "
WITH ",
    fence!("$3"),
    ", free AS MATERIALIZED (
    SELECT parked.tx_id, last.* FROM parked
    CROSS JOIN LATERAL ",
    last_row!("parked.tx_id"),
    " AS last
    WHERE parked.wake_ms IS NULL AND EXISTS (SELECT 1 FROM fence)
        AND parked.owner = ",
    fenced_or_unknown!(),
    "
        AND last.owner = ANY(ARRAY(SELECT incarnation FROM fences WHERE fenced))
        AND last.kind & 15 < 5
        AND ($4::uuid[] IS NULL OR parked.tx_id = ANY($4))
        AND ",
    not_aside!("parked.tx_id"),
    "
    LIMIT $2
    FOR UPDATE OF parked SKIP LOCKED",
    adopt!()
);

/// The soonest first: an index in the order of `wake_ms` is read up to the limit. What waits for participants is
/// woken for these, and its `wake_ms` is far off, so that there is little to pass over here. Whoever is claimed no
/// longer sleeps: it is in memory, or an open transaction like others.
const CLAIM_DUE: &str = concat!(
    "
WITH ",
    fence!("$4"),
    ", free AS MATERIALIZED (
    SELECT parked.tx_id, last.* FROM parked
    CROSS JOIN LATERAL ",
    last_row!("parked.tx_id"),
    " AS last
    WHERE parked.wake_ms <= $2 AND EXISTS (SELECT 1 FROM fence)
        AND ($5::uuid[] IS NULL OR parked.tx_id = ANY($5))
        AND (last.owner = $1 OR last.owner = ANY(ARRAY(SELECT incarnation FROM fences WHERE fenced)))
        AND last.kind & 15 < 5 AND last.kind & 16 <> 0
        AND NOT EXISTS (SELECT 1 FROM waits WHERE waits.tx_id = parked.tx_id)
        AND ",
    not_aside!("parked.tx_id"),
    "
    ORDER BY parked.wake_ms LIMIT $3
    FOR UPDATE OF parked SKIP LOCKED",
    adopt!()
);

/// One that somebody holds is left alone as well: whoever claims it waits for nobody.
const CLAIM_ONE: &str = concat!(
    "
WITH ",
    fence!("$5"),
    ", held AS MATERIALIZED (
    SELECT 1 FROM parked WHERE tx_id = $2 FOR UPDATE SKIP LOCKED
), free AS MATERIALIZED (
    SELECT $2::uuid AS tx_id, last.* FROM ",
    last_row!("$2"),
    " AS last
    WHERE owner = $3 AND version = $4 AND EXISTS (SELECT 1 FROM fence)
        AND (EXISTS (SELECT 1 FROM held) OR NOT EXISTS (SELECT 1 FROM parked WHERE tx_id = $2))
        AND (owner = $1 OR owner = ANY(ARRAY(SELECT incarnation FROM fences WHERE fenced)))",
    adopt!()
);

pub(super) const SET_ASIDE: &str = concat!(
    "
WITH ",
    fence!("$3"),
    "
INSERT INTO aside (tx_id, incarnation)
SELECT tx_id, $1 FROM UNNEST($2::uuid[]) AS new (tx_id) WHERE EXISTS (SELECT 1 FROM fence)
ON CONFLICT (tx_id) DO UPDATE SET incarnation = excluded.incarnation"
);

const TAKE_BACK: &str = concat!(
    "
WITH ",
    fence!("$3"),
    "
DELETE FROM aside WHERE tx_id = ANY($2) AND EXISTS (SELECT 1 FROM fence)"
);

/// Transactions that are set aside, by whomever. The identifier of zeros comes before all.
const SELECT_SET_ASIDE: &str = "SELECT tx_id FROM aside WHERE tx_id > $1 ORDER BY tx_id LIMIT $2";

/// Open transactions of an owner, but for those that sleep and those that it has set aside. The last row of each is the first
/// one where the index is read backwards: so nothing is sorted, here and wherever a range of the log is read.
const SELECT_OPEN: &str = concat!(
    "
SELECT tx_id, version FROM (
    SELECT parked.tx_id, last.version, last.owner, last.kind FROM parked
    CROSS JOIN LATERAL ",
    last_row!("parked.tx_id"),
    " AS last
    WHERE parked.owner IN ($1, 0) AND parked.wake_ms IS NULL
    UNION
    SELECT * FROM (
        SELECT DISTINCT ON (tx_id) tx_id, version, owner, kind FROM log
        WHERE tx_id >= (SELECT parked_before FROM fences WHERE incarnation = $1)
            AND tx_id < (SELECT parks_from FROM fences WHERE incarnation = $1)
        ORDER BY tx_id DESC, follows DESC) AS young
    WHERE kind & 16 = 0
) AS known
WHERE owner = $1 AND kind & 15 < 5
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.tx_id = known.tx_id AND incarnation = $1)"
);

#[async_trait]
impl Transactions for Postgres {
    async fn claim(&self, me: Incarnation, claim: Claim) -> Result<Claimed, Error> {
        let (nonce, damage) = (self.nonces.nonce(me), self.damage.clone());
        let found = self
            .run("adopt transactions", move |connection| {
                Box::pin(async move {
                    let mut parked = Ok(());
                    if matches!(claim, Claim::OfFenced(_)) {
                        parked = park_fenced(connection, &damage, me, nonce).await;
                    }
                    let found = claims::make(connection, (me, nonce), claim).await?;
                    // What was parked is adopted before somebody hears what was not.
                    if found.is_empty() {
                        parked?;
                    }
                    Ok(found)
                })
            })
            .await?;
        Ok(rows::claimed(found))
    }

    async fn set_aside(&self, me: Incarnation, tx_ids: &[TxId], aside: bool) -> Result<(), Error> {
        let ids: Vec<Uuid> = tx_ids.iter().map(|tx_id| tx_id.0).collect();
        let nonce = self.nonces.nonce(me);
        self.run("set transactions aside", move |connection| {
            Box::pin(async move {
                let statement = if aside { SET_ASIDE } else { TAKE_BACK };
                let query = sqlx::query(statement).bind(me.0).bind(ids).bind(nonce);
                query.execute(connection).await.map(|_| ())
            })
        })
        .await
    }

    async fn all_set_aside(&self, after: Option<TxId>, limit: u32) -> Result<Vec<TxId>, Error> {
        let query = sqlx::query_as(SELECT_SET_ASIDE)
            .bind(after.map_or(Uuid::nil(), |tx_id| tx_id.0))
            .bind(i64::from(limit));
        let rows: Vec<(Uuid,)> = self.rows("list what is set aside", query).await?;
        Ok(rows.into_iter().map(|(tx_id,)| TxId(tx_id)).collect())
    }

    async fn open_of(&self, owner: Incarnation) -> Result<Vec<(TxId, Version)>, Error> {
        let (nonce, damage) = (self.nonces.nonce(owner), self.damage.clone());
        let open = self.run("list open transactions", move |connection| {
            Box::pin(async move {
                if let Err(error) = park_own(connection, &damage, owner, nonce).await {
                    let error = in_full(&error);
                    tracing::warn!(
                        error,
                        "failed to park open transactions; they are found without that"
                    );
                }
                open::of_owner(connection, &damage, owner).await
            })
        });
        let rows: Vec<(Uuid, i64)> = open.await?;
        Ok(rows.into_iter().map(|(tx_id, version)| (TxId(tx_id), Version(version))).collect())
    }

    async fn find(&self, key: &Key) -> Result<Option<Stored>, Error> {
        let (wanted, epochs) = (key.clone(), self.names.known());
        let found = self.run("read a transaction", move |connection| {
            Box::pin(async move { read::by_key(connection, wanted, epochs.as_deref()).await })
        });
        Ok(rows::one(found.await?)?.filter(|stored| key.is_of(stored)))
    }

    async fn events(&self, tx_id: TxId) -> Result<Vec<Event>, Error> {
        const DOING: &str = "read a transaction's events";
        let acts = self.told(DOING, sqlx::query(SELECT_EVENTS).bind(tx_id.0)).await?;
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
        const DOING: &str = "list transactions";
        let mut search = Search::new(filter, Instant::now());
        while let Some(range) = search.next(Instant::now()) {
            let damage = self.damage.clone();
            let page = self.run(DOING, move |connection| {
                Box::pin(async move { pages::of_range(connection, &damage, range).await })
            });
            let mut ids = search.take(&page.await?);
            if search.chooses_early() {
                let (all, with_phases) = (ids.clone(), search.asks_for_phases());
                let begins = self.run(DOING, move |connection| {
                    Box::pin(async move { read::begins(connection, &all, with_phases).await })
                });
                ids = search.choose(ids, &begins.await?);
            }
            if ids.is_empty() {
                continue;
            }
            let wanted = ids.clone();
            let found = self.run(DOING, move |connection| {
                Box::pin(async move { read::for_list(connection, &wanted).await })
            });
            search.add(&ids, found.await?);
        }
        Ok(search.finish())
    }

    async fn count(&self, ended_from: Timestamp) -> Result<Vec<PhaseCount>, Error> {
        let count = self.run("count transactions", move |connection| {
            Box::pin(async move { counts::count(connection, ended_from).await })
        });
        count.await
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
        if self.damage.lost() > 0 {
            let damage = self.damage.clone();
            let looking = self.run(DOING, move |connection| {
                Box::pin(async move { damage.look_again(connection).await })
            });
            looking.await?;
        }
        Ok(AttentionCount { damaged_ranges: self.damage.lost(), ..count })
    }

    async fn keep_names(&self, me: Incarnation) -> Result<(), Error> {
        self.keep_epochs(me).await
    }
}

impl Postgres {
    /// Reads all rows of a transaction, without its payloads and outputs.
    async fn rows_of(&self, doing: &'static str, tx_id: TxId) -> Result<Vec<PgRow>, Error> {
        let query = sqlx::query(select_log!("WHERE tx_id = $1 ORDER BY follows"));
        self.told(doing, query.bind(tx_id.0)).await
    }
}
