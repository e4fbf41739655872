//! Plans of the statements: none goes through all of the log.
//!
//! Left out are those that name transactions by their whole keys, one by one, and those of the migration, which reads
//! all of an earlier version's tables, and writes the log.

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection, Row};
use unanimo_migrations::coordinator::SQLITE as MIGRATIONS;

use super::super::{batch, feed, locks, purge};
use super::*;

/// Returns the names under which a statement reads the log.
fn names_of_log(statement: &str) -> Vec<&str> {
    let words = statement.split(|c: char| c.is_whitespace() || "(),".contains(c));
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let reads = words.windows(2).enumerate();
    let reads = reads.filter(|(_, pair)| matches!(pair, ["FROM" | "JOIN", "log"]));
    let names = reads.map(|(index, _)| match words.get(index + 2..index + 4) {
        Some(["AS", name]) => *name,
        _ => "log",
    });
    names.collect()
}

/// Tells whether a step of a plan goes through all of a table, or of an index of it.
fn is_scan_of(step: &str, names: &[&str]) -> bool {
    let mut words = step.split(' ');
    words.next() == Some("SCAN") && words.next().is_some_and(|name| names.contains(&name))
}

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
        counts::AWAKE,
        counts::ASLEEP,
        counts::LAST_END,
        counts::ENDED,
        PAGE_OF_ALL,
        PAGE_OF_ATTENTION,
        PAGE_OF_OPEN,
        SELECT_HISTORY,
        parked::IS_ANY_YOUNG,
        parked::PART,
        parked::PARK,
        feed::NEWS_OF_RANGE,
        feed::NEWS_OF_WRITE,
        purge::OLD,
        purge::STRIPPED,
        locks::IS_OPEN,
        locks::OBSTACLE,
        batch::MOVE,
    ] {
        let names = names_of_log(statement);
        let explain = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}")));
        let plan = explain.fetch_all(&mut connection).await.expect("it is planned");
        let steps = plan.iter().map(|step| step.get::<String, _>("detail"));
        let steps: Vec<String> = steps.collect();
        assert!(!steps.is_empty() && !names.is_empty(), "{statement}");
        let is_found = |name: &&str| steps.iter().any(|step| step.contains(&format!(" {name} ")));
        assert!(names.iter().all(is_found), "{names:?} in {statement}: {steps:?}");
        let scans = steps.iter().any(|step| is_scan_of(step, &names));
        assert!(!scans, "{statement}: {steps:?}");
    }
    let all = "SELECT count(*) FROM fences CROSS JOIN log AS any_row";
    assert_eq!(names_of_log(all), ["any_row"]);
    assert!(is_scan_of("SCAN any_row USING COVERING INDEX log_ended", &names_of_log(all)));
}
