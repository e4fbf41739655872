//! A session with the server, and the one check of it.
//!
//! A session is opened on a server that takes writes; it sets what the coordinator relies on, and reads
//! it back. Settings do not travel as start-up options: poolers drop those, and the defaults of the
//! role would hold. A session that turns out to be on a standby, on a server that takes no writes, or
//! to have other settings, is thrown away: nothing is read there, and nothing written.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnection, PgDatabaseError, PgSeverity};
use sqlx::{Connection, FromRow};

use super::super::opening::Place;
use super::address::{Address, Server};
use super::place::{Opened, TABLES};
use super::{PostgresOptions, no_answer, place};

/// Longest wait of a statement for a lock. Short: a journal behind a lock holds up everybody, and
/// whatever waited is tried again.
const LOCK_TIMEOUT: Duration = Duration::from_millis(200);

/// Sets the session's settings, whatever the defaults of server, database and role are.
const SET: &str = "
SELECT count(set_config(name, value, false)) FROM UNNEST($1::text[], $2::text[]) AS new (name, value)";

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
    " AS settings, current_setting('synchronous_standby_names') <> '' AS synchronous"
);

/// Reason for which a session cannot be had, or used any more.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The driver or the server gave up.
    #[error("{0}")]
    Driver(#[from] sqlx::Error),
    /// The server takes no writes.
    #[error(
        "the server at {server} {why}: the coordinator works on the server that takes writes alone"
    )]
    NotWritable {
        /// Host and port.
        server: String,
        /// Reason, as a phrase that follows "the server".
        why: &'static str,
    },
    /// The settings are not those that were set.
    #[error(
        "the session with {server} has other settings than the coordinator relies on: {found}; if \
         there is a pooler in between, it must give each client a session of its own"
    )]
    Settings {
        /// Host and port.
        server: String,
        /// Settings that differ.
        found: String,
    },
    /// The server has the tables in another place than the one where they were opened.
    #[error(
        "the database at {server} is not the one that was opened ({known}), but is in another place \
         ({found})"
    )]
    Elsewhere {
        /// Host and port.
        server: String,
        /// The place where the tables were opened.
        known: String,
        /// The place of this server's.
        found: String,
    },
    /// None of several servers can be used.
    #[error("{}", .0.join("; "))]
    NoServer(Vec<String>),
    /// Standbys are waited for, and nobody can tell what they have.
    #[error(
        "synchronous_standby_names is set, and this role cannot see how far the standbys are, so no \
         write could be proven: GRANT pg_read_all_stats TO {role}"
    )]
    Blind {
        /// The role of the session.
        role: String,
    },
    /// The commit returned before the standbys had it.
    #[error(
        "a commit was acknowledged before the synchronous standbys had it, because somebody ended \
         its wait for them: it does not count as durable"
    )]
    Unproven,
    /// No session is given any more.
    #[error("the store is closed")]
    Closed,
}

/// State of a session, as it is seen at each use.
#[derive(Debug, FromRow)]
struct Seen {
    standby: bool,
    read_only: bool,
    settings: String,
    synchronous: bool,
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
}

/// Way to the servers of a database. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    servers: Arc<[Server]>,
    /// The server that took writes last: it is tried first.
    preferred: Arc<AtomicUsize>,
    connect_timeout: Option<Duration>,
    settings: Arc<Settings>,
    /// The only place that is worked in, once the tables were opened.
    opened: Option<Arc<Opened>>,
}

#[derive(Debug)]
struct Settings {
    names: Vec<String>,
    values: Vec<String>,
    /// Numbers of those at the beginning that are relied on, and not only wished for.
    relied_on: usize,
}

impl Connector {
    pub(super) fn new(address: Address, options: &PostgresOptions) -> Self {
        Self {
            servers: address.servers.into(),
            preferred: Arc::default(),
            connect_timeout: address.connect_timeout,
            settings: Arc::new(Settings::of(
                options.statement_timeout,
                LOCK_TIMEOUT,
                Some(&options.schema),
            )),
            opened: None,
        }
    }

    /// Returns a way to sessions with tables in this place alone.
    pub(super) fn at(&self, schema: String, place: Place) -> Self {
        Self { opened: Some(Arc::new(Opened { schema, place })), ..self.clone() }
    }

    /// Returns a way to sessions whose statements may take any time, with the role's own search path.
    pub(super) fn without_limits(&self) -> Self {
        let settings = Arc::new(Settings::of(Duration::ZERO, Duration::ZERO, None));
        Self { settings, ..self.clone() }
    }

    /// Compares the numbers of schema and tables that a session of the tables has found with those of the
    /// place where they were opened.
    pub(super) fn compare_tables(
        &self,
        session: &Session,
        schema: Option<String>,
        tables: Option<String>,
    ) -> Result<(), SessionError> {
        let Some(opened) = &self.opened else { return Ok(()) };
        session.compare_with(opened, &Place::new([("schema", schema), (TABLES, tables)]))
    }

