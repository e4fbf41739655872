//! Keeping the epochs of names: the last one is closed once it has many names, each closed one gets a filter, and one
//! whose names are purged goes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use unanimo_core::Incarnation;
use uuid::Uuid;

use super::super::super::Error;
use super::super::super::error::is_of_data;
use super::super::Postgres;
use super::super::transactions::is_lock_timeout;
use super::filter::Filter;
use super::{Closed, Known, OfEpoch};

/// Part of all names that an epoch has at least.
const PARTS: u64 = 16;

/// Names that one statement reads or counts.
const CHUNK: i64 = 100_000;

/// Names above which an epoch gets no filter: it would be a value of more than 50 MB.
const FILTERED_MAX: u64 = 1 << 25;

/// Names from which on the last epoch is closed, however many there are of all.
const NAMES_OF_EPOCH_MAX: u64 = FILTERED_MAX / 2;

/// Time after which the names of the last epoch are counted again: other processes insert some, too.
const COUNT_PAUSE: Duration = Duration::from_secs(10 * 60);

/// Pause between two looks at how many names a closed epoch has left.
const LOOK_PAUSE: Duration = Duration::from_secs(10 * 60);

/// Time after which a filter is tried again that could not be made.
const FAILED_PAUSE: Duration = Duration::from_secs(60 * 60);

/// Part of its names that an epoch has left when it gets a smaller filter.
const THIN: u64 = 4;

/// Names below which a filter is small enough.
const SMALL: u64 = 4_096;

/// Tries of a statement that waits for batches.
const TRIES_MAX: u32 = 3;

/// Closes the last epoch, and begins the next one. The rows of all incarnations that may write are changed, once their
/// batches have ended: from then on no name is inserted under the one that is closed. Nothing is changed if somebody
/// else has closed it, or if an incarnation was created after their number was read: this statement may not see it.
const TURN: &str = "
WITH turned AS (
    UPDATE cluster SET epoch = epoch + 1, epoch_nonce = gen_random_uuid()
    WHERE epoch = $3 AND epoch_nonce = $4 AND incarnations = $5
        AND EXISTS (SELECT 1 FROM fences WHERE incarnation = $1 AND nonce = $2 AND NOT fenced)
    RETURNING epoch, epoch_nonce
), marked AS (
    UPDATE fences SET epoch = turned.epoch, epoch_nonce = turned.epoch_nonce FROM turned WHERE NOT fenced
), closed AS (
    UPDATE epochs SET closed_by = turned.epoch_nonce FROM turned WHERE epochs.epoch = turned.epoch - 1
)
INSERT INTO epochs (epoch) SELECT epoch FROM turned";

const INCARNATIONS: &str = "SELECT incarnations FROM cluster";

const FILTER: &str = "SELECT filter FROM epochs WHERE epoch = $1 AND closed_by = $2";

/// Start of the server, in microseconds.
macro_rules! started {
    () => {
        "(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::int8"
    };
}

/// Stores the filter of an epoch that was closed by this: another one of the same number has other names. So may the same one on
/// a server that was promoted, where names are back that the one before had purged: it has started at another time.
const STORE: &str = concat!(
    "
WITH ",
    fence!("$5"),
    "
UPDATE epochs SET filter = $4 WHERE epoch = $2 AND closed_by = $3 AND EXISTS (SELECT 1 FROM fence)
    AND $6 = ",
    started!()
);

const STARTED: &str = concat!("SELECT ", started!());

/// A closed epoch gets no name: once it has none, it has none for ever.
const DELETE: &str = concat!(
    "
WITH ",
    fence!("$4"),
    "
DELETE FROM epochs WHERE epoch = $2 AND closed_by = $3 AND EXISTS (SELECT 1 FROM fence)
    AND NOT EXISTS (SELECT 1 FROM gids WHERE gids.epoch = epochs.epoch)"
);

const LAST_OF_CHUNK: &str =
    "SELECT key FROM gids WHERE epoch = $1 AND key > $2 ORDER BY key OFFSET $3 LIMIT 1";
const COUNT: &str = "SELECT count(*) FROM (SELECT 1 FROM gids WHERE epoch = $1 AND key > $2 ORDER BY key LIMIT $3) AS part";
const KEYS: &str = "SELECT key FROM gids WHERE epoch = $1 AND key > $2 ORDER BY key LIMIT $3";

/// State of keeping, between two times.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Names of this epoch, when they were counted last.
    counted: Option<(i32, u64, Instant)>,
    /// Closed epoch that was looked at last, and when.
    looked: Option<(i32, Instant)>,
    /// Closed epochs that have no filter: they could not be read, or there is no room; and when that was.
    failed: HashMap<OfEpoch, Instant>,
}

impl Postgres {
    /// Does what is due.
    pub(in crate::store::postgres) async fn keep_epochs(
        &self,
        me: Incarnation,
    ) -> Result<(), Error> {
        let mut kept = self.names.0.kept.lock().await;
        let known = self.read_epochs().await?;
        kept.failed.retain(|_, at| at.elapsed() < FAILED_PAUSE);
        let unfiltered = known.closed.iter().filter(|closed| closed.filter.is_none());
        for of in unfiltered.filter_map(Closed::of) {
            self.make_filter(me, of, &mut kept).await?;
        }
        let known = self.names.known().unwrap_or(known);
        self.close_if_full(me, &known, &mut kept).await?;
        self.look_at_one(me, &known, &mut kept).await
    }

