//! Place of a database on PostgreSQL: compared with the stored one, and stored.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row};

use super::super::super::Error;
use super::super::super::opening::{Itself, Place, PlaceChange, Relocation};
use super::{Tables, execute, quoted};

/// Compares where the database says that it is with where it is.
pub(super) async fn compare_place(
    connection: &mut PgConnection,
    schema: &str,
    found: &Tables,
    told: Option<&Relocation>,
) -> Result<PlaceChange, Error> {
    let schema_of_tables = match found {
        Tables::None => return Ok(PlaceChange::Stay),
        Tables::Old { schema, .. } => schema,
        Tables::Own { .. } => schema,
    };
    let doing = "read where the database is";
    let read = format!("SELECT * FROM {}.cluster", quoted(schema_of_tables));
    // Not kept prepared: a migration on this session changes the columns.
    let row = sqlx::query(AssertSqlSafe(read))
        .persistent(false)
        .fetch_one(&mut *connection)
        .await
        .map_err(Error::database(doing))?;
    // Tables of an earlier version lack the later columns.
    let place = |column| {
        let text: Option<Option<String>> = row.try_get(column).ok();
        text.flatten().map(|text| Place::from_column(&text))
    };
    let itself = Itself {
        cluster_id: row.try_get("cluster_id").map_err(Error::database(doing))?,
        place: place("place"),
        copied_at: place("copied_at"),
    };
    itself.compare_place(&here(connection, schema).await?, told)
}

/// Returns the place of the database: the server's identifier, and the numbers that the server gave to
/// the database and the schema. A copy has others, unless it is a clone of the server's disk.
pub(super) async fn here(connection: &mut PgConnection, schema: &str) -> Result<Place, Error> {
    let doing = "read where the database is";
    let allowed: bool = sqlx::query_scalar(
        "SELECT coalesce(has_function_privilege(to_regprocedure('pg_control_system()'), 'EXECUTE'), \
                 false)",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(Error::database(doing))?;
    let system: Option<String> = match allowed {
        true => sqlx::query_scalar("SELECT system_identifier::text FROM pg_control_system()")
            .fetch_one(&mut *connection)
            .await
            .map_err(Error::database(doing))?,
        false => None,
    };
    let (database, schema): (Option<String>, Option<String>) = sqlx::query_as(
        "SELECT (SELECT oid::text FROM pg_database WHERE datname = current_database()), \
                (SELECT oid::text FROM pg_namespace WHERE nspname = $1)",
    )
    .bind(schema)
    .fetch_one(connection)
    .await
    .map_err(Error::database(doing))?;
    Ok(Place::new([("system", system), ("database", database), ("schema", schema)]))
}

pub(super) async fn keep_place(
    connection: &mut PgConnection,
    here: &Place,
    change: &PlaceChange,
) -> Result<(), Error> {
    let doing = "store where the database is";
    let is_copy = *change == PlaceChange::Copy;
    let cluster_id: String = sqlx::query_scalar(
        "UPDATE cluster SET place = $1,
             copied_at = CASE WHEN $2 THEN $1 ELSE copied_at END,
             cluster_id = CASE
                 WHEN $2 THEN 'c' || substr(replace(gen_random_uuid()::text, '-', ''), 1, 12)
                 ELSE cluster_id END
         RETURNING cluster_id",
    )
    .bind(here.to_string())
    .bind(is_copy)
    .fetch_one(&mut *connection)
    .await
    .map_err(Error::database(doing))?;
    if is_copy {
        execute(connection, "DELETE FROM endpoints", doing).await?;
        tracing::warn!(
            cluster_id,
            "this database is a copy: it has a new cluster id, and knows no endpoint of a participant"
        );
    }
    Ok(())
}
