//! A database with TLS.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor, Row};
use unanimo_coordinator::Builder;
use unanimo_tests::postgres::Server;
use unanimo_tests::reaper::{NOBODY, is_root, run_folder};
use unanimo_tests::wait::PATIENCE;
use uuid::Uuid;

use super::{Authority, Valid};
use crate::coordinator::{World, config, tcc};

/// Shortest wait for a start that does not come.
const LONG: Duration = Duration::from_secs(5);

/// So many times as long as one that comes is waited for one that does not: several are tried at once.
const TIMES: u32 = 8;

/// Two addresses of this machine that nobody else uses: the port is always PostgreSQL's own.
fn addresses(of: u32) -> [String; 2] {
    let id = std::process::id();
    let beginning = format!("127.{}.{}", 100 + (id >> 16) % 100, (id >> 8) % 256);
    [0, 1].map(|second| format!("{beginning}.{}", 1 + (4 * id + 2 * of + second) % 250))
}

/// Starts a server that takes TLS alone, at these addresses, with a certificate for the first one. With `clients` it
/// demands a certificate of every client.
fn serve(authority: &Authority, [address, other]: &[String; 2], clients: bool) -> Server {
    let (cert, key) = authority.sign(&[address], Valid::Now);
    let hba = run_folder().join(format!("{}.hba", Uuid::new_v4()));
    let demand = if clients { " clientcert=verify-ca" } else { "" };
    let lines = format!("local all all trust\nhostssl all all 127.0.0.0/8 trust{demand}\n");
    fs::write(&hba, lines).unwrap();
    fs::set_permissions(&authority.folder, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    for file in [&cert, &key, &hba] {
        if is_root() {
            chown(file, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
    let mut settings = format!(
        "listen_addresses = '{address},{other}'\nssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'\n\
         hba_file = '{}'\n",
        cert.display(),
        key.display(),
        hba.display()
    );
    if clients {
        writeln!(settings, "ssl_ca_file = '{}'", authority.ca().display()).unwrap();
    }
    Server::start_with(&settings)
}

/// Starts a coordinator on this database, and stops it. Returns the time that the start took.
async fn serves(url: String) -> Duration {
    let began = Instant::now();
    let started = tokio::time::timeout(PATIENCE, Builder::new(config(&url)).start()).await;
    let took = began.elapsed();
    started.expect("it starts in time").expect("it starts").stop().await.unwrap();
    took
}

/// Tells whether no coordinator starts on this database, where one that is served took so long. A start may go on trying; it
/// does not succeed.
async fn is_refused(url: String, took: Duration) -> bool {
    let time = LONG.max(TIMES * took);
    match tokio::time::timeout(time, Builder::new(config(&url)).start()).await {
        Ok(Ok(running)) => {
            running.stop().await.unwrap();
            false
        }
        _ => true,
    }
}

/// With `verify-full` the journal and all other sessions have TLS, and a server of another authority, or of another name, is
/// not used. `verify-ca` passes the name over, and `require` both.
#[tokio::test]
async fn a_database_is_used_over_tls_and_must_prove_its_name() {
    let (authority, other, addresses) = (Authority::new(), Authority::new(), addresses(0));
    let server = serve(&authority, &addresses, false);
    let local = server.database().await;
    let (_, name) = local.rsplit_once('/').unwrap();
    let at = |address: &str, mode: &str, ca: &Authority| {
        let ca = ca.ca().display().to_string();
        format!("postgres://unanimo@{address}/{name}?sslmode={mode}&sslrootcert={ca}")
    };
    let url = |mode: &str, ca: &Authority| at(&addresses[0], mode, ca);
    let wrong_name = |mode: &str| at(&addresses[1], mode, &authority);
    // Of `verify-ca` the name is not compared, and of `require` nothing.
    let took = serves(wrong_name("verify-ca")).await;
    serves(format!("postgres://unanimo@{}/{name}?sslmode=require", addresses[1])).await;
    // All at once: each that is refused takes a while.
    let refused = tokio::join!(
        is_refused(url("verify-full", &other), took),
        is_refused(url("verify-ca", &other), took),
        is_refused(wrong_name("verify-full"), took),
        is_refused(url("disable", &authority), took),
    );
    assert_eq!(refused, (true, true, true, true), "another authority twice, name, without TLS");

    let world = World::start(config(&url("verify-full", &authority))).await;
    assert!(world.submit(tcc("g", &["ok"])).await.is_ok());
    let mut admin = PgConnection::connect(&local).await.unwrap();
    let query = "SELECT count(*) FILTER (WHERE ssl), count(*) FROM pg_stat_ssl \
                 JOIN pg_stat_activity USING (pid) WHERE client_addr IS NOT NULL";
    let row = admin.fetch_one(query).await.unwrap();
    let (with_tls, all): (i64, i64) = (row.get(0), row.get(1));
    assert!(all >= 2 && with_tls == all, "{with_tls} of {all} sessions have TLS");
}

/// A server that demands certificates of its clients is shown the one of `sslcert`.
#[tokio::test]
async fn a_database_that_demands_a_certificate_is_shown_one() {
    let (authority, other, addresses) = (Authority::new(), Authority::new(), addresses(1));
    let server = serve(&authority, &addresses, true);
    let local = server.database().await;
    let (_, name) = local.rsplit_once('/').unwrap();
    let without = || {
        let (address, ca) = (&addresses[0], authority.ca().display().to_string());
        format!("postgres://unanimo@{address}/{name}?sslmode=verify-full&sslrootcert={ca}")
    };
    let with = |signed_by: &Authority, valid| {
        let (cert, key) = signed_by.sign(&["coordinator"], valid);
        format!("{}&sslcert={}&sslkey={}", without(), cert.display(), key.display())
    };
    let took = serves(with(&authority, Valid::Now)).await;
    let refused = tokio::join!(
        is_refused(without(), took),
        is_refused(with(&other, Valid::Now), took),
        is_refused(with(&authority, Valid::Formerly), took),
    );
    assert_eq!(refused, (true, true, true), "none, another authority, expired");
    let world = World::start(config(&with(&authority, Valid::Now))).await;
    assert!(world.submit(tcc("g", &["ok"])).await.is_ok());
    let mut admin = PgConnection::connect(&local).await.unwrap();
    let query = "SELECT count(*) FILTER (WHERE client_dn IS NOT NULL), count(*) FROM pg_stat_ssl \
                 JOIN pg_stat_activity USING (pid) WHERE client_addr IS NOT NULL";
    let row = admin.fetch_one(query).await.unwrap();
    let (known, all): (i64, i64) = (row.get(0), row.get(1));
    assert!(all >= 2 && known == all, "{known} of {all} sessions have shown a certificate");
}
