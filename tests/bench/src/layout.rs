//! Costs of the tables for each transaction.

use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sqlx::{Connection, PgConnection};
use unanimo_coordinator::store::{self, PostgresOptions, Store, Write, Written};
use unanimo_core::{
    Incarnation, Input, Payload, PhaseTwoAnswer, PhaseTwoOperation, Policy, PrepareAnswer,
    Timestamp, Transaction, Transition, TxId, Version,
};
use unanimo_tests::postgres::Server;
use uuid::Uuid;

use crate::memory::ticks_of;
use crate::say;
use crate::world::{Shape, definition};

/// Transactions in a batch.
const BATCH: usize = 1_024;

/// Batches of begins, decisions and ends that are measured.
const ROUNDS: usize = 30;

/// Lease of an incarnation that nobody renews.
const LEASE: Duration = Duration::from_secs(60);

/// Takes the figures.
pub(crate) async fn measure() -> Result<ExitCode> {
    let server = Server::durable();
    let url = server.database().await;
    let store = store::open(&url, &PostgresOptions::default()).await?;
    let me = create(&store, "bench").await?;
    let mut raw = PgConnection::connect(&url).await?;
    let Costs { processor_us, wal, space, took_us } = costs(&store, me, &mut raw, ROUNDS).await?;
    say(&format!(
        "each TCC of two branches, in batches of {BATCH}: {processor_us:.1} µs of PostgreSQL's processor time, \
         {wal:.0} bytes of WAL, {space:.0} bytes of tables and indexes ({took_us:.1} µs altogether)"
    ));
    Ok(ExitCode::SUCCESS)
}

/// Costs of each transaction.
pub(crate) struct Costs {
    pub(crate) processor_us: f64,
    pub(crate) wal: f64,
    pub(crate) space: f64,
    pub(crate) took_us: f64,
}

pub(crate) async fn create(store: &Arc<dyn Store>, node: &str) -> Result<Incarnation> {
    let created = store.incarnations().list().await?.created;
    store.incarnations().create(node, created, LEASE).await?.context("create an incarnation")
}

pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

pub(crate) fn a_write(transition: Transition, base: Version) -> Write {
    let life = store::Life::default();
    Write { life, write_id: Uuid::new_v4(), base, former: None, transition }
}

/// Returns the begin, the decision and the end of a TCC, and its identifier.
pub(crate) fn a_transaction(at: Timestamp) -> Result<(TxId, [Write; 3])> {
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
pub(crate) async fn processor_time(raw: &mut PgConnection) -> Result<u64> {
    let pids: Vec<i32> = sqlx::query_scalar(
        "SELECT pid FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .fetch_all(raw)
    .await?;
    let mut ticks = 0;
    for pid in pids {
        ticks += ticks_of(&fs::read_to_string(format!("/proc/{pid}/stat"))?)?;
    }
    Ok(ticks)
}

/// Bytes of the database's own log so far.
pub(crate) async fn wal(raw: &mut PgConnection) -> Result<i64> {
    let query = "SELECT (pg_current_wal_insert_lsn() - '0/0')::int8";
    Ok(sqlx::query_scalar(query).fetch_one(raw).await?)
}

async fn bytes(raw: &mut PgConnection) -> Result<(i64, i64)> {
    let query = "SELECT (pg_current_wal_insert_lsn() - '0/0')::int8, (
        SELECT sum(pg_total_relation_size(oid))::int8 FROM pg_class
        WHERE relkind = 'r' AND relnamespace = 'unanimo'::regnamespace)";
    Ok(sqlx::query_as(query).fetch_one(raw).await?)
}

/// Measures what each transaction costs.
pub(crate) async fn costs(
    store: &Arc<dyn Store>,
    me: Incarnation,
    raw: &mut PgConnection,
    rounds: usize,
) -> Result<Costs> {
    let mut writer = store.batch_writer(me).await?;
    let (mut before, mut ticks, mut took) = (bytes(raw).await?, 0, Duration::ZERO);
    for round in 0..=rounds {
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
    let all = (rounds * BATCH) as f64;
    Ok(Costs {
        processor_us: ticks as f64 * 10_000.0 / all,
        wal: (after.0 - before.0) as f64 / all,
        space: (after.1 - before.1) as f64 / all,
        took_us: took.as_micros() as f64 / all,
    })
}
