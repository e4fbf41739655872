//! Databases that are not where they were used last.

use std::path::Path;

use sqlx::{AssertSqlSafe, Connection};
use unanimo_coordinator::store::{self, Error, PostgresOptions, Relocation};
use unanimo_core::ParticipantName;
use unanimo_tests::postgres::Server;

use super::{Fixture, create};
use crate::fixtures::now;

async fn open(
    url: &str,
    told: Option<Relocation>,
) -> Result<std::sync::Arc<dyn store::Store>, Error> {
    store::connect(url, &PostgresOptions::default(), told).await?.open().await
}

/// Makes a registration, and lets go of the database. Returns its address and its cluster id.
async fn used(fixture: Fixture) -> (String, String) {
    let Fixture { store, url, me } = fixture;
    let bank = ParticipantName::new("bank").unwrap();
    store.endpoints().register(me, &bank, "http://bank", "life", now()).await.unwrap();
    let id = store.cluster_id().to_owned();
    store.close().await;
    (url, id)
}

async fn check(original: (String, String), copy: impl AsyncFn() -> String) {
    let (original, id) = original;
    let endpoints = async |store: &std::sync::Arc<dyn store::Store>| {
        let all = store.endpoints().list().await.unwrap();
        all.iter().filter(|found| found.endpoint.is_some()).count()
    };

    let url = copy().await;
    let error = open(&url, None).await.unwrap_err();
    assert!(matches!(error, Error::Elsewhere { .. }), "{error:?}");
    for word in ["--moved", "--copy"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    let moved = open(&url, Some(Relocation::Moved)).await.unwrap();
    assert_eq!((moved.cluster_id(), endpoints(&moved).await), (&*id, 1));
    assert_eq!(moved.incarnations().list().await.unwrap().live.len(), 1, "nobody was fenced");
    moved.close().await;
    drop(moved);
    let again = open(&url, None).await.unwrap();
    assert_eq!(again.cluster_id(), id);
    again.close().await;

    let url = copy().await;
    let (options, told) = (PostgresOptions::default(), Some(Relocation::Copy(None)));
    let opening = store::connect(&url, &options, told).await.unwrap();
    if opening.needs_turn() {
        for live in opening.live().await.unwrap() {
            opening.fence(live.incarnation, "a test").await.unwrap();
        }
    }
    let copied = opening.open().await.unwrap();
    let new_id = copied.cluster_id().to_owned();
    assert_ne!(new_id, id);
    assert!(ParticipantName::new(&new_id).is_ok() && new_id.len() == id.len(), "{new_id}");
    assert_eq!(endpoints(&copied).await, 0, "nobody of the original's is called");
    create(&copied, "staging").await;
    copied.close().await;
    drop((copied, opening));
    // The flag was left in the unit.
    for told in [None, Some(Relocation::Copy(None)), Some(Relocation::Copy(Some(id.clone())))] {
        let again = open(&url, told).await.unwrap();
        assert_eq!(again.cluster_id(), new_id);
        again.close().await;
    }

    let first = open(&original, None).await.unwrap();
    assert_eq!((first.cluster_id(), endpoints(&first).await), (&*id, 1));
    first.close().await;
    drop(first);
    let error = open(&original, Some(Relocation::Copy(None))).await.unwrap_err();
    assert!(error.to_string().contains(&format!("--copy={id}")), "{error}");
}

#[tokio::test]
async fn s7_a_copy_on_postgres_is_refused_until_somebody_has_decided() {
    let original = used(Fixture::postgres().await).await;
    let template = original.0.rsplit('/').next().unwrap().to_owned();
    check(original, async || {
        let server = Server::shared();
        let name = format!("copy_{}", uuid::Uuid::new_v4().simple());
        let mut admin = sqlx::PgConnection::connect(&server.url("postgres")).await.unwrap();
        let copy = format!("CREATE DATABASE {name} TEMPLATE {template}");
        // Sessions of the original end a moment after they were closed.
        unanimo_tests::wait::until("the original to be free", async || {
            let copy = AssertSqlSafe(copy.clone());
            sqlx::raw_sql(copy).execute(&mut admin).await.ok()
        })
        .await;
        server.url(&name)
    })
    .await;
}

#[tokio::test]
async fn s7_a_copy_on_sqlite_is_refused_until_somebody_has_decided() {
    let original = used(Fixture::sqlite().await).await;
    let path = original.0.strip_prefix("sqlite:").unwrap().to_owned();
    check(original, async || {
        let copy = format!("{path}-{}", uuid::Uuid::new_v4().simple());
        // Checkpointed at its close: the file is whole.
        std::fs::copy(&path, &copy).unwrap();
        format!("sqlite:{copy}")
    })
    .await;
}

/// A file that is renamed is the same one.
#[tokio::test]
async fn a_file_may_be_renamed() {
    let (url, id) = used(Fixture::sqlite().await).await;
    let path = url.strip_prefix("sqlite:").unwrap().to_owned();
    let other = format!("{path}.renamed");
    std::fs::rename(&path, &other).unwrap();
    assert!(!Path::new(&path).exists());
    let store = open(&format!("sqlite:{other}"), None).await.unwrap();
    assert_eq!(store.cluster_id(), id);
}

/// A dump of the schema, restored beside the original, is a copy as well.
#[tokio::test]
async fn a_schema_is_a_place() {
    let (url, id) = used(Fixture::postgres().await).await;
    let mut raw = sqlx::PgConnection::connect(&url).await.unwrap();
    let rename = "ALTER SCHEMA unanimo RENAME TO renamed";
    sqlx::raw_sql(rename).execute(&mut raw).await.unwrap();
    let renamed = PostgresOptions { schema: "renamed".to_owned(), ..PostgresOptions::default() };
    let store = store::open(&url, &renamed).await.unwrap();
    assert_eq!(store.cluster_id(), id, "a new name is no new place");
    store.close().await;
    sqlx::raw_sql(
        "CREATE SCHEMA dumped; CREATE TABLE dumped.cluster AS TABLE renamed.cluster;
         CREATE TABLE dumped.unanimo_migrations AS TABLE renamed.unanimo_migrations",
    )
    .execute(&mut raw)
    .await
    .unwrap();
    let dumped = PostgresOptions { schema: "dumped".to_owned(), ..PostgresOptions::default() };
    let error = store::open(&url, &dumped).await.unwrap_err();
    assert!(matches!(error, Error::Elsewhere { .. }), "{error:?}");
}
