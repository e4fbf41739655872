//! Migrations over any driver: sqlx's migrator, with its history table and its lock.
//!
//! It finds and leaves the same as sqlx itself: processes of one participant may have
//! several drivers, and earlier versions had sqlx's alone.

use std::time::{Duration, Instant};

use sqlx::migrate::{AppliedMigration, Migrate, MigrateError, Migration};

use super::driver::{Connection, Error, Parameter as P};
use super::{error, statements};
use crate::action::BoxFuture;
use crate::schema;

type Result<T> = std::result::Result<T, MigrateError>;

/// Connection whose database is migrated.
pub(super) struct Migrating<'c, C>(pub(super) &'c mut C);

impl<C: Connection> Migrating<'_, C> {
    async fn lock_with(&mut self, function: &str) -> Result<()> {
        let (database,): (String,) =
            statements::one(self.0, "SELECT current_database()::text", &[])
                .await
                .map_err(failed)?;
        let statement = format!("SELECT {function}({})", lock_id(&database));
        self.0.run(&statement).await.map_err(failed)
    }

    async fn apply_one(&mut self, history: &str, migration: &Migration) -> Result<Duration> {
        let started = Instant::now();
        let Migration { version, description, checksum, .. } = migration;
        let insert = format!(
            "INSERT INTO {history} (version, description, success, checksum, execution_time)
             VALUES ($1, $2, TRUE, $3, $4)"
        );
        self.0.run("BEGIN READ WRITE").await.map_err(failed)?;
        self.0.run(migration.sql.as_str()).await.map_err(failed)?;
        let took = i64::try_from(started.elapsed().as_nanos()).unwrap_or(-1);
        let row =
            [P::Int(Some(*version)), P::Text(description), P::Bytes(checksum), P::Int(Some(took))];
        self.0.execute(&insert, &row).await.map_err(failed)?;
        self.0.run("COMMIT").await.map_err(failed)?;
        Ok(started.elapsed())
    }
}

impl<C: Connection> Migrate for Migrating<'_, C> {
    fn create_schema_if_not_exists<'e>(&'e mut self, name: &'e str) -> BoxFuture<'e, Result<()>> {
        Box::pin(async move {
            let create = format!("CREATE SCHEMA IF NOT EXISTS {name}");
            self.0.run(&create).await.map_err(failed)
        })
    }

    fn ensure_migrations_table<'e>(&'e mut self, history: &'e str) -> BoxFuture<'e, Result<()>> {
        Box::pin(async move {
            let create = format!(
                "CREATE TABLE IF NOT EXISTS {history} (
                     version        bigint PRIMARY KEY,
                     description    text NOT NULL,
                     installed_on   timestamptz NOT NULL DEFAULT now(),
                     success        boolean NOT NULL,
                     checksum       bytea NOT NULL,
                     execution_time bigint NOT NULL)"
            );
            self.0.run(&create).await.map_err(failed)
        })
    }

    fn dirty_version<'e>(&'e mut self, history: &'e str) -> BoxFuture<'e, Result<Option<i64>>> {
        Box::pin(async move {
            let dirty = format!(
                "SELECT version FROM {history} WHERE success = false ORDER BY version LIMIT 1"
            );
            let dirty: Option<(i64,)> =
                statements::optional(self.0, &dirty, &[]).await.map_err(failed)?;
            Ok(dirty.map(|(version,)| version))
        })
    }

    fn list_applied_migrations<'e>(
        &'e mut self,
        history: &'e str,
    ) -> BoxFuture<'e, Result<Vec<AppliedMigration>>> {
        Box::pin(async move {
            let applied = format!("SELECT version, checksum FROM {history} ORDER BY version");
            let applied: Vec<(i64, Vec<u8>)> =
                statements::all(self.0, &applied, &[]).await.map_err(failed)?;
            let applied = applied.into_iter();
            Ok(applied
                .map(|(version, checksum)| AppliedMigration { version, checksum: checksum.into() })
                .collect())
        })
    }

    fn lock(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.lock_with("pg_advisory_lock"))
    }

    fn unlock(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.lock_with("pg_advisory_unlock"))
    }

    fn apply<'e>(
        &'e mut self,
        history: &'e str,
        migration: &'e Migration,
    ) -> BoxFuture<'e, Result<Duration>> {
        Box::pin(self.apply_one(history, migration))
    }

    /// Migrations of the barrier have no way back.
    fn revert<'e>(
        &'e mut self,
        _: &'e str,
        migration: &'e Migration,
    ) -> BoxFuture<'e, Result<Duration>> {
        Box::pin(std::future::ready(Err(MigrateError::VersionNotPresent(migration.version))))
    }
}

fn failed(error: Error) -> MigrateError {
    MigrateError::Source(Box::new(error))
}

/// Returns the driver's error in one of a migration.
pub(super) fn failure(error: &MigrateError) -> Option<&Error> {
    match error {
        MigrateError::Source(error) => error.downcast_ref(),
        _ => None,
    }
}

/// Tells whether the role may not upgrade the table.
pub(super) fn is_not_permitted(error: &schema::Error) -> bool {
    let schema::Error::Migrate(error) = error else { return false };
    failure(error).and_then(error::code) == Some(error::NOT_PERMITTED)
}

/// Returns the number of the lock that sqlx takes for a database's migrations.
fn lock_id(database: &str) -> i64 {
    0x3d32_ad9e * i64::from(crc32(database.as_bytes()))
}

/// CRC-32 of ISO HDLC, as of zip and PNG.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            let polynomial = if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
            (crc >> 1) ^ polynomial
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_is_sqlxs() {
        // The check value of the algorithm's definition.
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(lock_id("123456789"), 0x3d32_ad9e * 0xcbf4_3926);
    }
}
