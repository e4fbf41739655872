//! Place of a database on PostgreSQL.

use sqlx::postgres::PgConnection;

use super::super::opening::Place;

/// Place in which the tables were opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) schema: String,
    pub(super) place: Place,
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
    Ok(Place::new([("system", system), ("database", database), ("schema", schema)]))
}
