//! A database with TLS.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor, Row};
use unanimo_coordinator::Builder;
use unanimo_tests::postgres::Server;
use unanimo_tests::reaper::{NOBODY, is_root, run_folder};
use uuid::Uuid;

use super::{Authority, Valid};
use crate::coordinator::{World, config, tcc};

/// Longest wait for a start that does not come.
const LONG: Duration = Duration::from_secs(5);

/// An address of this machine that nobody else uses: the port is always PostgreSQL's own.
fn address() -> String {
    let id = std::process::id();
    format!("127.{}.{}.{}", 100 + (id >> 16) % 100, (id >> 8) % 256, 1 + id % 250)
}

/// Starts a server that takes TLS alone, at this address.
fn serve(authority: &Authority, address: &str) -> Server {
    let (cert, key) = authority.sign(&[address], Valid::Now);
    let hba = run_folder().join(format!("{}.hba", Uuid::new_v4()));
    fs::write(&hba, "local all all trust\nhostssl all all 127.0.0.0/8 trust\n").unwrap();
    fs::set_permissions(&authority.folder, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    for file in [&cert, &key, &hba] {
        if is_root() {
            chown(file, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
    Server::start_with(&format!(
        "listen_addresses = '{address}'\nssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'\n\
         hba_file = '{}'\n",
        cert.display(),
        key.display(),
        hba.display()
    ))
}

/// With `verify-full` the journal and all other sessions have TLS, and a server of another authority is not used.
#[tokio::test]
async fn a_database_is_used_over_tls_and_must_prove_its_name() {
    let (authority, other, address) = (Authority::new(), Authority::new(), address());
    let server = serve(&authority, &address);
    let local = server.database().await;
    let (_, name) = local.rsplit_once('/').unwrap();
    let url = |mode: &str, ca: &Authority| {
        let ca = ca.ca().display().to_string();
        format!("postgres://unanimo@{address}/{name}?sslmode={mode}&sslrootcert={ca}")
    };
    // A start may go on trying; it does not succeed.
    let refused = Builder::new(config(&url("verify-full", &other))).start();
    let refused = tokio::time::timeout(LONG, refused).await;
    assert!(!matches!(refused, Ok(Ok(_))), "of another authority");
    let plain = Builder::new(config(&url("disable", &authority))).start();
    assert!(!matches!(tokio::time::timeout(LONG, plain).await, Ok(Ok(_))), "without TLS");

    let world = World::start(config(&url("verify-full", &authority))).await;
    assert!(world.submit(tcc("g", &["ok"])).await.is_ok());
    let mut admin = PgConnection::connect(&local).await.unwrap();
    let query = "SELECT count(*) FILTER (WHERE ssl), count(*) FROM pg_stat_ssl \
                 JOIN pg_stat_activity USING (pid) WHERE client_addr IS NOT NULL";
    let row = admin.fetch_one(query).await.unwrap();
    let (with_tls, all): (i64, i64) = (row.get(0), row.get(1));
    assert!(all >= 2 && with_tls == all, "{with_tls} of {all} sessions have TLS");
}
