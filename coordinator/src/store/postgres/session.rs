//! A session with the server, and the one check of it.
//!
//! A session is opened on a server that takes writes; it sets what the coordinator relies on, and reads
//! it back. Settings do not travel as start-up options: poolers drop those, and the defaults of the
//! role would hold. A session that turns out to be on a standby, on a server that takes no writes, or
//! to have other settings, is thrown away: nothing is read there, and nothing written.

mod abandoned;
mod error;
mod servers;
mod settings;
mod shown;

use std::sync::Arc;
use std::time::Duration;

use sqlx::FromRow;
use sqlx::postgres::{PgConnection, PgDatabaseError, PgSeverity};
use unanimo_core::Incarnation;
use uuid::Uuid;

use self::abandoned::{Abandoned, Backend};
pub use self::error::SessionError;
use self::servers::Choice;
use self::settings::Settings;
pub(super) use self::shown::Shown;
use super::super::opening::Place;
use super::address::{Address, Server};
use super::place::{Opened, TABLES};
use super::progress::Progress;
use super::{PostgresOptions, place};

/// Longest wait of a statement for a lock. Short: whatever waited is tried again.
const LOCK_TIMEOUT: Duration = Duration::from_millis(200);

/// The same in the journal's connections on which many wait for each statement. Locks that are held for a moment, by a batch
/// of another connection or by whoever parks, are had in this time; one that a client's forgotten session holds is not, however
/// long it is, and each new row that meets one costs everybody as much.
const LOCK_TIMEOUT_HASTY: Duration = Duration::from_millis(20);

/// Sets the session's settings, whatever the defaults of server, database and role are. Not every server knows all.
const SET: &str = "
SELECT count(set_config(name, value, false)) FROM UNNEST($1::text[], $2::text[]) AS new (name, value)
WHERE current_setting(name, true) IS NOT NULL";

/// Reads back what was set, in a statement of its own: what another session of a pooler was told does
/// not count.
const READ_BACK: &str = "
SELECT coalesce(string_agg(new.name || ' is ' || coalesce(setting, 'not known') || ' and not ' || value,
    ', ' ORDER BY new.name), '')
FROM UNNEST($1::text[], $2::text[]) AS new (name, value)
LEFT JOIN pg_settings AS known ON known.name = new.name
WHERE setting IS DISTINCT FROM value";

/// Expression of the settings that a session is compared by, in one text.
macro_rules! settings_of_session {
    () => {
        "concat_ws(' ', current_setting('synchronous_commit'), \
         current_setting('transaction_isolation'), current_setting('statement_timeout'), \
         current_setting('lock_timeout'))"
    };
}
pub(super) use settings_of_session;

const LOOK: &str = concat!(
    "SELECT pg_is_in_recovery() AS standby,
        current_setting('transaction_read_only') = 'on' AS read_only, ",
    settings_of_session!(),
    " AS settings, current_setting('synchronous_standby_names') <> '' AS synchronous,
        to_regclass('fences')::oid::text AS tables"
);

/// State of a session, as it is seen at each use.
#[derive(Debug, FromRow)]
struct Seen {
    standby: bool,
    read_only: bool,
    settings: String,
    synchronous: bool,
    /// Number of the table that its statements find.
    tables: Option<String>,
}

/// A session. Dropping it closes the connection without a word.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) connection: PgConnection,
    server: String,
    /// Its settings when they had been read back.
    pub(super) settings: String,
    /// Commits wait for synchronous standbys, as far as was seen last.
    pub(super) synchronous: bool,
    /// Promoted servers that were found before it was opened.
    pub(super) generation: u64,
    tables: Option<String>,
    /// Its process at the server. Noted as abandoned when the session is dropped.
    #[expect(dead_code, reason = "it does its work when it is dropped")]
    backend: Backend,
}

/// Way to the servers of a database. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    servers: Arc<[Server]>,
    choice: Arc<Choice>,
    connect_timeout: Option<Duration>,
    settings: Arc<Settings>,
    /// Settings of sessions that wait for locks for a moment only.
    hasty: Arc<Settings>,
    /// The only place that is worked in, once the tables were opened.
    opened: Option<Arc<Opened>>,
    pub(super) progress: Progress,
    abandoned: Abandoned,
}

impl Connector {
    pub(super) fn new(address: Address, options: &PostgresOptions) -> Self {
        let settings = |lock_timeout| {
            let schema = Some(&*options.schema);
            Arc::new(Settings::of(options.statement_timeout, lock_timeout, schema))
        };
        Self {
            servers: address.servers.into(),
            choice: Arc::default(),
            connect_timeout: address.connect_timeout,
            settings: settings(LOCK_TIMEOUT),
            hasty: settings(LOCK_TIMEOUT_HASTY),
            opened: None,
            progress: Progress::default(),
            abandoned: Abandoned::default(),
        }
    }

    /// Returns a way to sessions with tables in this place alone.
    pub(super) fn at(&self, opened: Opened) -> Self {
        Self { opened: Some(Arc::new(opened)), ..self.clone() }
    }

    /// Returns a way to sessions whose statements may take any time, with the role's own search path.
    pub(super) fn without_limits(&self) -> Self {
        let settings = Arc::new(Settings::of(Duration::ZERO, Duration::ZERO, None));
        Self { settings, ..self.clone() }
    }

    /// Returns a way to sessions that plan each statement once. A server takes a plan anew for each of many small batches,
    /// because it looks cheaper, and then plans for longer than it writes.
    pub(super) fn with_generic_plans(&self) -> Self {
        let with = |settings: &Settings| Arc::new(settings.with_generic_plans());
        Self { settings: with(&self.settings), hasty: with(&self.hasty), ..self.clone() }
    }

