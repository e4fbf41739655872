//! Finished transactions, loaded by the server itself, and the time that is needed beside them to read, adopt and purge.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sqlx::{Connection, Executor, PgConnection};
use unanimo_coordinator::store::{
    self, Claim, Filter, Key, PhaseName, PostgresOptions, Retention, Store, Write, Written,
};
use unanimo_core::{
    Call, Gid, Incarnation, Input, Operation, ParticipantName, Payload, Phase, PhaseTwoAnswer,
    Policy, PrepareAnswer, Record, Timestamp, Transaction, Transition, TxId,
};
use uuid::Uuid;

use crate::layout::{a_transaction, a_write, create, now};

/// Transactions that are loaded in one statement.
const CHUNK: i64 = 500_000;

/// Transactions that are open and adopted.
const OPEN: usize = 100;

/// Retention of what is purged here. Details and gid go in one run.
pub(crate) const DAY: Retention =
    Retention { details: Duration::from_secs(86_400), gids: Duration::from_secs(86_400) };

const HOUR_MS: u64 = 3_600_000;

/// Time from the deletion of details until the name may go, and a little: half of its retention.
const HALF_MS: u64 = 13 * HOUR_MS;

/// Writes of a batch.
pub(crate) const BATCH: usize = 1_024;

/// Identifier of one that is loaded: its time, the load's number, its own number.
macro_rules! loaded_id {
    () => {
        "(lpad(to_hex($2 + i * $3 / $4), 12, '0') || lpad(to_hex($5), 4, '0') || lpad(to_hex(i), 16, '0'))::uuid"
    };
}

