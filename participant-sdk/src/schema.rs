//! The barrier's table: made and upgraded by migrations with a history table of their own, so that
//! they never meet the migrations of the service that they are part of.

use sqlx::migrate::{Migrate, MigrateError, Migrator};

/// Name of the table that remembers which migrations ran.
const HISTORY: &str = "unanimo_barrier_migrations";

/// Why a participant's database cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URL is none.
    #[error("understand the database's URL: {0}")]
    Url(String),
    /// The database cannot be reached.
    #[error("connect to the database")]
    Connect(#[source] sqlx::Error),
    /// The barrier's table cannot be made or upgraded.
    #[error("prepare the table unanimo_barrier")]
    Migrate(#[source] MigrateError),
    /// A later version of this crate was here.
    #[error(
        "use the table unanimo_barrier: it is of version {found}, this program knows {known}; \
         upgrade the program"
    )]
    Newer {
        /// Its version.
        found: i64,
        /// The latest that is known here.
        known: i64,
    },
}

pub(crate) async fn migrate<C: Migrate>(
    migrator: &Migrator,
    connection: &mut C,
) -> Result<(), Error> {
    let mut migrator = Migrator { migrations: migrator.migrations.clone(), ..Migrator::DEFAULT };
    migrator.dangerous_set_table_name(HISTORY);
    let known = migrator.iter().map(|migration| migration.version).max().unwrap_or(0);
    // Not `run`: its bounds keep the compiler from seeing that the future may move between threads,
    // and whoever opens a database in a task of its own would not get that compiled.
    migrator.run_direct(None, connection, false).await.map_err(|error| match error {
        MigrateError::VersionMissing(found) if found > known => Error::Newer { found, known },
        other => Error::Migrate(other),
    })
}
