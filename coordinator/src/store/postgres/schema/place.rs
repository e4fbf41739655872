//! Place of a database on PostgreSQL: compared with the stored one, and stored.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row};

use super::super::super::Error;
use super::super::super::opening::{Itself, Nodes, Place, PlaceChange, Start};
use super::super::place;
use super::{Tables, execute, quoted};

/// Compares where the database says that it is with where it is.
pub(super) async fn compare_place(
    connection: &mut PgConnection,
    schema: &str,
    found: &Tables,
    start: &Start,
) -> Result<PlaceChange, Error> {
    let Some(itself) = itself(connection, schema, found).await? else {
        return Ok(PlaceChange::Stay);
    };
    itself.compare_place(&here(connection, schema).await?, start)
}

/// Reads what the database says of itself; `None` if there are no tables.
pub(super) async fn itself(
    connection: &mut PgConnection,
    schema: &str,
    found: &Tables,
) -> Result<Option<Itself>, Error> {
    let schema_of_tables = match found {
        Tables::None => return Ok(None),
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
    Ok(Some(Itself {
        cluster_id: row.try_get("cluster_id").map_err(Error::database(doing))?,
        place: place("place"),
        copied_at: place("copied_at"),
        moved_by: Nodes::from_column(row.try_get("moved_by").unwrap_or_default()),
    }))
}

/// Returns the place of the database.
pub(super) async fn here(connection: &mut PgConnection, schema: &str) -> Result<Place, Error> {
    place::here(connection, schema).await.map_err(Error::database("read where the database is"))
}

/// Stores the nodes whose last start was given a flag that names no place.
pub(super) async fn keep_flags(
    connection: &mut PgConnection,
    moved_by: &Nodes,
) -> Result<(), Error> {
    sqlx::query("UPDATE cluster SET moved_by = $1")
        .bind(moved_by.to_column())
        .execute(connection)
        .await
        .map(drop)
        .map_err(Error::database("store that the database was called moved"))
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
