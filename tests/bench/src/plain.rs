//! Base line: commits per second of the server if every commit is a round trip of its own.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};
use tokio::sync::Mutex;
use unanimo_tests::postgres::Server;

use crate::load::{self, Measured};

/// Measures inserts of single rows, each with its own commit, on one connection per worker.
pub(crate) async fn commits(
    server: &Server,
    connections: usize,
    time: Duration,
) -> Result<Measured> {
    let url = server.database().await;
    let mut first = PgConnection::connect(&url).await?;
    first.execute("CREATE TABLE line (id bigint GENERATED ALWAYS AS IDENTITY, text text)").await?;
    let mut workers = Vec::new();
    for _ in 0..connections {
        let connection = Arc::new(Mutex::new(PgConnection::connect(&url).await?));
        workers.push(move || {
            let connection = Arc::clone(&connection);
            async move {
                let insert = sqlx::query("INSERT INTO line (text) VALUES ($1)");
                insert.bind("a state change").execute(&mut *connection.lock().await).await?;
                Ok(())
            }
        });
    }
    load::run(workers, time).await
}
