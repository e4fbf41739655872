//! Failures of requests to the store, and what each means for whoever asked.

mod codes;

use unanimo_core::{Incarnation, TxId};

pub(super) use self::codes::{is_corrupt, is_damage, is_for_want, is_full, is_of_data};
use super::{SessionError, Unreadable};

/// Failure of a request to the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The incarnation has lost its right to write.
    #[error("incarnation {0} is fenced")]
    Fenced(Incarnation),
    /// The transaction takes no more locks: it is decided, or another incarnation's.
    #[error("take locks for transaction {0}: it is decided, or another incarnation owns it")]
    NotOpen(TxId),
    /// The database did not do it, or did not say that it did.
    #[error("{doing}")]
    Database {
        /// The request, in words that fit after "failed to".
        doing: &'static str,
        /// Answer of the database or its driver.
        #[source]
        source: sqlx::Error,
    },
    /// A page of the database file is damaged that more than one transaction needs.
    #[error(
        "{doing}: a page of the database file is damaged, and it is one of an index, or of what all transactions \
         need, so that none can be set aside for it; stop the coordinator, and restore a backup of the file"
    )]
    Damaged {
        /// The request, in words that fit after "failed to".
        doing: &'static str,
        /// Answer of the database.
        #[source]
        source: sqlx::Error,
    },
    /// The file was not written in the time that there was for it.
    #[error(
        "{doing}: it was not done in time: the writes before it take long, or another program holds the database file, or \
         the disk is slow"
    )]
    Late {
        /// The request, in words that fit after "failed to".
        doing: &'static str,
    },
    /// The server is not one that is worked on, or did not prove what it acknowledged.
    #[error("{doing}")]
    Session {
        /// The request, in words that fit after "failed to".
        doing: &'static str,
        /// Fault of the session.
        #[source]
        source: Box<SessionError>,
    },
    /// An incarnation was created, and the standbys do not have it yet. It is nobody's.
    #[error("create an incarnation")]
    UnprovenBirth {
        /// The incarnation.
        incarnation: Incarnation,
        /// Fault of the session.
        #[source]
        source: Box<SessionError>,
    },
    /// The rows of one transaction make no sense. Others are not concerned.
    #[error(transparent)]
    Unreadable(Box<Unreadable>),
    /// The schema could not be brought to this version.
    #[error("migrate the database's schema")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// The schema is of a later version of the program.
    #[error(
        "open the database: its schema has version {found}, this program knows up to {known}; \
         start the version of unanimo that wrote it, or a later one"
    )]
    NewerSchema {
        /// The database's version.
        found: i64,
        /// The latest version that this program knows.
        known: i64,
    },
    /// The tables are of an earlier version, and an incarnation may write into them.
    #[error(
        "migrate the database's schema: node {node} may still write into it; it is fenced first, or \
         has to stop"
    )]
    StillWritten {
        /// Its node's name.
        node: String,
    },
    /// The database is not where it was.
    #[error(
        "open the database: it is not where it was used last ({known}), but in another place \
         ({found}){hint}; if it was moved or restored, and nobody serves the original any more, start once \
         with {moved}; if it is a copy, and the original goes on, start once with --copy, which gives \
         it a cluster id of its own and forgets the endpoints of participants"
    )]
    Elsewhere {
        /// The stored place.
        known: String,
        /// The place that it is in.
        found: String,
        /// More about it, as a part of the sentence.
        hint: &'static str,
        /// The flag that says that it was moved.
        moved: String,
    },
    /// The tables have changed since this process has opened them: their version, or their cluster id.
    #[error("use the database: its tables have changed since they were opened")]
    Changed,
    /// The database is where it was, and an operator calls it a copy.
    #[error(
        "make this database a copy: it is where it was used last, as far as it can tell; if it is a \
         clone of a whole server or disk, start once with --copy={cluster_id}, which names the cluster \
         id that it is to lose; otherwise leave --copy out"
    )]
    NoCopy {
        /// Its cluster id.
        cluster_id: String,
    },
    /// Tables of an earlier version are there, in another schema than the one to use.
    #[error(
        "use schema {schema}: the tables of this database are in schema {found}, where an earlier \
         version made them; start once with the default of database-schema, {default}, which moves \
         them there, or set database-schema to {found}"
    )]
    OtherSchema {
        /// The schema to use.
        schema: String,
        /// The schema in which they are.
        found: String,
        /// The default.
        default: &'static str,
    },
    /// The schema cannot be made.
    #[error(
        "make schema {schema}: the role may not; let the database's owner run CREATE SCHEMA {schema} \
         AUTHORIZATION the_role, or set database-schema to a schema that it may use"
    )]
    NoSchema {
        /// The schema.
        schema: String,
        /// Answer of the database.
        #[source]
        source: sqlx::Error,
    },
    /// Somebody else's table has the name of one of ours.
    #[error(
        "make the tables: one of that name is there, and is not ours; give the coordinator a database, \
         a schema (database-schema) or a file of its own"
    )]
    TableTaken(#[source] sqlx::migrate::MigrateError),
    /// Another process has the SQLite file open.
    #[error(
        "lock {path}: another process serves this database file; SQLite is for one process, use \
         PostgreSQL for more"
    )]
    InUse {
        /// The lock file.
        path: String,
    },
    /// The lock file, or the folder that it is in, cannot be used.
    #[error("open {path}")]
    File {
        /// The file.
        path: String,
        /// Answer of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The database file has more than one name.
    #[error(
        "open {path}: the file has {count} names (hard links), and under each of them SQLite would keep \
         another write-ahead log; delete the other names, or use a copy"
    )]
    SeveralNames {
        /// The file.
        path: String,
        /// Number of its names.
        count: u64,
    },
    /// The database file is mounted without the folder that it is in.
    #[error(
        "open {path}: this file alone is mounted here; where it is from it has another name, and under that SQLite would \
         keep another write-ahead log and another process find another lock: mount the folder instead"
    )]
    MountedAlone {
        /// The file.
        path: String,
    },
    /// The write-ahead log beside the database file is of another file, or of another time.
    #[error(
        "open {path}: the write-ahead log beside it is not its own: {fault}; SQLite would write pages of another time into the \
         file, so nothing was opened; if the file is the one to go on with, such as a backup that was restored, delete \
         {path}-wal and {path}-shm, or rename them; if it is not, put back the file that was there with this log"
    )]
    OtherLog {
        /// The database file.
        path: String,
        /// Fault of the log.
        fault: String,
    },
    /// The database file is empty, and the log beside it is not.
    #[error(
        "open {path}: the file is empty, and the write-ahead log beside it is not: somebody has emptied the file, or a copy \
         of it has failed; SQLite would delete the log, and a new, empty group would begin, so nothing was opened; put the \
         file back, or a backup of it without {path}-wal; to begin anew, rename {path}-wal"
    )]
    Emptied {
        /// The database file.
        path: String,
    },
    /// A file of the database is not the one that was opened.
    #[error("use {what} {path}: {fault}")]
    Replaced {
        /// Name of the file in a sentence.
        what: &'static str,
        /// The file.
        path: String,
        /// Fault of it.
        fault: String,
    },
    /// A stored row makes no sense.
    #[error("read {what}: the stored value {value:?} is not one that this program writes")]
    Corrupt {
        /// The column or table.
        what: &'static str,
        /// The value.
        value: String,
    },
    /// Stored JSON is not what this program writes.
    #[error("read {what}: the stored JSON is not what this program writes: {why}")]
    CorruptJson {
        /// The column.
        what: &'static str,
        /// Fault of the JSON.
        why: String,
    },
    /// Others add to the audit all the time.
    #[error("write the audit: another process adds to it, too")]
    AuditMoves,
    /// A gid is stored, and nothing of the transaction that has it.
    #[error("read its rows: its gid is stored, and no row of it is")]
    NoRows,
    /// The address of the database cannot be understood.
    #[error("read the database URL: {0}")]
    Url(String),
}

