//! Costs of the tables: for each transaction, and beside many that have finished.

use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sqlx::{Connection, PgConnection};
use unanimo_coordinator::store::{
    self, Claim, Filter, Key, PostgresOptions, Retention, Store, Write, Written,
};
use unanimo_core::{
    Gid, Incarnation, Input, Payload, PhaseTwoAnswer, PhaseTwoOperation, Policy, PrepareAnswer,
    Timestamp, Transaction, Transition, TxId, Version,
};
use unanimo_tests::postgres::Server;
use uuid::Uuid;

use crate::say;
use crate::world::{Shape, definition};

/// Transactions in a batch.
const BATCH: usize = 1_024;

/// Batches of begins, decisions and ends that are measured.
const ROUNDS: usize = 30;

/// Repetitions of what is timed. The middle one counts.
const TIMES: usize = 9;

const LEASE: Duration = Duration::from_secs(60);

/// Copies a finished transaction. Identifiers are of the hour before, in its order.
const LOAD: &str = "
WITH sample AS (SELECT * FROM log WHERE tx_id = $1), names AS (
    INSERT INTO gids (key, tx_id)
    SELECT substr(sha256(i::text::bytea), 1, 16),
        (lpad(to_hex($2 + i * 3600000 / $3), 12, '0') || lpad(to_hex(i), 20, '0'))::uuid
    FROM generate_series(1, $3) AS i
    RETURNING tx_id)
INSERT INTO log (tx_id, follows, version, owner, write_id, kind, created_ms, ended_ms, body, data, history)
SELECT names.tx_id, follows, version, owner, write_id, kind, created_ms, ended_ms, body, data, history
FROM names CROSS JOIN sample";

/// Takes the figures, empty and beside so many.
pub(crate) async fn measure(count: i64) -> Result<ExitCode> {
    let server = Server::durable();
    let url = server.database().await;
    let store = store::open(&url, &PostgresOptions::default()).await?;
    let me = create(&store, "bench").await?;
    let mut raw = PgConnection::connect(&url).await?;
    costs(&store, me, &mut raw).await?;
    say(
        "\nfinished transactions        find    by gid      list     open    adopt    purge   (ms)",
    );
    times(&store, &mut raw, 0).await?;
    let loading = Instant::now();
    load(&store, me, &mut raw, count).await?;
    let loaded = loading.elapsed();
    times(&store, &mut raw, count).await?;
    say(&format!("{count} were loaded in {loaded:.1?}"));
    Ok(ExitCode::SUCCESS)
}

async fn create(store: &Arc<dyn Store>, node: &str) -> Result<Incarnation> {
    let created = store.incarnations().list().await?.created;
    store.incarnations().create(node, created, LEASE).await?.context("create an incarnation")
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn a_write(transition: Transition, base: Version) -> Write {
    let life = store::Life::default();
    Write { life, write_id: Uuid::new_v4(), base, former: None, transition }
}

/// Returns the begin, the decision and the end of a TCC, and its identifier.
fn a_transaction(at: Timestamp) -> Result<(TxId, [Write; 3])> {
    let (seconds, nanos) = (at.0 / 1000, u32::try_from(at.0 % 1000)? * 1_000_000);
    let id = Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, nanos));
    let (policy, definition) = (Policy::default(), definition(&id.to_string(), Shape::Tcc)?);
    let (mut tx, effects) = Transaction::begin(TxId(id), definition, at, &policy);
    let begin = effects.transition.context("a begin is written")?;
    let mut folded = |inputs: Vec<Input>| -> Result<Transition> {
        let mut all: Option<Transition> = None;
        for input in inputs {
            let effects = tx.apply(input, at, &policy).map_err(|e| anyhow::anyhow!("{e:?}"))?;
            match (&mut all, effects.transition) {
                (Some(all), Some(next)) => all.fold(next),
                (all @ None, next) => *all = next,
                (Some(_), None) => {}
            }
        }
        all.context("it is written")
    };
    let numbers = [1, 2].map(|n| unanimo_core::BranchNumber::new(n).expect("branches begin at 1"));
    let votes = numbers.map(|number| {
        let answer = PrepareAnswer::Prepared(Payload::default());
        Input::PrepareAnswered { number, attempt: 1, answer }
    });
    let decision = folded(votes.into())?;
    let done = numbers.map(|number| {
        let (operation, answer) = (PhaseTwoOperation::Commit, PhaseTwoAnswer::Done);
        Input::PhaseTwoAnswered { number, operation, attempt: 1, answer }
    });
    let end = folded(done.into())?;
    let (first, second) = (begin.version, decision.version);
    let writes = [a_write(begin, Version(0)), a_write(decision, first), a_write(end, second)];
    Ok((TxId(id), writes))
}

/// Processor time of all sessions of a database, in hundredths of seconds.
async fn processor_time(raw: &mut PgConnection) -> Result<u64> {
    let pids: Vec<i32> = sqlx::query_scalar(
        "SELECT pid FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .fetch_all(raw)
    .await?;
    let mut ticks = 0;
    for pid in pids {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // Behind the name, which may hold anything: the state is the third field.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let field = |n: usize| fields.split_whitespace().nth(n).and_then(|f| f.parse().ok());
        ticks += field(11).unwrap_or(0) + field(12).unwrap_or(0);
    }
    Ok(ticks)
}

async fn bytes(raw: &mut PgConnection) -> Result<(i64, i64)> {
    let query = "SELECT (pg_current_wal_insert_lsn() - '0/0')::int8, (
        SELECT sum(pg_total_relation_size(oid))::int8 FROM pg_class
        WHERE relkind = 'r' AND relnamespace = 'unanimo'::regnamespace)";
    Ok(sqlx::query_as(query).fetch_one(raw).await?)
}

