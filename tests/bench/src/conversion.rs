//! The first start on a database of the version before the log: the time that it takes, and the memory.

use std::borrow::Cow;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use unanimo_coordinator::store::{self, PostgresOptions};
use unanimo_migrations::coordinator::POSTGRES;
use unanimo_tests::postgres::Server;

use crate::memory::resident_mib;
use crate::say;

/// Last version of the schema without the log.
const BEFORE: i64 = 15;

/// Progress of a branch that has committed, as that version wrote it.
const DONE: &str = "{\"vote\":\"prepared\",\"voted_at\":1795795041877,\
    \"database_id\":\"6d1b9e4edb7862a9e3168ec0ed378c35\",\"finish\":\"done\",\"ended_at\":1795795041898,\
    \"prepare_attempts\":{\"count\":1,\"first_at\":1795795041846,\"last_at\":1795795041846},\
    \"finish_attempts\":{\"count\":1,\"first_at\":1795795041878,\"last_at\":1795795041878}}";

/// Converts so many TCC of two branches that have ended.
pub(crate) async fn measure(count: i64) -> Result<ExitCode> {
    let server = Server::durable();
    let url = server.database().await;
    let mut raw = PgConnection::connect(&url).await?;
    let first = POSTGRES.iter().filter(|file| file.version <= BEFORE).cloned().collect();
    Migrator { migrations: Cow::Owned(first), ..Migrator::DEFAULT }.run(&mut raw).await?;
    raw.execute(AssertSqlSafe(tables(count))).await?;
    raw.execute("VACUUM ANALYZE").await?;
    raw.execute("CHECKPOINT").await?;
    let bytes: i64 = sqlx::query_scalar("SELECT pg_database_size(current_database())")
        .fetch_one(&mut raw)
        .await?;
    raw.close().await?;
    let (peak, ends) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let watcher = std::thread::spawn({
        let (peak, ends) = (Arc::clone(&peak), Arc::clone(&ends));
        move || {
            while !ends.load(Ordering::Relaxed) {
                peak.fetch_max(resident_mib().unwrap_or(0), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    });
    let (before, started) = (resident_mib()?, Instant::now());
    let opened = store::open(&url, &PostgresOptions::default()).await;
    let took = started.elapsed();
    ends.store(true, Ordering::Relaxed);
    ensure!(watcher.join().is_ok(), "the watcher of the memory has panicked");
    opened?.close().await;
    let mut raw = PgConnection::connect(&url).await?;
    let there: i64 = sqlx::query_scalar("SELECT count(DISTINCT tx_id) FROM unanimo.log")
        .fetch_one(&mut raw)
        .await?;
    ensure!(there == count, "{there} of {count} are there");
    say(&format!(
        "{count} transactions in {} MiB were converted in {took:.1?}: {:.1} s for each 100,000; memory {before} MiB \
         before, {} MiB at most",
        bytes >> 20,
        took.as_secs_f64() * 100_000.0 / count as f64,
        peak.load(Ordering::Relaxed)
    ));
    Ok(ExitCode::SUCCESS)
}

/// Statements that fill the tables.
fn tables(count: i64) -> String {
    let id = "lpad(to_hex(1790000000000 + n), 12, '0')::text || '7000' || '8' || lpad(to_hex(n), 15, '0')";
    let all = format!("FROM generate_series(1, {count}) AS n");
    format!(
        "UPDATE cluster SET incarnations = 1;
         INSERT INTO fences (incarnation, node, fenced) VALUES (1, 'one', true);
         INSERT INTO heartbeats (incarnation) VALUES (1);
         INSERT INTO transactions (tx_id, gid, owner, version, write_id, mode, drive, digest, digest_version, created_ms,
             deadline_ms, phase, decided_ms, ended_ms, progress)
         SELECT ({id})::uuid, 'order-' || n, 1, 3, gen_random_uuid(), 'tcc', 'declarative', sha256(n::text::bytea), 1,
             1790000000000 + n, 1790000060000 + n, 'committed', 1790000000005 + n, 1790000000010 + n, '[{DONE},{DONE}]'
         {all};
         INSERT INTO branches (tx_id, number, branch_id, participant, action, enlisted_by, payload, payload_type)
         SELECT ({id})::uuid, number, 'b' || number, 'bank-' || number, 'debit', 'coordinator',
             ('{{\"account\": \"alice\", \"cents\": ' || n || '}}')::bytea, 'application/json'
         {all}, generate_series(1, 2) AS number;
         INSERT INTO outputs (tx_id, number, output, output_type)
         SELECT ({id})::uuid, 2, ('reservation-' || n)::bytea, 'text/plain' {all};"
    )
}
