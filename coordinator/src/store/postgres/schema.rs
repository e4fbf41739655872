//! Tables on PostgreSQL before the store is open: found, and brought to this version.
//!
//! They are in a schema of their own, with their own table of the migrations that have been run. An
//! earlier version made them in the first schema of the search path, and kept that history in the
//! library's default table, which other programs of the database use, too: those are moved.

mod conversion;
mod found;
mod moving;
mod place;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};
use unanimo_core::Incarnation;
use unanimo_migrations::coordinator::POSTGRES as MIGRATIONS;

use self::moving::{OLD_HISTORY, known_migrations, move_tables};
use self::place::{compare_place, here, itself, keep_flags, keep_place};
use super::super::opening::{HISTORY, PlaceChange, Start};
use super::super::{Error, LiveIncarnation, Store, latest, run_migrations};
use super::place::{Opened, TABLES};
use super::session::{Connector, Session};
use super::{Postgres, PostgresOptions, address, failed, no_answer};

/// Schema to which tables of an earlier version are moved.
pub(super) const SCHEMA_DEFAULT: &str = "unanimo";

/// Longest wait of a migration for one lock. Whoever waits for a table holds up all who come later.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// A database on PostgreSQL that was connected to.
#[derive(Debug)]
pub(in crate::store) struct Opening {
    /// Way to sessions of the store.
    connector: Connector,
    options: PostgresOptions,
    start: Start,
    /// Schemas that an earlier version may have used: those of the role's own search path.
    path: Vec<String>,
    /// As it was found by the last look. [`open`](super::super::Opening::open) looks again.
    found: Mutex<Found>,
}

/// Tables, and what their opening will do to their place.
#[derive(Clone, Debug)]
struct Found {
    tables: Tables,
    change: PlaceChange,
}

/// Tables that were found.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Tables {
    None,
    /// In this schema, of this version, with the history of an earlier version of the program.
    Old {
        schema: String,
        version: i64,
    },
    Own {
        version: i64,
    },
}

impl Opening {
    pub(in crate::store) async fn connect(
        url: &str,
        options: &PostgresOptions,
        start: Start,
    ) -> Result<Self, Error> {
        let connector = Connector::new(address::parse(url)?, options);
        let mut session = session(&connector, options).await?;
        let connection = &mut session.connection;
        let looking = Self::first_look(connection, options, &start);
        let looked = tokio::time::timeout(options.answer_timeout(), looking).await;
        let looked =
            looked.unwrap_or_else(|_| Err(Error::database("look for the tables")(no_answer())));
        // Nothing depends on how the connection ends.
        let _ = session.connection.close().await;
        let (path, found) = looked?;
        let found = Mutex::new(found);
        Ok(Self { connector, options: options.clone(), start, path, found })
    }

    async fn first_look(
        connection: &mut PgConnection,
        options: &PostgresOptions,
        start: &Start,
    ) -> Result<(Vec<String>, Found), Error> {
        let path: Vec<String> = sqlx::query_scalar("SELECT current_schemas(false)::text[]")
            .fetch_one(&mut *connection)
            .await
            .map_err(Error::database("read the search path"))?;
        let tables = look(connection, &options.schema, &path).await?;
        let change = compare_place(connection, &options.schema, &tables, start).await?;
        Ok((path, Found { tables, change }))
    }