    async fn read_epochs(&self) -> Result<Arc<Known>, Error> {
        let names = self.names.clone();
        let read = self.run("read the epochs of names", move |connection| {
            Box::pin(async move { names.read(connection).await })
        });
        read.await
    }

    /// Reads the filter of a closed epoch, or makes it of the epoch's names. One without a name goes. What the server
    /// answers for one epoch holds up no other.
    async fn make_filter(
        &self,
        me: Incarnation,
        of: OfEpoch,
        kept: &mut Kept,
    ) -> Result<(), Error> {
        if kept.failed.contains_key(&of) {
            return Ok(());
        }
        let generation = self.names.generation();
        match self.filter_of(me, of).await {
            Ok(filter) => {
                if !filter.is_some_and(|filter| self.names.note(of, generation, filter)) {
                    kept.failed.insert(of, Instant::now());
                }
            }
            Err(Error::Database { doing, source: source @ sqlx::Error::Database(_) }) => {
                kept.failed.insert(of, Instant::now());
                tracing::warn!(
                    epoch = of.0,
                    doing,
                    error = %source,
                    "failed to make the filter of an epoch of names; each new gid is looked for among them in the database"
                );
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn filter_of(
        &self,
        me: Incarnation,
        (epoch, closed_by): OfEpoch,
    ) -> Result<Option<Filter>, Error> {
        let stored = self.run("read a filter of names", move |connection| {
            Box::pin(async move {
                let stored = sqlx::query_scalar(FILTER).bind(epoch).bind(closed_by);
                let stored: Option<Option<Vec<u8>>> = stored.fetch_optional(connection).await?;
                Ok(stored.flatten())
            })
        });
        let stored = match stored.await {
            // It is made anew.
            Err(Error::Database { source, .. }) if is_of_data(&source) => None,
            stored => stored?,
        };
        if let Some(filter) = aside(move || Filter::decode(&stored?)).await {
            return Ok(Some(filter));
        }
        self.make_anew(me, (epoch, closed_by)).await
    }

    /// Makes a filter of the names that are there, and stores it.
    async fn make_anew(
        &self,
        me: Incarnation,
        (epoch, closed_by): OfEpoch,
    ) -> Result<Option<Filter>, Error> {
        let started = sqlx::query_as(STARTED);
        let (started,): (i64,) = self.row("read when the server has started", started).await?;
        let names = self.count_names(epoch, FILTERED_MAX).await?;
        if names >= FILTERED_MAX {
            return Ok(None);
        }
        if names == 0 {
            self.delete_epoch(me, (epoch, closed_by)).await?;
            return Ok(None);
        }
        let (mut filter, mut after) = (Filter::new(names), Uuid::nil());
        loop {
            let keys = self.keys(epoch, after).await?;
            keys.iter().for_each(|key| filter.insert(*key));
            match keys.into_iter().last() {
                Some(last) => after = last,
                None => break,
            }
        }
        let encoded = aside(move || Some((filter.encode(), filter))).await;
        let Some((stored, filter)) = encoded else { return Ok(None) };
        let nonce = self.nonces.nonce(me);
        let store = self.run("store a filter of names", move |connection| {
            Box::pin(async move {
                let store = sqlx::query(STORE).bind(me.0).bind(epoch).bind(closed_by);
                let store = store.bind(stored).bind(nonce).bind(started);
                let stored = store.execute(connection).await?;
                Ok(stored.rows_affected() == 1)
            })
        });
        // What closed it is not what this filter was made after.
        Ok(store.await?.then_some(filter))
    }

    async fn keys(&self, epoch: i32, after: Uuid) -> Result<Vec<Uuid>, Error> {
        self.run("read names", move |connection| {
            Box::pin(async move {
                let keys = sqlx::query_scalar(KEYS).bind(epoch).bind(after).bind(CHUNK);
                keys.fetch_all(connection).await
            })
        })
        .await
    }

    /// Counts names of an epoch, up to about so many, in parts.
    async fn count_names(&self, epoch: i32, limit: u64) -> Result<u64, Error> {
        let (mut names, mut after) = (0, Uuid::nil());
        while names < limit {
            let from = after;
            let part = self.run("count names", move |connection| {
                Box::pin(async move { count_part(connection, epoch, from).await })
            });
            let (part, last) = part.await?;
            names += part;
            match last {
                Some(last) => after = last,
                None => break,
            }
        }
        Ok(names)
    }

    /// Closes the last epoch if it has as many names as one should have.
    async fn close_if_full(
        &self,
        me: Incarnation,
        known: &Known,
        kept: &mut Kept,
    ) -> Result<(), Error> {
        let shared = &self.names.0;
        let filters = known.closed.iter().filter_map(|closed| closed.filter.as_ref());
        let before: u64 = filters.map(|filter| filter.names()).sum();
        let full = shared.names_of_epoch.max((before / PARTS).min(NAMES_OF_EPOCH_MAX));
        let inserted = shared.inserted.load(Ordering::Relaxed);
        let is_few = kept.counted.is_some_and(|(epoch, names, at)| {
            epoch == known.epoch && names + inserted < full && at.elapsed() < COUNT_PAUSE
        });
        if is_few {
            return Ok(());
        }
        let names = match self.count_names(known.epoch, full).await {
            // Those that come later are in pages of their own then.
            Err(Error::Database { source, .. }) if is_of_data(&source) => {
                tracing::warn!(
                    epoch = known.epoch,
                    error = %source,
                    "failed to read the names of the last epoch; the next one begins"
                );
                full
            }
            names => names?,
        };
        shared.inserted.fetch_sub(inserted, Ordering::Relaxed);
        kept.counted = Some((known.epoch, names, Instant::now()));
        if names < full {
            return Ok(());
        }
        let (epoch, epoch_nonce, nonce) = (known.epoch, known.nonce, self.nonces.nonce(me));
        let turned = self.run("begin the next epoch of names", move |connection| {
            Box::pin(async move { turn(connection, (me, nonce), epoch, epoch_nonce).await })
        });
        let turned = turned.await;
        // Whatever became of it, what is there now is what counts.
        self.names.forget();
        let known = self.read_epochs().await?;
        if turned? {
            tracing::debug!(epoch = known.epoch, names, "a new epoch of names has begun");
        }
        match known.closed.iter().find(|closed| closed.epoch == epoch).and_then(Closed::of) {
            Some(of) => self.make_filter(me, of, kept).await,
            None => Ok(()),
        }
    }

    /// Looks at the next closed epoch: without a name it goes, and with few it gets a smaller filter.
    async fn look_at_one(
        &self,
        me: Incarnation,
        known: &Known,
        kept: &mut Kept,
    ) -> Result<(), Error> {
        if kept.looked.is_some_and(|(_, at)| at.elapsed() < LOOK_PAUSE) {
            return Ok(());
        }
        let last = kept.looked.map(|(epoch, _)| epoch);
        let later = known.closed.iter().find(|closed| Some(closed.epoch) > last);
        let Some(closed) = later.or(known.closed.first()) else { return Ok(()) };
        kept.looked = Some((closed.epoch, Instant::now()));
        let (Some(filter), Some(of)) = (&closed.filter, closed.of()) else { return Ok(()) };
        let generation = self.names.generation();
        let left = self.count_names(closed.epoch, filter.names() / THIN).await?;
        let is_thin = filter.names() > SMALL && left < filter.names() / THIN;
        if (left == 0 || is_thin)
            && let Some(filter) = self.make_anew(me, of).await?
        {
            self.names.note(of, generation, filter);
        }
        Ok(())
    }

    async fn delete_epoch(
        &self,
        me: Incarnation,
        (epoch, closed_by): OfEpoch,
    ) -> Result<(), Error> {
        let nonce = self.nonces.nonce(me);
        let delete = self.run("delete an epoch without a name", move |connection| {
            Box::pin(async move {
                let delete = sqlx::query(DELETE).bind(me.0).bind(epoch).bind(closed_by);
                delete.bind(nonce).execute(connection).await.map(drop)
            })
        });
        delete.await?;
        self.read_epochs().await.map(drop)
    }
}

/// Works on a filter, which may be large, on a thread that answers nobody else. Nothing if that ends.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> Option<T> + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok().flatten()
}

/// Counts the names of a part, and returns where the next one begins; nothing after the last part.
async fn count_part(
    connection: &mut PgConnection,
    epoch: i32,
    after: Uuid,
) -> Result<(u64, Option<Uuid>), sqlx::Error> {
    let last = sqlx::query_scalar(LAST_OF_CHUNK).bind(epoch).bind(after).bind(CHUNK - 1);
    let last: Option<Uuid> = last.fetch_optional(&mut *connection).await?;
    if last.is_some() {
        return Ok((CHUNK.unsigned_abs(), last));
    }
    let left = sqlx::query_scalar(COUNT).bind(epoch).bind(after).bind(CHUNK);
    let left: i64 = left.fetch_one(connection).await?;
    Ok((left.unsigned_abs(), None))
}

/// Begins the next epoch, and tells whether it has begun.
async fn turn(
    connection: &mut PgConnection,
    (me, nonce): (Incarnation, Uuid),
    epoch: i32,
    epoch_nonce: Uuid,
) -> Result<bool, sqlx::Error> {
    let mut tries = 1;
    loop {
        // Read before the statement that sees the incarnations themselves.
        let incarnations: i64 =
            sqlx::query_scalar(INCARNATIONS).fetch_one(&mut *connection).await?;
        let turn = sqlx::query(TURN).bind(me.0).bind(nonce).bind(epoch).bind(epoch_nonce);
        match turn.bind(incarnations).execute(&mut *connection).await {
            Err(error) if tries < TRIES_MAX && is_lock_timeout(&error) => tries += 1,
            turned => return Ok(turned?.rows_affected() == 1),
        }
    }
}
