//! Tables of an earlier version, which kept the library's default history, and no schema of its own.

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use unanimo_migrations::coordinator::POSTGRES as MIGRATIONS;

use super::super::super::Error;
use super::super::super::opening::HISTORY;
use super::{execute, quoted};

/// History of an earlier version: the library's default.
pub(super) const OLD_HISTORY: &str = "_sqlx_migrations";

/// Tables of an earlier version, by the migration that made them.
const OLD_TABLES: [(i64, &[&str]); 2] = [
    (
        1,
        &[
            "cluster",
            "fences",
            "heartbeats",
            "journals",
            "transactions",
            "branches",
            "outputs",
            "events",
            "participants",
            "endpoints",
        ],
    ),
    (3, &["locks", "history"]),
];

/// Versions and names of our migrations: others may be in the same history.
pub(super) fn known_migrations() -> (Vec<i64>, Vec<String>) {
    MIGRATIONS.iter().map(|known| (known.version, known.description.to_string())).unzip()
}

/// Moves the tables of an earlier version, and its part of the history.
pub(super) async fn move_tables(
    connection: &mut PgConnection,
    old: &str,
    schema: &str,
    version: i64,
) -> Result<(), Error> {
    let doing = "move the tables of an earlier version";
    let (from, to) = (quoted(old), quoted(schema));
    let (theirs, own) = (format!("{from}.{OLD_HISTORY}"), format!("{to}.{HISTORY}"));
    execute(connection, &format!("CREATE TABLE {own} (LIKE {theirs} INCLUDING ALL)"), doing)
        .await?;
    let take = format!(
        "WITH ours AS (
             DELETE FROM {theirs} AS history
             USING UNNEST($1::int8[], $2::text[]) AS known (version, description)
             WHERE history.version = known.version AND history.description = known.description
             RETURNING history.*
         )
         INSERT INTO {own} SELECT * FROM ours"
    );
    let (versions, names) = known_migrations();
    sqlx::query(AssertSqlSafe(take))
        .bind(versions)
        .bind(names)
        .execute(&mut *connection)
        .await
        .map_err(Error::database(doing))?;
    let left: bool =
        sqlx::query_scalar(AssertSqlSafe(format!("SELECT EXISTS (SELECT 1 FROM {theirs})")))
            .fetch_one(&mut *connection)
            .await
            .map_err(Error::database(doing))?;
    if !left {
        execute(connection, &format!("DROP TABLE {theirs}"), doing).await?;
    }
    if old == schema {
        return Ok(());
    }
    let tables = OLD_TABLES.iter().filter(|(made_by, _)| *made_by <= version);
    for table in tables.flat_map(|(_, tables)| *tables) {
        let set = format!("ALTER TABLE {from}.{table} SET SCHEMA {to}");
        execute(connection, &set, doing).await?;
    }
    // An earlier version would find nothing here, begin a second coordinator group, and do again what is
    // done: its first table is in its way.
    let note = format!(
        "CREATE VIEW {from}.cluster AS SELECT 'the coordinator keeps its tables in schema {schema}' AS moved"
    );
    execute(connection, &note, doing).await?;
    tracing::info!(from = old, to = schema, "moved the tables of an earlier version");
    Ok(())
}