    /// Looks where a session is, and compares that with the place where the tables were opened.
    pub(super) async fn compare_place(&self, session: &mut Session) -> Result<(), SessionError> {
        match &self.opened {
            Some(opened) => session.compare_place(opened).await,
            None => Ok(()),
        }
    }

    /// Opens a session on the server that takes writes.
    pub(super) async fn open(&self, patience: Duration) -> Result<Session, SessionError> {
        let count = self.servers.len();
        let share = patience / u32::try_from(count).unwrap_or(u32::MAX);
        let share = self.connect_timeout.map_or(share, |limit| limit.min(share));
        let first = self.preferred.load(Ordering::Relaxed);
        let mut errors = Vec::new();
        for index in (0..count).map(|offset| (first + offset) % count) {
            let server = &self.servers[index];
            let opening = async {
                let mut session = Session::open(server, &self.settings).await?;
                self.compare_place(&mut session).await?;
                Ok(session)
            };
            let opened = tokio::time::timeout(share, opening).await;
            match opened.unwrap_or_else(|_| Err(no_answer().into())) {
                Ok(session) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(session);
                }
                Err(error) => errors.push(error),
            }
        }
        if count == 1 {
            return Err(errors.swap_remove(0));
        }
        // Not if one of them does not answer: that may be ours. Before there is one that is ours, each is
        // told of.
        let is_unfit = |error: &SessionError| {
            is_other(error) || matches!(error, SessionError::NotWritable { .. })
        };
        if self.opened.is_some()
            && errors.iter().all(is_unfit)
            && let Some(other) = errors.iter().position(is_other)
        {
            return Err(errors.swap_remove(other));
        }
        let name = |(index, error)| match error {
            SessionError::Driver(error) => {
                let server: &Server = &self.servers[(first + index) % count];
                format!("{}: {error}", server.name)
            }
            error => error.to_string(),
        };
        Err(SessionError::NoServer(errors.into_iter().enumerate().map(name).collect()))
    }
}

impl Settings {
    fn of(statement_timeout: Duration, lock_timeout: Duration, schema: Option<&str>) -> Self {
        let ms = |duration: Duration| duration.as_millis().to_string();
        let relied_on = [
            ("synchronous_commit", "on".to_owned()),
            ("default_transaction_isolation", "read committed".to_owned()),
            ("statement_timeout", ms(statement_timeout)),
            ("lock_timeout", ms(lock_timeout)),
            // No statement of ours leaves a transaction open; should one ever, it must not hold locks.
            ("idle_in_transaction_session_timeout", ms(statement_timeout)),
            // Statements join arrays of a few hundred keys with tables of millions of rows. The planner
            // does not know that and must not scan a table while its statistics are young.
            ("enable_seqscan", "off".to_owned()),
            // With that, a plan that cannot do without a scan has a cost above the limit for compiling,
            // and is compiled each time: milliseconds for a statement of a fraction of one.
            ("jit", "off".to_owned()),
        ];
        // A coordinator that vanished must not leave its locks behind for hours. A Unix socket has none.
        let wished_for = [
            ("tcp_keepalives_idle", "10".to_owned()),
            ("tcp_keepalives_interval", "5".to_owned()),
            ("tcp_keepalives_count", "3".to_owned()),
        ];
        // Nobody else's table is ever met.
        let path = schema.map(|schema| ("search_path", schema.to_owned()));
        let count = relied_on.len() + usize::from(path.is_some());
        let all = path.into_iter().chain(relied_on).chain(wished_for);
        let (names, values) = all.map(|(name, value)| (name.to_owned(), value)).unzip();
        Self { names, values, relied_on: count }
    }
}

impl Session {
    async fn open(server: &Server, settings: &Settings) -> Result<Self, SessionError> {
        let mut connection = PgConnection::connect_with(&server.options).await?;
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
        let synchronous = before.synchronous;
        let mut session = Self { connection, server, settings: String::new(), synchronous };
        let seen = session.look().await?;
        session.settings = seen.settings;
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

    /// Looks whether the session is still what it was when it was opened.
    pub(super) async fn check(&mut self) -> Result<(), SessionError> {
        let seen = self.look().await?;
        self.synchronous = seen.synchronous;
        self.compare(&seen.settings)
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
        Err(SessionError::NotWritable { server: self.server.clone(), why })
    }
}

/// Tells whether a server that takes writes has another database than ours, or none.
fn is_other(error: &SessionError) -> bool {
    match error {
        SessionError::Elsewhere { .. } => true,
        SessionError::Driver(sqlx::Error::Database(error)) => {
            error.code().as_deref() == Some("3D000")
        }
        _ => false,
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
