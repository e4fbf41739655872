//! Place of a database on PostgreSQL.

use sqlx::postgres::PgConnection;

use super::super::opening::Place;

/// Part of a place that no table stores: the number of the table `fences`. Tables that were dropped and
/// restored in the same schema have another one.
pub(super) const TABLES: &str = "tables";

/// Part of a place that is the server's identifier.
const SYSTEM: &str = "system";

/// Place in which the tables were opened, with [`TABLES`].
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) schema: String,
    pub(super) place: Place,
    /// Number of the table `fences`. Each write of an incarnation looks for its fence in that table alone.
    pub(super) tables: String,
}

/// Returns the place of the database: the server's identifier, and the numbers that the server gave to
/// the database and the schema. A copy has others, unless it is a clone of the server's disk.
pub(super) async fn here(
    connection: &mut PgConnection,
    schema: &str,
) -> Result<Place, sqlx::Error> {
    let allowed: bool = sqlx::query_scalar(
        "SELECT coalesce(has_function_privilege(to_regprocedure('pg_control_system()'), 'EXECUTE'), \
                 false)",
    )
    .fetch_one(&mut *connection)
    .await?;
    let system: Option<String> = match allowed {
        true => {
            sqlx::query_scalar("SELECT system_identifier::text FROM pg_control_system()")
                .fetch_one(&mut *connection)
                .await?
        }
        false => None,
    };
    let (database, schema): (Option<String>, Option<String>) = sqlx::query_as(
        "SELECT (SELECT oid::text FROM pg_database WHERE datname = current_database()), \
                (SELECT oid::text FROM pg_namespace WHERE nspname = $1)",
    )
    .bind(schema)
    .fetch_one(connection)
    .await?;
    Ok(Place::new([(SYSTEM, system), ("database", database), ("schema", schema)]))
}

/// Warns if the server's identifier is not known: the numbers of a copy on another server may be the same.
pub(super) fn warn_if_blind(here: &Place) {
    if !here.knows(SYSTEM) {
        tracing::warn!(
            "this role has no EXECUTE on pg_control_system(), so that a copy of the database on another server \
             may not be noticed: grant it"
        );
    }
}

/// Returns the number of the table `fences`; `None` if it is not there.
pub(super) async fn tables(
    connection: &mut PgConnection,
    schema: &str,
) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT to_regclass(format('%I.fences', $1::text))::oid::text")
        .bind(schema)
        .fetch_one(connection)
        .await
}
