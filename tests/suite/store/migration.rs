//! Rows that an earlier version has written.

use std::borrow::Cow;

use sqlx::Connection;
use sqlx::migrate::Migrator;
use unanimo_coordinator::store::{self, Key, PostgresOptions};
use unanimo_core::{Mode, StepSpec, TxId};
use unanimo_tests::postgres::Server;
use unanimo_tests::reaper::run_folder;
use uuid::Uuid;

pub(super) const TX_ID: &str = "019a0000000070008000000000000007";

/// Rows of the first schema: a transaction with one branch and its output. `{x}` stands before a
/// literal of bytes, `{yes}` and `{no}` for truth.
pub(super) fn rows(bytes: impl Fn(&str) -> String, id: &str, no: &str) -> String {
    let (digest, text) = (bytes(&"ab".repeat(32)), bytes("6f"));
    format!(
        "INSERT INTO transactions (tx_id, gid, owner, version, write_id, mode, drive, digest,
             digest_version, created_ms, deadline_ms, phase, decided_ms, ended_ms, stalled, progress)
         VALUES ({id}, 'old', 1, 3, {id}, '2pc', 'declarative', {digest}, 1, 5, 6, 'committed', 7,
             8, {no}, '[{{\"vote\":\"prepared\"}}]');
         INSERT INTO branches (tx_id, number, branch_id, participant, action, enlisted_by, payload)
         VALUES ({id}, 1, 'a', 'bank', 'debit', 'coordinator', {text});
         INSERT INTO outputs (tx_id, number, output) VALUES ({id}, 1, {text});"
    )
}

/// The schema as it was at this version.
pub(super) fn up_to(version: i64, all: &Migrator) -> Migrator {
    let first = all.iter().filter(|migration| migration.version <= version).cloned().collect();
    Migrator { migrations: Cow::Owned(first), ..Migrator::DEFAULT }
}

#[tokio::test]
async fn rows_of_the_first_schema_are_read() {
    rows_of_an_earlier_schema_are_read(1).await;
}

#[tokio::test]
async fn rows_of_the_second_schema_are_read() {
    rows_of_an_earlier_schema_are_read(2).await;
}

async fn rows_of_an_earlier_schema_are_read(version: i64) {
    let url = Server::shared().database().await;
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    up_to(version, &unanimo_migrations::coordinator::POSTGRES).run(&mut connection).await.unwrap();
    let id = format!("'{TX_ID}'");
    let script = rows(|hex| format!("decode('{hex}', 'hex')"), &id, "false");
    sqlx::raw_sql(sqlx::AssertSqlSafe(script)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    check(&url).await;

    let file = run_folder().join(format!("{}.db", Uuid::new_v4()));
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file).create_if_missing(true);
    let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    up_to(version, &unanimo_migrations::coordinator::SQLITE).run(&mut connection).await.unwrap();
    let script = rows(|hex| format!("x'{hex}'"), &format!("x'{TX_ID}'"), "0");
    sqlx::raw_sql(sqlx::AssertSqlSafe(script)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    check(&format!("sqlite:{}", file.display())).await;
}

pub(super) async fn check(url: &str) {
    let store = store::open(url, &PostgresOptions::default()).await.unwrap();
    let key = Key::Tx(TxId(TX_ID.parse().unwrap()));
    let stored = store.transactions().find(&key).await.unwrap().unwrap().record;
    assert_eq!((stored.identity.gid.as_str(), stored.version.0), ("old", 3));
    assert_eq!(stored.identity.digest.version, 1);
    let (_, branch) = &stored.branches[0];
    assert_eq!(branch.mode, Mode::TwoPhaseCommit, "the transaction's");
    assert_eq!((&*branch.payload.data, &*branch.payload.media_type), (&b"o"[..], ""));
    assert_eq!(branch.step, StepSpec::default());
    assert_eq!((stored.identity.start_at, &*stored.identity.locks), (None, &[][..]));
    assert_eq!((stored.identity.parent, stored.state.wake_at), (None, None));
    assert!(
        store
            .transactions()
            .history(stored.identity.tx_id, Default::default())
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!((&*stored.outputs[0].1.data, &*stored.outputs[0].1.media_type), (&b"o"[..], ""));
}