/// Measures what each transaction costs.
async fn costs(store: &Arc<dyn Store>, me: Incarnation, raw: &mut PgConnection) -> Result<()> {
    let mut writer = store.batch_writer(me).await?;
    let (mut before, mut ticks, mut took) = (bytes(raw).await?, 0, Duration::ZERO);
    for round in 0..=ROUNDS {
        let mut batches: [Vec<Write>; 3] = Default::default();
        for _ in 0..BATCH {
            let (_, writes) = a_transaction(now())?;
            batches.iter_mut().zip(writes).for_each(|(batch, write)| batch.push(write));
        }
        let (started, first) = (Instant::now(), processor_time(raw).await?);
        for batch in &batches {
            let written = writer.write(batch).await?;
            ensure!(written.iter().all(|one| *one == Written::Applied), "{:?}", written[0]);
        }
        if round == 0 {
            // Plans are made in the first.
            before = bytes(raw).await?;
            continue;
        }
        ticks += processor_time(raw).await? - first;
        took += started.elapsed();
    }
    let after = bytes(raw).await?;
    let all = (ROUNDS * BATCH) as f64;
    say(&format!(
        "each TCC of two branches, in batches of {BATCH}: {:.1} µs of PostgreSQL's processor time, {:.0} bytes of \
         WAL, {:.0} bytes of tables and indexes ({:.1} µs altogether)",
        ticks as f64 * 10_000.0 / all,
        (after.0 - before.0) as f64 / all,
        (after.1 - before.1) as f64 / all,
        took.as_micros() as f64 / all
    ));
    Ok(())
}

/// Loads finished transactions, as copies of one.
async fn load(
    store: &Arc<dyn Store>,
    me: Incarnation,
    raw: &mut PgConnection,
    count: i64,
) -> Result<()> {
    let (id, writes) = a_transaction(now())?;
    let mut writer = store.batch_writer(me).await?;
    for write in writes {
        ensure!(writer.write(&[write]).await? == [Written::Applied], "it is applied");
    }
    let since = i64::try_from(now().0)? - 3_600_000;
    let load = sqlx::query(LOAD).bind(id.0).bind(since).bind(count);
    load.execute(&mut *raw).await?;
    sqlx::query("VACUUM ANALYZE").execute(raw).await?;
    Ok(())
}

/// Tells how long reading, adoption and the purge take.
async fn times(store: &Arc<dyn Store>, raw: &mut PgConnection, count: i64) -> Result<()> {
    let mut figures: [Vec<Duration>; 6] = Default::default();
    for _ in 0..TIMES {
        let me = create(store, "measured").await?;
        let (id, [begin, ..]) = a_transaction(now())?;
        let gid: Gid = Gid::new(&id.to_string())?;
        let mut writer = store.batch_writer(me).await?;
        writer.write(&[begin]).await?;
        let mut open: Vec<Write> = Vec::new();
        for _ in 0..100 {
            let (_, [begin, ..]) = a_transaction(now())?;
            open.push(begin);
        }
        writer.write(&open).await?;
        drop(writer);
        let transactions = store.transactions();
        let heir = create(store, "heir").await?;
        let mut time = Instant::now();
        let mut lap = |figure: usize| {
            figures[figure].push(time.elapsed());
            time = Instant::now();
        };
        transactions.find(&Key::Tx(id)).await?.context("it is found")?;
        lap(0);
        transactions.find(&Key::Gid(gid)).await?.context("it is found by its gid")?;
        lap(1);
        let filter = Filter { limit: 50, ..Filter::default() };
        ensure!(!transactions.list(&filter).await?.found.is_empty(), "some are listed");
        lap(2);
        ensure!(transactions.open_of(me).await?.len() == 101, "all are open");
        lap(3);
        store.incarnations().fence(me, "measured").await?;
        let claimed = transactions.claim(heir, Claim::OfFenced(1_000)).await?;
        ensure!(claimed.records.len() == 101, "{} are adopted", claimed.records.len());
        lap(4);
        let retention = Retention { details: Duration::from_secs(86_400), gids: LEASE * 10_000 };
        store.purge().strip(heir, retention, now()).await?;
        lap(5);
        // Whatever was adopted is out of the way of the next.
        for table in ["parked", "locks"] {
            sqlx::query(sqlx::AssertSqlSafe(format!("DELETE FROM {table}")))
                .execute(&mut *raw)
                .await?;
        }
        sqlx::query("DELETE FROM log WHERE owner = $1").bind(heir.0).execute(&mut *raw).await?;
        store.incarnations().fence(heir, "measured").await?;
    }
    let middle = |figure: &mut Vec<Duration>| {
        figure.sort();
        figure[figure.len() / 2].as_secs_f64() * 1000.0
    };
    let told: Vec<String> =
        figures.iter_mut().map(|figure| format!("{:>8.1}", middle(figure))).collect();
    say(&format!("{count:>21} {}", told.join(" ")));
    Ok(())
}
