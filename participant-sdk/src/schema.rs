//! The barrier's table: made and upgraded by migrations with a history table of their own, so that
//! they never meet the migrations of the service that they are part of.
//!
//! A table that is there already, from an earlier start or from the plain files, is used as it is: the
//! service's own role need not be allowed to make tables.

use std::time::Duration;

use sqlx::migrate::{Migrate, MigrateError, Migrator};

/// Longest wait for a connection to set something up by.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Longest wait for what is read to know how the database is: it may wait for locks.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) const LOOK_MAX: Duration = Duration::from_secs(60);

/// Longest time in which the table is made or upgraded. A large one is not upgraded in a moment.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) const MAKE_MAX: Duration = Duration::from_secs(1800);

/// Name of the table that remembers which migrations ran.
const HISTORY: &str = "unanimo_barrier_migrations";

/// Failure to use a participant's database.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not a URL of such a database.
    #[error("understand the database's URL: {0}")]
    Url(String),
    /// The database cannot be reached.
    #[error("connect to the database")]
    Connect(#[source] sqlx::Error),
    /// The database cannot be reached by a driver of another crate than sqlx.
    #[cfg(feature = "postgres")]
    #[error("connect to the database")]
    Driver(#[source] crate::postgres::driver::Error),
    /// Upgrading the barrier's table has waited in vain for those who use it. Prepared transactions do,
    /// for as long as they are in doubt.
    #[error(
        "upgrade the table unanimo_barrier: others have used it for {waited:?}; a prepared transaction \
         (pg_prepared_xacts, XA RECOVER) does so until it has ended: let a process of the earlier version end it"
    )]
    InUse {
        /// Time that was waited.
        waited: Duration,
    },
    /// The database has not answered, neither well nor with an error.
    #[error("set the database up: it has not answered for {waited:?}")]
    Silent {
        /// Time that was waited.
        waited: Duration,
    },
    /// These connections cannot be used.
    #[error("use these connections: {0}")]
    Unfit(String),
    /// The connections lead to several databases.
    #[error(
        "use the database: it has the id {found}, and the one that was connected to first has {known}; all \
         connections of a participant must lead to one"
    )]
    OtherDatabase {
        /// The id beside the barrier's table of the first connection.
        known: String,
        /// The id of this one.
        found: String,
    },
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
    /// The table was made by hand, and is not the one that this version needs.
    #[error(
        "use the table unanimo_barrier, which was made by hand: it lacks columns of version \
         {known}; apply the newer files of migrations/participant"
    )]
    ByHand {
        /// The version that is needed.
        known: i64,
    },
}

#[cfg(feature = "postgres")]
impl From<crate::postgres::driver::Error> for Error {
    fn from(error: crate::postgres::driver::Error) -> Self {
        if error.is_unfit() {
            return Self::Unfit(error.to_string());
        }
        if let Some(waited) = error.silent_for() {
            return Self::Silent { waited };
        }
        match error.into_sqlx() {
            Ok(error) => Self::Connect(error),
            Err(error) => Self::Driver(error),
        }
    }
}

/// Bounds a part of the set-up. A server that vanishes without a word ends no connection.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) async fn within<T>(
    bound: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(bound, work).await.unwrap_or(Err(Error::Silent { waited: bound }))
}

/// Tells that an earlier version's table is used as it is, because the role may make nothing.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) fn tell_not_upgraded(found: Found, migrator: &Migrator, error: &Error) {
    let found = found.version.flatten().unwrap_or(0);
    let files: Vec<String> = migrator
        .iter()
        .filter(|migration| migration.version > found)
        .map(|migration| format!("{:04}_{}.sql", migration.version, migration.description))
        .collect();
    tracing::warn!(
        error = crate::causes::in_full(error),
        found,
        files = files.join(", "),
        "the table unanimo_barrier is used as an earlier version has made it: this role may not upgrade it. Start one \
         process as a role that may, or run these files of migrations/participant and note them in \
         unanimo_barrier_migrations"
    );
}