impl Error {
    pub(super) fn database(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Database { doing, source }
    }

    /// Tells whether somebody else held what was needed: asked again, it may be free.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        use sqlx::migrate::MigrateError;
        if let Self::Session { source, .. } | Self::UnprovenBirth { source, .. } = self {
            // The standbys are behind: what is asked again may be proven.
            return matches!(**source, SessionError::Unproven);
        }
        let (Self::Database { source, .. }
        | Self::NoSchema { source, .. }
        | Self::Migrate(
            MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _),
        )) = self
        else {
            return false;
        };
        let sqlx::Error::Database(error) = source else { return false };
        // PostgreSQL: lock timeout, statement timeout, deadlock, serialization, starting up or no
        // connection left. SQLite: busy.
        let codes = ["55P03", "57014", "40P01", "40001", "57P03", "53300", "5", "517"];
        error.code().is_some_and(|code| codes.contains(&&*code))
    }
}

impl Error {
    /// Tells whether there is no space for a write. Once there is, the same write can be made.
    #[must_use]
    pub fn is_full(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};

        use sqlx::migrate::MigrateError;
        let source = match self {
            Self::File { source, .. } => {
                return matches!(source.kind(), StorageFull | QuotaExceeded);
            }
            Self::Database { source, .. }
            | Self::Migrate(
                MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _),
            ) => source,
            _ => return false,
        };
        let sqlx::Error::Database(error) = source else { return false };
        let Some(code) = error.code() else { return false };
        // PostgreSQL: disk full.
        code == "53100" || code.parse().is_ok_and(is_full)
    }

    /// Tells whether the same question will have the same answer until somebody does something: waiting
    /// does not help.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        let is_refusal = matches!(
            self,
            Self::NewerSchema { .. }
                | Self::Elsewhere { .. }
                | Self::NoCopy { .. }
                | Self::OtherSchema { .. }
                | Self::NoSchema { .. }
                | Self::TableTaken(_)
                | Self::Changed
                | Self::SeveralNames { .. }
                | Self::MountedAlone { .. }
                | Self::OtherLog { .. }
                | Self::Emptied { .. }
                | Self::Url(_)
        );
        is_refusal || self.is_elsewhere()
    }

    /// Tells whether the server answered from another place than the one where the tables were opened, or of
    /// an earlier time, or the files are not those that were opened.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        if matches!(self, Self::Replaced { .. }) {
            return true;
        }
        let Self::Session { source, .. } = self else { return false };
        source.is_elsewhere()
    }

    /// Tells whether the server is well, and answered with an error about the rows that were asked for: others
    /// are not concerned.
    #[must_use]
    pub fn is_of_rows(&self) -> bool {
        match self {
            Self::Database { source, .. } => is_of_data(source),
            _ => matches!(
                self,
                Self::Unreadable(_)
                    | Self::Corrupt { .. }
                    | Self::CorruptJson { .. }
                    | Self::NoRows
            ),
        }
    }

    /// Tells whether SQLite met a damaged page.
    pub(super) fn is_damage(&self) -> bool {
        matches!(self, Self::Database { source, .. } if is_damage(source))
    }

    /// Tells whether nothing could be isolated that a damaged page has harmed.
    pub(super) fn is_damaged(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }

    /// Makes of an error about a damaged page one that says what is to be done.
    pub(super) fn with_damage(self) -> Self {
        match self {
            Self::Database { doing, source } if is_damage(&source) => {
                Self::Damaged { doing, source }
            }
            other => other,
        }
    }

    /// Tells whether the server answered that the tables, their schema or the whole database are not
    /// there.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let Self::Database { source: sqlx::Error::Database(error), .. } = self else {
            return false;
        };
        // Undefined table, column, schema, database.
        let codes = ["42P01", "42703", "3F000", "3D000"];
        error.code().is_some_and(|code| codes.contains(&&*code))
    }
}
