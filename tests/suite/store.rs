//! Suite that runs over every store.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection;
use unanimo_coordinator::store::{self, BatchWriter, Life, PostgresOptions, Store, Write, Written};
use unanimo_core::{Incarnation, Transition, Version};
use unanimo_tests::postgres::Server;
use unanimo_tests::reaper::run_folder;
use uuid::Uuid;

mod attention;
mod audit;
mod batches;
mod cluster;
mod costs;
mod damaged;
mod damaged_pages;
mod earlier_rows;
mod faults;
mod feed;
mod file;
mod full_disk;
mod held_rows;
mod journal;
mod leases;
mod lock_model;
mod lock_takes;
mod locks;
mod long_histories;
pub(crate) mod migration;
mod names;
mod nonces;
mod openings;
mod other_logs;
mod pages;
mod parking;
mod place;
mod promoted;
mod promoted_starts;
mod purge;
mod purge_of_file;
mod reads;
pub(crate) mod restored;
pub(crate) mod rows;
mod sagas;
mod schema;
mod sessions;
mod sizes;
mod sleepers;
mod standbys;
mod stuck_journal;
mod stuck_rows;
mod told;
mod turns;
mod unreadable;
mod unwell;
mod waits;
mod webhooks;
mod went_back;
mod writes;

/// Lease of every incarnation.
pub(crate) const LEASE: Duration = Duration::from_secs(5);

/// Store of a test, with a first incarnation.
pub(crate) struct Fixture {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) url: String,
    pub(crate) me: Incarnation,
}

impl Fixture {
    pub(crate) async fn postgres() -> Self {
        Self::open(Server::shared().database().await).await
    }

    pub(crate) async fn sqlite() -> Self {
        let file = run_folder().join(format!("{}.db", Uuid::new_v4()));
        Self::open(format!("sqlite:{}", file.display())).await
    }

    pub(crate) async fn open(url: String) -> Self {
        let store = store::open(&url, &PostgresOptions::default()).await.unwrap();
        let me = create(&store, "one").await;
        Self { store, url, me }
    }

    pub(crate) async fn writer(&self) -> Box<dyn BatchWriter> {
        self.store.batch_writer(self.me).await.unwrap()
    }

    /// Writes transitions, all of which must be applied.
    pub(crate) async fn write(&self, transitions: impl IntoIterator<Item = Transition>) {
        for transition in transitions {
            let written = self.writer().await.write(&[a_write(transition)]).await.unwrap();
            assert_eq!(written, [Written::Applied]);
        }
    }
}

pub(crate) async fn create(store: &Arc<dyn Store>, node: &str) -> Incarnation {
    let created = store.incarnations().list().await.unwrap().created;
    store
        .incarnations()
        .create(node, created, LEASE)
        .await
        .unwrap()
        .expect("nobody else is created at the same time")
}

/// Runs SQL past the store.
pub(crate) async fn execute(url: &str, sql: &str) {
    let query = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()));
    if let Some(path) = url.strip_prefix("sqlite:") {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
        let mut raw = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        // What it lets nobody write may be there all the same.
        let unchecked = sqlx::raw_sql("PRAGMA ignore_check_constraints = 1");
        unchecked.execute(&mut raw).await.unwrap();
        query.execute(&mut raw).await.unwrap();
        raw.close().await.unwrap();
    } else {
        let mut raw = sqlx::PgConnection::connect(url).await.unwrap();
        query.execute(&mut raw).await.unwrap();
    }
}

/// Counts the rows of a table, past the store.
pub(crate) async fn count(fixture: &Fixture, table: &str) -> i64 {
    count_at(&fixture.url, table).await
}

/// Counts the rows of a table of the database that a URL names.
pub(crate) async fn count_at(url: &str, table: &str) -> i64 {
    let query = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
    if let Some(path) = url.strip_prefix("sqlite:") {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
        let mut raw = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::query_scalar(query).fetch_one(&mut raw).await.unwrap()
    } else {
        let mut raw = sqlx::PgConnection::connect(url).await.unwrap();
        sqlx::query_scalar(query).fetch_one(&mut raw).await.unwrap()
    }
}

pub(crate) fn a_write(transition: Transition) -> Write {
    let base = Version(transition.version.0 - 1);
    Write { life: Life::default(), write_id: Uuid::new_v4(), base, former: None, transition }
}

/// Runs each test on PostgreSQL and on SQLite.
macro_rules! on_both_stores {
    ($($name:ident),* $(,)?) => {
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::store::Fixture::postgres().await).await;
            })*
        }

        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::store::Fixture::sqlite().await).await;
            })*
        }
    };
}
pub(crate) use on_both_stores;