    fn found(&self) -> Found {
        // Nothing panics half way through a change.
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Brings the tables to this version, in one transaction.
    async fn migrate(&self, connection: &mut PgConnection) -> Result<Group, Error> {
        let schema = &self.options.schema;
        let mut block = connection.begin().await.map_err(Error::database("begin a migration"))?;
        let settings = format!(
            "SET TRANSACTION READ WRITE; SET LOCAL search_path = {}; SET LOCAL lock_timeout = {}; \
             SET LOCAL statement_timeout = 0; SET LOCAL synchronous_commit = on; \
             SET LOCAL client_min_messages = warning",
            quoted(schema),
            LOCK_TIMEOUT.as_millis()
        );
        execute(&mut block, &settings, "begin a migration").await?;
        sqlx::query("SELECT pg_advisory_xact_lock(hashtext('unanimo migrations'), hashtext($1))")
            .bind(schema)
            .execute(&mut *block)
            .await
            .map_err(Error::database("wait for another process that migrates"))?;
        let found = look(&mut block, schema, &self.path).await?;
        let is_changed = found != Tables::Own { version: latest(&MIGRATIONS) };
        if is_changed {
            match &found {
                Tables::None => make_schema(&mut block, schema).await?,
                Tables::Old { schema: old, version } => {
                    check_nobody_writes(&mut block, old).await?;
                    if old != schema {
                        make_schema(&mut block, schema).await?;
                    }
                    move_tables(&mut block, old, schema, *version).await?;
                }
                Tables::Own { .. } => check_nobody_writes(&mut block, schema).await?,
            }
            conversion::lock(&mut block).await?;
            run_migrations(&MIGRATIONS, &mut *block).await?;
            conversion::convert(&mut block).await?;
            if found == Tables::None {
                let begin = "UPDATE cluster SET purge_clock_ms =
                     (extract(epoch FROM clock_timestamp()) * 1000)::int8";
                execute(&mut block, begin, "begin the purge's time").await?;
            }
        }
        let found = Tables::Own { version: latest(&MIGRATIONS) };
        let group = self.keep_group(&mut block, &found, is_changed).await?;
        block.commit().await.map_err(Error::database("commit a migration"))?;
        Ok(group)
    }

    /// Stores where the database is, if that has changed, and reads which it is.
    async fn keep_group(
        &self,
        block: &mut PgConnection,
        found: &Tables,
        is_changed: bool,
    ) -> Result<Group, Error> {
        let (schema, start) = (&self.options.schema, &self.start);
        let doing = "read the cluster's id";
        let no_row = || Error::database(doing)(sqlx::Error::RowNotFound);
        let before = itself(block, schema, found).await?.ok_or_else(no_row)?;
        let place = here(block, schema).await?;
        super::place::warn_if_blind(&place);
        let change = before.compare_place(&place, start)?;
        if change == PlaceChange::Copy && !is_changed {
            check_nobody_writes(block, schema).await?;
        }
        if change != PlaceChange::Stay {
            keep_place(block, &place, &change).await?;
        }
        if let Some(moved_by) = before.new_flags(start, &change) {
            keep_flags(block, &moved_by).await?;
        }
        let cluster_id = sqlx::query_scalar("SELECT cluster_id FROM cluster")
            .fetch_one(&mut *block)
            .await
            .map_err(Error::database(doing))?;
        let tables = super::place::tables(block, schema).await.map_err(Error::database(doing))?;
        let tables = tables.ok_or_else(no_row)?;
        let (schema, place) = (schema.clone(), place.with(TABLES, Some(tables.clone())));
        Ok(Group { cluster_id, opened: Opened { schema, place, tables } })
    }
}

/// Identity of the tables that were opened.
struct Group {
    cluster_id: String,
    opened: Opened,
}

#[async_trait]
impl super::super::Opening for Opening {
    fn is_new(&self) -> bool {
        self.found().tables == Tables::None
    }

    fn needs_turn(&self) -> bool {
        let Found { tables, change } = self.found();
        let is_current = tables == Tables::Own { version: latest(&MIGRATIONS) };
        tables != Tables::None && (!is_current || change == PlaceChange::Copy)
    }

    async fn live(&self) -> Result<Vec<LiveIncarnation>, Error> {
        self.list().await
    }

    async fn fence(&self, incarnation: Incarnation, by: &str) -> Result<(), Error> {
        self.fence_if(incarnation, None, by).await.map(drop)
    }

    async fn fence_silent(
        &self,
        incarnation: Incarnation,
        counter: i64,
        by: &str,
    ) -> Result<bool, Error> {
        self.fence_if(incarnation, Some(counter), by).await
    }

    async fn has_displaced(&self, live: &LiveIncarnation) -> Result<bool, Error> {
        self.displaced(live).await
    }

