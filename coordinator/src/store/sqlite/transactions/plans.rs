//! Plans of the statements: none goes through all of the log.

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection, Row};
use unanimo_migrations::coordinator::SQLITE as MIGRATIONS;

use super::*;

#[tokio::test]
async fn no_statement_goes_through_all_of_the_log() {
    let connected = SqliteConnection::connect("sqlite::memory:").await;
    let mut connection = connected.expect("a database in memory");
    for migration in MIGRATIONS.iter() {
        let sql = sqlx::raw_sql(AssertSqlSafe(migration.sql.as_str().to_owned()));
        sql.execute(&mut connection).await.expect("it is migrated");
    }
    for statement in [
        CLAIM_OF_FENCED,
        CLAIM_DUE,
        CLAIM_ONE,
        ADOPT,
        OWN,
        SELECT_OPEN,
        COUNT_PHASES,
        PAGE_OF_ALL,
        PAGE_OF_ATTENTION,
        PAGE_OF_OPEN,
    ] {
        let explain = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}")));
        let plan = explain.fetch_all(&mut connection).await.expect("it is planned");
        let steps = plan.iter().map(|step| step.get::<String, _>("detail"));
        let steps: Vec<String> = steps.collect();
        let reads_all = |step: &String| {
            ["SCAN log", "SCAN last", "SCAN later"].iter().any(|scan| step.starts_with(scan))
        };
        assert!(!steps.is_empty() && !steps.iter().any(reads_all), "{statement}: {steps:?}");
    }
}
