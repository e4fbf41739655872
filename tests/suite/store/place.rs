//! Databases that are not where they were used last.

use std::path::Path;

use sqlx::{AssertSqlSafe, Connection};
use unanimo_coordinator::store::{self, Error, PostgresOptions, Relocation, Start};
use unanimo_core::ParticipantName;
use unanimo_tests::postgres::Server;
use unanimo_tests::wait::until;

use super::{Fixture, create};
use crate::fixtures::now;
use crate::participant::registration::Lines;

async fn open(
    url: &str,
    told: Option<Relocation>,
) -> Result<std::sync::Arc<dyn store::Store>, Error> {
    start(url, "one", told).await
}

async fn start(
    url: &str,
    node: &str,
    told: Option<Relocation>,
) -> Result<std::sync::Arc<dyn store::Store>, Error> {
    let start = Start { node: node.to_owned(), told };
    // A program that another test starts has a lock of this process for a moment, until it is another program. Whoever
    // starts a coordinator waits for that, too.
    until("the file to be let go of", async || {
        let opened = match store::connect(url, &PostgresOptions::default(), start.clone()).await {
            Ok(opening) => opening.open().await,
            Err(error) => Err(error),
        };
        Some(opened).filter(|opened| !matches!(opened, Err(Error::InUse { .. })))
    })
    .await
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

async fn check(original: (String, String), copy_of: impl AsyncFn(&str) -> String) {
    let (original, id) = original;
    let copy = async || copy_of(&original).await;
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
    drop(again);

    // The flag was left in the unit when the database moves again.
    let again = open(&url, Some(Relocation::Moved)).await.unwrap();
    again.close().await;
    drop(again);
    // The start of another node, such as a standby, does not tell that it was taken out.
    let other = start(&url, "other", None).await.unwrap();
    other.close().await;
    drop(other);
    let url = copy_of(&url).await;
    let error = open(&url, Some(Relocation::Moved)).await.unwrap_err().to_string();
    assert!(error.contains("left behind"), "{error}");
    let named = error.split("--moved=").nth(1).unwrap().split(';').next().unwrap().to_owned();
    for wrong in [named.replace('=', "=9"), "inode=1".to_owned()] {
        let error = open(&url, Some(Relocation::MovedTo(wrong))).await.unwrap_err().to_string();
        assert!(error.contains("names another place"), "{error}");
    }
    for told in [Some(Relocation::MovedTo(named.clone())), Some(Relocation::MovedTo(named)), None] {
        let moved = open(&url, told).await.unwrap();
        assert_eq!((moved.cluster_id(), endpoints(&moved).await), (&*id, 1));
        moved.close().await;
    }
    // A start without it, and the next move needs no name.
    let moved = open(&copy_of(&url).await, Some(Relocation::Moved)).await.unwrap();
    moved.close().await;
    drop(moved);

    let url = copy().await;
    let (options, told) = (PostgresOptions::default(), Some(Relocation::Copy(None)));
    let start = Start { told, ..Start::default() };
    let opening = store::connect(&url, &options, start).await.unwrap();
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
    check(original, async |of| {
        let template = of.rsplit('/').next().unwrap();
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
    check(original, async |of| {
        let path = of.strip_prefix("sqlite:").unwrap();
        let copy = format!("{path}-{}", uuid::Uuid::new_v4().simple());
        // Checkpointed at its close: the file is whole.
        std::fs::copy(path, &copy).unwrap();
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

/// On a file system that numbers its files anew a file seems to have moved: the refusal says so, and one
/// word makes it right.
#[tokio::test]
async fn a_file_that_was_numbered_anew_is_told_apart_from_a_copy_by_a_word() {
    let (url, id) = used(Fixture::sqlite().await).await;
    super::execute(&url, "UPDATE cluster SET place = 'inode=1 made=1'").await;
    let error = open(&url, None).await.unwrap_err().to_string();
    for word in ["inode=1", "numbers its files anew", "overlay", "start once with --moved;"] {
        assert!(error.contains(word), "{word}: {error}");
    }
    let store = open(&url, Some(Relocation::Moved)).await.unwrap();
    assert_eq!(store.cluster_id(), id);
    store.close().await;
    drop(store);
    open(&url, None).await.unwrap();
}

/// A role that may not read the server's identifier opens the database, and hears what is not noticed then.
#[tokio::test]
async fn a_role_that_may_not_read_the_servers_identifier_is_warned() {
    let (lines, _listening) = Lines::listen();
    let url = Server::shared().database().await;
    let (role, name) =
        (format!("r{}", uuid::Uuid::now_v7().simple()), url.rsplit('/').next().unwrap());
    let name = name.split('?').next().unwrap();
    let limits = format!(
        "CREATE ROLE {role} LOGIN;
         GRANT CREATE ON DATABASE \"{name}\" TO {role};
         REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC"
    );
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(limits)).execute(&mut connection).await.unwrap();
    let (_, host) = url.split_once('@').unwrap();
    let store = open(&format!("postgres://{role}@{host}"), None).await.unwrap();
    store.close().await;
    let warned = lines.of("pg_control_system()");
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(warned[0].contains("WARN"), "{warned:?}");
}