    async fn open(&self) -> Result<Arc<dyn Store>, Error> {
        let mut session = session(&self.connector, &self.options).await?;
        // No standby is asked yet: whoever is created after this is not before they have it.
        let migrated = self.migrate(&mut session.connection).await;
        // It holds locks until it is closed, if the migration has failed.
        let _ = session.connection.close().await;
        let Group { cluster_id, opened } = migrated?;
        let connector = self.connector.at(opened);
        Ok(Arc::new(Postgres::open(connector, &self.options, cluster_id)))
    }
}

/// Opens a session whose statements may take any time, with the role's own search path.
async fn session(connector: &Connector, options: &PostgresOptions) -> Result<Session, Error> {
    let opened = connector.without_limits().open(options.answer_timeout()).await;
    opened.map_err(|error| failed("connect to the database", error))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

async fn execute(
    connection: &mut PgConnection,
    statements: &str,
    doing: &'static str,
) -> Result<(), Error> {
    let script = sqlx::raw_sql(AssertSqlSafe(statements.to_owned()));
    script.execute(connection).await.map(drop).map_err(Error::database(doing))
}

/// Looks for the tables, without changing anything.
async fn look(
    connection: &mut PgConnection,
    schema: &str,
    path: &[String],
) -> Result<Tables, Error> {
    let doing = "look for the tables";
    let own = format!("{}.{HISTORY}", quoted(schema));
    let (is_own,): (bool,) = sqlx::query_as("SELECT to_regclass($1) IS NOT NULL")
        .bind(&own)
        .fetch_one(&mut *connection)
        .await
        .map_err(Error::database(doing))?;
    if is_own {
        let last = format!("SELECT coalesce(max(version), 0) FROM {own} WHERE success");
        let version: i64 = sqlx::query_scalar(AssertSqlSafe(last))
            .fetch_one(&mut *connection)
            .await
            .map_err(Error::database(doing))?;
        let known = latest(&MIGRATIONS);
        return match version > known {
            true => Err(Error::NewerSchema { found: version, known }),
            false => Ok(Tables::Own { version }),
        };
    }
    let schemas: Vec<String> = sqlx::query_scalar(
        "SELECT nspname::text FROM pg_namespace
         WHERE nspname = ANY ($3) AND EXISTS (
             SELECT 1 FROM pg_class WHERE relnamespace = pg_namespace.oid AND relname = $2)
         AND EXISTS (
             SELECT 1 FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
             WHERE relnamespace = pg_namespace.oid AND relname = 'cluster'
                 AND attname = 'cluster_id')
         ORDER BY nspname <> $1",
    )
    .bind(schema)
    .bind(OLD_HISTORY)
    .bind(path.iter().cloned().chain([schema.to_owned()]).collect::<Vec<_>>())
    .fetch_all(&mut *connection)
    .await
    .map_err(Error::database(doing))?;
    for old in schemas {
        let history = format!("{}.{OLD_HISTORY}", quoted(&old));
        let (versions, names) = known_migrations();
        let last = format!(
            "SELECT max(version) FROM {history} JOIN UNNEST($1::int8[], $2::text[]) \
                 AS known (version, description) USING (version, description) WHERE success"
        );
        let version: Option<i64> = sqlx::query_scalar(AssertSqlSafe(last))
            .bind(versions)
            .bind(names)
            .fetch_one(&mut *connection)
            .await
            .map_err(Error::database(doing))?;
        let Some(version) = version else { continue };
        if old != schema && schema != SCHEMA_DEFAULT {
            let (schema, found) = (schema.to_owned(), old);
            return Err(Error::OtherSchema { schema, found, default: SCHEMA_DEFAULT });
        }
        return Ok(Tables::Old { schema: old, version });
    }
    Ok(Tables::None)
}

/// Makes the schema if it is not there. Looking first: a role that may not make one may use one.
async fn make_schema(connection: &mut PgConnection, schema: &str) -> Result<(), Error> {
    let there: Option<i32> = sqlx::query_scalar("SELECT 1 FROM pg_namespace WHERE nspname = $1")
        .bind(schema)
        .fetch_optional(&mut *connection)
        .await
        .map_err(Error::database("look for the schema"))?;
    if there.is_some() {
        return Ok(());
    }
    let create = format!("CREATE SCHEMA {}", quoted(schema));
    let created = sqlx::query(AssertSqlSafe(create)).execute(connection).await;
    created.map(drop).map_err(|source| Error::NoSchema { schema: schema.to_owned(), source })
}

/// Fails if an incarnation may write. Until this transaction ends none is created, and one that
/// looked before can be created no more.
async fn check_nobody_writes(connection: &mut PgConnection, schema: &str) -> Result<(), Error> {
    let doing = "look who may write";
    let schema = quoted(schema);
    let lock = format!("LOCK TABLE {schema}.fences IN SHARE ROW EXCLUSIVE MODE");
    execute(connection, &lock, doing).await?;
    let writer = format!("SELECT node FROM {schema}.fences WHERE NOT fenced LIMIT 1");
    let writer: Option<String> = sqlx::query_scalar(AssertSqlSafe(writer))
        .fetch_optional(&mut *connection)
        .await
        .map_err(Error::database(doing))?;
    if let Some(node) = writer {
        return Err(Error::StillWritten { node });
    }
    let bump = format!("UPDATE {schema}.cluster SET incarnations = incarnations + 1");
    execute(connection, &bump, doing).await
}
