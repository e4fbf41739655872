//! Databases that are replaced or restored under a process: it is told, and writes nothing in what is there.

use unanimo_coordinator::store::{self, BatchError, Error, Key, PostgresOptions, Written};
use unanimo_core::{ParticipantName, TxId};
use unanimo_tests::postgres::Server;
use unanimo_tests::wait::until;

use super::{Fixture, LEASE, a_write, count, execute};
use crate::fixtures::{Live, new_gid, now};

/// Puts a copy of the database in its place.
pub(crate) const REPLACE: &str = "ALTER SCHEMA unanimo RENAME TO original; CREATE SCHEMA unanimo;
    DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'original' LOOP
            EXECUTE format('CREATE TABLE unanimo.%1$I (LIKE original.%1$I INCLUDING ALL)', name);
            EXECUTE format('INSERT INTO unanimo.%1$I SELECT * FROM original.%1$I', name);
        END LOOP;
    END $$";

/// Restores the tables within their schema.
pub(crate) const RESTORE: &str = "CREATE SCHEMA saved; SET LOCAL search_path = unanimo;
    DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'unanimo' LOOP
            EXECUTE format('CREATE TABLE saved.%1$I (LIKE %1$I INCLUDING ALL)', name);
            EXECUTE format('INSERT INTO saved.%1$I SELECT * FROM %1$I', name);
            EXECUTE format('DROP TABLE %1$I CASCADE', name);
            EXECUTE format('ALTER TABLE saved.%1$I SET SCHEMA unanimo', name);
        END LOOP;
    END $$";

/// Returns the text of an error that says that the database is not the one that was opened.
#[track_caller]
fn elsewhere<T>(result: Result<T, Error>) -> String {
    let error = result.err().expect("it is another database");
    let text = store::in_full(&error);
    assert!(error.is_elsewhere(), "{text}");
    text
}

/// Everything that writes or reads fails.
async fn all_fail(fixture: &Fixture) -> Vec<String> {
    let (store, me) = (&fixture.store, fixture.me);
    let name = ParticipantName::new("bank").unwrap();
    let register = store.endpoints().register(me, &name, "http://bank", "life", now());
    vec![
        elsewhere(register.await),
        elsewhere(store.incarnations().renew(me, LEASE).await),
        elsewhere(store.batch_writer(me).await),
        elsewhere(store.transactions().find(&Key::Gid(new_gid())).await),
    ]
}

/// A connection that is open leads to other tables from one moment to the next.
#[tokio::test]
async fn s3_nothing_is_written_in_tables_that_took_the_place() {
    for script in [REPLACE, RESTORE] {
        let fixture = Fixture::postgres().await;
        let mut writer = fixture.writer().await;
        let begin = || [a_write(Live::begin(&new_gid()).1)];
        assert_eq!(writer.write(&begin()).await.unwrap(), [Written::Applied]);
        fixture.store.incarnations().renew(fixture.me, LEASE).await.unwrap();
        fixture.store.endpoints().list().await.unwrap();
        execute(&fixture.url, &format!("BEGIN; {script}; COMMIT")).await;
        let error = writer.write(&begin()).await.unwrap_err();
        assert!(matches!(error, BatchError::Elsewhere(_)), "{error:?}");
        for text in all_fail(&fixture).await {
            assert!(text.contains("is not the one that was opened"), "{text}");
        }
        let counts = [("log", 1), ("participants", 0), ("endpoints", 0)];
        for (table, rows) in counts {
            assert_eq!(count(&fixture, &format!("unanimo.{table}")).await, rows, "{table}");
        }
        let untouched = "heartbeats WHERE counter = 1 AND NOT fenced";
        assert_eq!(count(&fixture, &format!("unanimo.{untouched}")).await, 1);
    }
}

/// Begins a transaction on a new connection, once the server answers.
async fn begin(fixture: &Fixture) -> TxId {
    let mut writer =
        until("a connection", async || fixture.store.batch_writer(fixture.me).await.ok()).await;
    let (live, begin) = Live::begin(&new_gid());
    assert_eq!(writer.write(&[a_write(begin)]).await.unwrap(), [Written::Applied]);
    live.id()
}

/// A recovery to an earlier time has the same place and the same tables. It is told also where no renewal
/// was lost by it.
#[tokio::test]
async fn s3_a_database_of_an_earlier_time_is_told_from_a_restart() {
    let server = Server::start();
    let fixture = Fixture::open(server.database().await).await;
    let renew = async || fixture.store.incarnations().renew(fixture.me, LEASE).await.ok();
    let first = begin(&fixture).await;
    server.stop_immediately();
    let backup = server.back_up();
    // Nothing was written since.
    server.restore(&backup);
    server.launch();
    until("a renewal", renew).await;
    server.stop_immediately();
    let backup = server.back_up();
    server.launch();
    let lost = begin(&fixture).await;
    server.stop_immediately();
    server.restore(&backup);
    server.launch();
    // The heartbeat's session was cut.
    assert!(renew().await.is_none());
    for text in all_fail(&fixture).await {
        assert!(text.contains("was restored to an earlier time under this process"), "{text}");
    }
    // Another process goes on with what is there.
    let store = store::open(&fixture.url, &PostgresOptions::default()).await.unwrap();
    let find = async |tx_id| store.transactions().find(&Key::Tx(tx_id)).await.unwrap().is_some();
    assert_eq!((find(first).await, find(lost).await), (true, false));
}

/// Rows of an earlier time, in the same tables.
#[tokio::test]
async fn s3_rows_of_an_earlier_time_are_told_from_a_fence() {
    let renewed = async || {
        let fixture = Fixture::postgres().await;
        for _ in 0..2 {
            fixture.store.incarnations().renew(fixture.me, LEASE).await.unwrap();
        }
        fixture
    };
    let fixture = renewed().await;
    execute(&fixture.url, "UPDATE unanimo.heartbeats SET counter = 1").await;
    let text = elsewhere(fixture.store.incarnations().renew(fixture.me, LEASE).await);
    assert!(text.contains("counted its heartbeats to 2, and the next one has number 2"), "{text}");

    // Of a time before this incarnation: nobody has fenced it.
    let fixture = renewed().await;
    let mut writer = fixture.writer().await;
    execute(&fixture.url, "DELETE FROM unanimo.heartbeats; DELETE FROM unanimo.fences").await;
    let says = &format!("incarnation {} is not created there", fixture.me);
    let text = elsewhere(fixture.store.incarnations().renew(fixture.me, LEASE).await);
    assert!(text.contains(says), "{text}");
    let error = writer.write(&[a_write(Live::begin(&new_gid()).1)]).await.unwrap_err();
    assert!(matches!(error, BatchError::Elsewhere(_)), "{error:?}");
    assert!(elsewhere(fixture.store.batch_writer(fixture.me).await).contains(says));
    // One that is fenced is told so.
    let fixture = renewed().await;
    let mut writer = fixture.writer().await;
    fixture.store.incarnations().fence(fixture.me, "a test").await.unwrap();
    let error = fixture.store.incarnations().renew(fixture.me, LEASE).await.unwrap_err();
    assert!(matches!(error, Error::Fenced(_)), "{error:?}");
    let error = writer.write(&[a_write(Live::begin(&new_gid()).1)]).await.unwrap_err();
    assert!(matches!(error, BatchError::Fenced(_)), "{error:?}");
}