/// Reads the id of the database, which was made at random together with its table. It tells two databases
/// apart that serve one name.
pub(crate) const READ_ID: &str = "SELECT id FROM unanimo_barrier_id";

/// State of the table before anything is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// The table.
    pub(crate) table: bool,
    /// The table with every column of this version.
    pub(crate) columns: bool,
    /// The last migration that ran; the outer `None` if nothing remembers any.
    pub(crate) version: Option<Option<i64>>,
}

/// Returns the database's id, if it was read. A role that may not read it, and a table that was made by hand,
/// go without one.
pub(crate) fn readable<T, E: std::fmt::Display>(id: Result<Option<T>, E>) -> Option<T> {
    id.unwrap_or_else(|error| {
        tracing::warn!(
            %error,
            "unanimo_barrier_id cannot be read: two databases that serve one name are not told apart; allow \
             SELECT on it"
        );
        None
    })
}

/// Reads the database's id. A macro, because each database has its own types.
#[cfg(any(feature = "mysql", feature = "sqlite"))]
macro_rules! read_id {
    ($connection:expr) => {{
        let id: Result<Option<String>, sqlx::Error> =
            sqlx::query_scalar($crate::schema::READ_ID).fetch_optional(&mut $connection).await;
        $crate::schema::readable(id)
    }};
}
#[cfg(any(feature = "mysql", feature = "sqlite"))]
pub(crate) use read_id;

/// Looks for the table and its history. A macro, because each database has its own types.
#[cfg(any(feature = "mysql", feature = "sqlite"))]
macro_rules! find {
    ($connection:expr, $prepare_until:literal) => {{
        let columns = concat!(
            "SELECT tx_id, branch_id, cluster_id, participant, gid, action, mode, state, output, \
             output_type, reason, message, ",
            $prepare_until,
            " FROM unanimo_barrier WHERE 1 = 0"
        );
        let columns = sqlx::raw_sql(columns).execute(&mut $connection).await.is_ok();
        let table = sqlx::raw_sql("SELECT 1 FROM unanimo_barrier WHERE 1 = 0");
        let table = table.execute(&mut $connection).await.is_ok();
        let version = "SELECT max(version) FROM unanimo_barrier_migrations WHERE success";
        let version: Result<Option<i64>, sqlx::Error> =
            sqlx::query_scalar(version).fetch_one(&mut $connection).await;
        $crate::schema::Found { table, columns, version: version.ok() }
    }};
}
#[cfg(any(feature = "mysql", feature = "sqlite"))]
pub(crate) use find;

/// Tells whether the migrations have to run.
///
/// # Errors
/// The table cannot be used, and no migration would make it right.
pub(crate) fn is_to_be_made(migrator: &Migrator, found: Found) -> Result<bool, Error> {
    let known = migrator.iter().map(|migration| migration.version).max().unwrap_or(0);
    match found.version {
        Some(Some(version)) if version > known => Err(Error::Newer { found: version, known }),
        Some(Some(version)) => Ok(version < known || !found.columns),
        None if found.columns => Ok(false),
        None if found.table => Err(Error::ByHand { known }),
        Some(None) | None => Ok(true),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_used_and_what_is_not_is_made() {
        let migrator = &unanimo_migrations::participant::POSTGRES;
        let to_be_made =
            |table, columns, version| is_to_be_made(migrator, Found { table, columns, version });
        assert!(to_be_made(false, false, None).expect("nothing is there"));
        assert!(!to_be_made(true, true, None).expect("made by hand"));
        assert!(matches!(to_be_made(true, false, None), Err(Error::ByHand { known: 4 })));
        assert!(to_be_made(true, false, Some(Some(1))).expect("made by an earlier version"));
        assert!(!to_be_made(true, true, Some(Some(4))).expect("made before"));
        assert!(to_be_made(false, false, Some(None)).expect("interrupted"));
        let newer = to_be_made(true, true, Some(Some(5)));
        assert!(matches!(newer, Err(Error::Newer { found: 5, known: 4 })));
    }
}