/// Names of a load, in epochs before the first one, of as many names as the coordinator puts into each; in the order of
/// their keys: an index that is filled so is written once.
const NAMES: &str = concat!(
    "
WITH names AS MATERIALIZED (
    SELECT -1000 * $5 - i / 1048576 AS epoch, encode(substr(sha256(id::text::bytea), 1, 16), 'hex')::uuid AS key, id FROM (
        SELECT i, ",
    loaded_id!(),
    " AS id FROM generate_series($1, $6) AS i) AS new
), epochs AS (
    INSERT INTO unanimo.epochs (epoch, closed_by) SELECT epoch, gen_random_uuid() FROM names GROUP BY epoch
)
INSERT INTO unanimo.gids (epoch, key, tx_id) SELECT epoch, key, id FROM names ORDER BY epoch, key"
);

/// A time in milliseconds as it stands in a body: twice its number, seven bits in each of six bytes, the lowest first.
macro_rules! in_body {
    ($ms:literal) => {
        concat!(
            "decode(lpad(to_hex((2 * ",
            $ms,
            ") & 127 | 128), 2, '0') || lpad(to_hex((2 * ",
            $ms,
            ") >> 7 & 127 | 128), 2, '0') || lpad(to_hex((2 * ",
            $ms,
            ") >> 14 & 127 | 128), 2, '0') || lpad(to_hex((2 * ",
            $ms,
            ") >> 21 & 127 | 128), 2, '0') || lpad(to_hex((2 * ",
            $ms,
            ") >> 28 & 127 | 128), 2, '0') || lpad(to_hex((2 * ",
            $ms,
            ") >> 35 & 127), 2, '0'), 'hex')"
        )
    };
}

/// Copies of a finished transaction, each with a gid and times of its own.
const ROWS: &str = concat!(
    "
WITH sample AS MATERIALIZED (
    SELECT *, position($7::text::bytea IN body) AS place, position(",
    in_body!("created_ms"),
    " IN body) AS begun FROM unanimo.log WHERE tx_id = $7::uuid)
INSERT INTO unanimo.log (tx_id, follows, version, owner, write_id, kind, created_ms, ended_ms, body, data, history)
SELECT id, follows, version, owner, gen_random_uuid(), kind,
    CASE WHEN created_ms IS NOT NULL THEN at END, CASE WHEN ended_ms IS NOT NULL THEN at + 5 END,
    CASE WHEN place > 0 AND begun > 0
        THEN overlay(overlay(body PLACING id::text::bytea FROM place) PLACING ",
    in_body!("at"),
    " FROM begun) ELSE body END, data, history
FROM (SELECT i, $2 + i * $3 / $4 AS at, ",
    loaded_id!(),
    " AS id FROM generate_series($1, $6) AS i) AS new CROSS JOIN sample
ORDER BY i, follows"
);

/// Finished transactions of a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) number: i32,
    pub(crate) count: i64,
    /// Begin of the first.
    pub(crate) since_ms: i64,
    /// Time from the first to the last.
    pub(crate) span_ms: i64,
}

impl Load {
    pub(crate) fn id(&self, i: i64) -> Uuid {
        let ms = self.since_ms + i * self.span_ms / self.count;
        let bits = |value: i64| u128::try_from(value).unwrap_or_default();
        Uuid::from_u128((bits(ms) << 80) | (bits(self.number.into()) << 64) | bits(i))
    }
}

/// Database that is measured.
pub(crate) struct Side {
    pub(crate) url: String,
    pub(crate) store: std::sync::Arc<dyn Store>,
    pub(crate) raw: PgConnection,
    sample: Uuid,
    /// Loads that stay.
    loads: Vec<Load>,
    next: i64,
}

impl Side {
    pub(crate) async fn new(url: String) -> Result<Self> {
        let store = store::open(&url, &PostgresOptions::default()).await?;
        let raw = PgConnection::connect(&url).await?;
        let me = create(&store, "loads").await?;
        let (id, writes) = a_transaction(now())?;
        let mut writer = store.batch_writer(me).await?;
        for write in writes {
            ensure!(writer.write(&[write]).await? == [Written::Applied], "it is applied");
        }
        Ok(Self { url, store, raw, sample: id.0, loads: Vec::new(), next: 0 })
    }

    /// Loads finished transactions. Those that stay are among the ones that are looked for.
    pub(crate) async fn load(&mut self, load: Load, stays: bool) -> Result<()> {
        let Load { number, count, since_ms, span_ms } = load;
        let names = sqlx::query(NAMES).bind(1_i64).bind(since_ms).bind(span_ms).bind(count);
        names.bind(number).bind(count).execute(&mut self.raw).await?;
        let mut first = 1;
        while first <= count {
            let last = (first + CHUNK - 1).min(count);
            let rows = sqlx::query(ROWS).bind(first).bind(since_ms).bind(span_ms).bind(count);
            let rows = rows.bind(number).bind(last).bind(self.sample);
            rows.execute(&mut self.raw).await?;
            first = last + 1;
        }
        if stays {
            self.loads.push(load);
        }
        let me = create(&self.store, "keeps names").await?;
        self.store.transactions().keep_names(me).await?;
        Ok(())
    }

    /// Some loaded transaction, another one each time.
    fn any(&mut self) -> Result<Uuid> {
        let load = self.loads.last().context("something is loaded")?;
        self.next = (self.next + 6_700_417) % load.count;
        Ok(load.id(self.next + 1))
    }

    /// Takes each figure of reading and adoption once. No coordinator works here meanwhile.
    pub(crate) async fn read(&mut self, figures: &mut Figures) -> Result<()> {
        let me = create(&self.store, "measured").await?;
        let (id, [begin, ..]) = a_transaction(now())?;
        let mut writer = self.store.batch_writer(me).await?;
        ensure!(writer.write(&[begin]).await? == [Written::Applied], "it is begun");
        let mut open: Vec<Write> = Vec::new();
        for _ in 0..OPEN {
            let (_, [begin, ..]) = a_transaction(now())?;
            open.push(begin);
        }
        let written = writer.write(&open).await?;
        ensure!(written.iter().all(|one| *one == Written::Applied), "all are begun");
        drop(writer);
        let (old, other) = (self.any()?, self.any()?);
        let (store, heir) = (self.store.clone(), create(&self.store, "heir").await?);
        let transactions = store.transactions();
        let by_gid = |id: Uuid| Gid::new(&id.to_string()).map(Key::Gid);
        figures.lap("", Ok(()))?;
        let keys = [
            ("find a new one", Key::Tx(id)),
            ("by gid, a new one", by_gid(id.0)?),
            ("find an old one", Key::Tx(TxId(old))),
            ("by gid, an old one", by_gid(other)?),
        ];
        for (what, key) in keys {
            let found = transactions.find(&key).await?;
            figures.lap(what, found.map(drop).context("it is found"))?;
        }
        for (what, filter) in filters()? {
            let found = transactions.list(&filter).await?.found.len();
            // Whatever somebody has is found at once.
            ensure!(!what.contains("window") || found == 50, "{found} in the {what}");
            figures.lap(what, Ok(()))?;
        }
        transactions.count(now()).await?;
        figures.lap("count", Ok(()))?;
        transactions.attention().await?;
        figures.lap("count what needs a person", Ok(()))?;
        let found = transactions.open_of(me).await?.len();
        ensure!(found == OPEN + 1, "{found} are open");
        figures.lap("open of an owner", Ok(()))?;
        store.incarnations().fence(me, "measured").await?;
        let claimed = transactions.claim(heir, Claim::OfFenced(1_000)).await?.records;
        ensure!(claimed.len() == OPEN + 1, "{} are adopted", claimed.len());
        figures.lap("fence and adopt", Ok(()))?;
        // They end as others do, out of the way of the next.
        let mut writer = store.batch_writer(heir).await?;
        let ends = claimed.into_iter().map(|record| ended(record, heir));
        let written = writer.write(&ends.collect::<Result<Vec<_>>>()?).await?;
        ensure!(written.iter().all(|one| *one == Written::Applied), "all have ended");
        drop(writer);
        store.incarnations().fence(heir, "measured").await?;
        Ok(())
    }

    /// Fences all that worked here: a coordinator that starts would watch them for a lease.
    pub(crate) async fn fence_all(&self) -> Result<()> {
        let incarnations = self.store.incarnations();
        for live in incarnations.list().await?.live {
            incarnations.fence(live.incarnation, "measured").await?;
        }
        Ok(())
    }

    /// Counts those that are due, with their details, and altogether.
    pub(crate) async fn due(&mut self) -> Result<(i64, i64)> {
        let before = i64::try_from(now().0)? - 86_400_000;
        let due = sqlx::query_as(
            "SELECT (SELECT count(*) FROM unanimo.log WHERE ended_ms < $1 AND stripped_ms IS NULL)
                 AS whole, (SELECT count(*) FROM unanimo.log WHERE ended_ms < $1 AND stripped_ms IS NULL)
                 + (SELECT count(*) FROM unanimo.log WHERE ended_ms < $1 AND stripped_ms IS NOT NULL) AS all",
        );
        Ok(due.bind(before).fetch_one(&mut self.raw).await?)
    }

    /// Writes transactions that ended in the hour that began so long ago, each as a coordinator writes it: the purge goes by
    /// what is in their rows.
    pub(crate) async fn end(&mut self, count: u64, hours_ago: u64) -> Result<()> {
        let me = create(&self.store, "ends").await?;
        let mut writer = self.store.batch_writer(me).await?;
        let since = now().0 - hours_ago * HOUR_MS;
        let at = |number| Timestamp(since + number * HOUR_MS / count);
        let all: Vec<u64> = (0..count).collect();
        for part in all.chunks(BATCH) {
            let mut steps: [Vec<Write>; 3] = Default::default();
            for number in part {
                let (_, writes) = a_transaction(at(*number))?;
                steps.iter_mut().zip(writes).for_each(|(step, write)| step.push(write));
            }
            for step in steps {
                let written = writer.write(&step).await?;
                ensure!(written.iter().all(|one| *one == Written::Applied), "all are written");
            }
        }
        drop(writer);
        self.store.incarnations().fence(me, "measured").await?;
        self.raw.execute("VACUUM ANALYZE").await?;
        Ok(())
    }

    /// Deletes details as the purge did it so long ago that the names may go now, and returns the number of transactions.
    pub(crate) async fn strip(&self, me: unanimo_core::Incarnation) -> Result<u64> {
        let at = Timestamp(now().0 - HALF_MS);
        Ok(self.store.purge().strip(me, DAY, at).await?)
    }

    /// Deletes the names of those, and returns the number of transactions.
    pub(crate) async fn delete(&self, me: unanimo_core::Incarnation) -> Result<u64> {
        Ok(self.store.purge().delete(me, DAY, now()).await?)
    }
}

/// Returns the write by which its adopter ends a transaction, once its participants have answered.
fn ended(record: Record, by: Incarnation) -> Result<Write> {
    let (base, policy) = (record.version, Policy::default());
    let mut tx = Transaction::restore(record);
    let (mut inputs, mut all) = (VecDeque::from([Input::Recovered { by }]), None::<Transition>);
    while let Some(input) = inputs.pop_front() {
        let effects = tx.apply(input, now(), &policy).map_err(|e| anyhow::anyhow!("{e:?}"))?;
        match (&mut all, effects.transition) {
            (Some(all), Some(next)) => all.fold(next),
            (all @ None, next) => *all = next,
            (Some(_), None) => {}
        }
        inputs.extend(effects.calls.into_iter().map(|Call { number, operation, attempt }| {
            match operation {
                Operation::Prepare => {
                    let answer = PrepareAnswer::Prepared(Payload::default());
                    Input::PrepareAnswered { number, attempt, answer }
                }
                Operation::PhaseTwo(operation) => {
                    let answer = PhaseTwoAnswer::Done;
                    Input::PhaseTwoAnswered { number, operation, attempt, answer }
                }
            }
        }));
    }
    let end = all.context("an end is written")?;
    ensure!(matches!(end.state.phase, Phase::Ended { .. }), "{:?}", end.state.phase);
    Ok(a_write(end, base))
}

/// Pages of lists.
fn filters() -> Result<[(&'static str, Filter); 8]> {
    let page = || Filter { limit: 50, ..Filter::default() };
    let hour = |hours: u64| Timestamp(now().0 - hours * 3_600_000);
    let phases = |phase| Filter { phases: vec![phase], ..page() };
    Ok([
        ("list", page()),
        ("list, committed", phases(PhaseName::Committed)),
        ("list, open", phases(PhaseName::Active)),
        ("list, needs a person", Filter { attention: true, ..page() }),
        (
            "list, a participant of all",
            Filter { participant: Some(ParticipantName::new("a")?), ..page() },
        ),
        (
            "list, a participant of none",
            Filter { participant: Some(ParticipantName::new("nobody")?), ..page() },
        ),
        ("list, gids of none", Filter { gid_prefix: "none".to_owned(), ..page() }),
        (
            "list, a window of time",
            Filter { created_from: Some(hour(3)), created_until: Some(hour(2)), ..page() },
        ),
    ])
}

/// Times of each figure.
#[derive(Debug)]
pub(crate) struct Figures {
    since: Instant,
    taken: Vec<(&'static str, Vec<f64>)>,
}

impl Default for Figures {
    fn default() -> Self {
        Self { since: Instant::now(), taken: Vec::new() }
    }
}

impl Figures {
    /// Adds the time since the last one, unless it has no name.
    fn lap(&mut self, what: &'static str, done: Result<()>) -> Result<()> {
        let took = self.since.elapsed();
        done?;
        if !what.is_empty() {
            self.add(what, took.as_secs_f64() * 1000.0);
        }
        self.since = Instant::now();
        Ok(())
    }

    pub(crate) fn add(&mut self, what: &'static str, value: f64) {
        match self.taken.iter_mut().find(|(name, _)| *name == what) {
            Some((_, values)) => values.push(value),
            None => self.taken.push((what, vec![value])),
        }
    }

    /// Returns the middle one of each.
    pub(crate) fn middle(&self) -> Vec<(&'static str, f64)> {
        let middle = |values: &Vec<f64>| {
            let mut values = values.clone();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        self.taken.iter().map(|(what, values)| (*what, middle(values))).collect()
    }
}