    /// Returns a way to sessions whose statements wait for locks for a moment only.
    pub(super) fn hasty(&self) -> Self {
        Self { settings: Arc::clone(&self.hasty), ..self.clone() }
    }

    /// Returns the number of the table `fences` that was opened. Nothing has this one before that.
    pub(super) fn tables(&self) -> &str {
        self.opened.as_ref().map_or("0", |opened| &opened.tables)
    }

    /// Looks where a session is, and compares that with the place where the tables were opened, and with
    /// what this process has written there.
    async fn compare_place(&self, session: &mut Session) -> Result<(), SessionError> {
        if let Some(opened) = &self.opened {
            session.compare_place(opened).await?;
            self.progress.check(session).await?;
        }
        Ok(())
    }

    /// Looks for the fence of an incarnation that could not write. Nobody has fenced it where the tables are
    /// others, or of a time before its birth.
    pub(super) async fn look_for_fence(
        &self,
        session: &mut Session,
        me: Incarnation,
        nonce: Uuid,
    ) -> Result<(), SessionError> {
        self.compare_place(session).await?;
        let is_there = "SELECT EXISTS (SELECT 1 FROM fences WHERE incarnation = $1 AND nonce = $2)";
        let is_there = sqlx::query_scalar(is_there).bind(me.0).bind(nonce);
        match is_there.fetch_one(&mut session.connection).await? {
            true => Ok(()),
            false => Err(session.restored(format!("incarnation {me} is not created there"))),
        }
    }
}

impl Session {
    /// Makes a session of a connection to this server: sets what is relied on, and reads it back.
    async fn on(
        mut connection: PgConnection,
        server: &Server,
        settings: &Settings,
        abandoned: &Abandoned,
    ) -> Result<Self, SessionError> {
        // Looked at first: what server, database or role say of read-only is not ours to change.
        let before: Seen = sqlx::query_as(LOOK).fetch_one(&mut connection).await?;
        let Settings { names, values, relied_on } = settings;
        sqlx::query(SET).bind(names).bind(values).execute(&mut connection).await?;
        let found: String = sqlx::query_scalar(READ_BACK)
            .bind(&names[..*relied_on])
            .bind(&values[..*relied_on])
            .fetch_one(&mut connection)
            .await?;
        let server = server.name.clone();
        if !found.is_empty() {
            return Err(SessionError::Settings { server, found });
        }
        let backend = abandoned.backend(&mut connection).await?;
        let synchronous = before.synchronous;
        let (settings, tables, generation) = (String::new(), None, 0);
        let mut session =
            Self { connection, server, settings, synchronous, generation, tables, backend };
        let seen = session.look().await?;
        (session.settings, session.tables) = (seen.settings, seen.tables);
        Ok(session)
    }

    async fn compare_place(&mut self, opened: &Opened) -> Result<(), SessionError> {
        let found = place::here(&mut self.connection, &opened.schema).await?;
        let tables = place::tables(&mut self.connection, &opened.schema).await?;
        self.compare_with(opened, &found.with(TABLES, tables))
    }

    fn compare_with(&self, opened: &Opened, found: &Place) -> Result<(), SessionError> {
        if found.agrees_with(&opened.place) {
            return Ok(());
        }
        let (known, found) = (opened.place.to_string(), found.to_string());
        Err(SessionError::Elsewhere { server: self.server.clone(), known, found })
    }

    /// Returns host and port of its server.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Makes the error of a server that takes no writes, or none that count.
    pub(super) fn not_writable(&self, why: &'static str) -> SessionError {
        SessionError::NotWritable { server: self.server.clone(), why }
    }

    /// Makes the error of a database that was restored to an earlier time.
    pub(super) fn restored(&self, found: String) -> SessionError {
        SessionError::Restored { server: self.server.clone(), found }
    }

    /// Looks whether the session is still what it was when it was opened, and leads to the same tables.
    pub(super) async fn check(&mut self) -> Result<(), SessionError> {
        let seen = self.look().await?;
        self.synchronous = seen.synchronous;
        self.compare(&seen.settings)?;
        if seen.tables == self.tables {
            return Ok(());
        }
        let place = |tables: &Option<String>| Place::new([(TABLES, tables.clone())]).to_string();
        let (known, found) = (place(&self.tables), place(&seen.tables));
        Err(SessionError::Elsewhere { server: self.server.clone(), known, found })
    }

    /// Compares the settings that a statement was made under.
    pub(super) fn compare(&self, settings: &str) -> Result<(), SessionError> {
        if settings == self.settings {
            return Ok(());
        }
        let found = format!("{settings:?} and not {:?}", self.settings);
        Err(SessionError::Settings { server: self.server.clone(), found })
    }

    async fn look(&mut self) -> Result<Seen, SessionError> {
        let seen: Seen = sqlx::query_as(LOOK).fetch_one(&mut self.connection).await?;
        let why = match (seen.standby, seen.read_only) {
            (true, _) => "is a standby",
            (false, true) => "is read-only",
            (false, false) => return Ok(seen),
        };
        Err(self.not_writable(why))
    }
}

/// Tells whether a session is good for more after this error: the server answered one statement
/// with it, and the server itself is not to blame.
pub(super) fn survives(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::RowNotFound | sqlx::Error::ColumnDecode { .. } => true,
        sqlx::Error::Database(error) => {
            error.try_downcast_ref::<PgDatabaseError>().is_some_and(|server| {
                server.severity() == PgSeverity::Error && !is_wrong_server(server.code())
            })
        }
        _ => false,
    }
}

/// Tells whether an error code means that the server takes no writes, or goes away: a read-only
/// transaction, what a standby does not support, a shutdown.
pub(super) fn is_wrong_server(code: &str) -> bool {
    matches!(code, "25006" | "0A000") || code.starts_with("57P") || code.starts_with("08")
}
