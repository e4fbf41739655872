//! Connections of journals. Each is closed in good order, whoever drops it, and the store ends after them: the last
//! connection that is closed writes the log into the database file, and a process that ends before leaves the log there.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// More than there ever are at once.
const MOST: u32 = 1 << 16;

/// Longest wait of the store's end for them.
const CLOSED_WITHIN: Duration = Duration::from_secs(5);

/// All that are open, or being opened.
#[derive(Debug)]
pub(super) struct Writers(Arc<Semaphore>);

impl Default for Writers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST as usize)))
    }
}

impl Writers {
    /// Connects. Where nobody waits any more for that, the connection is closed.
    pub(super) async fn connect(
        &self,
        options: &SqliteConnectOptions,
    ) -> Result<Connection, sqlx::Error> {
        let permit = Arc::clone(&self.0).acquire_owned().await;
        let (permit, options) = (permit.map_err(|_| sqlx::Error::PoolClosed)?, options.clone());
        let connecting = tokio::spawn(async move {
            let connection = SqliteConnection::connect_with(&options).await?;
            Ok(Connection(Some((connection, permit))))
        });
        connecting.await.unwrap_or(Err(sqlx::Error::WorkerCrashed))
    }

    /// Waits until all are closed, but not for ever.
    pub(super) async fn closed(&self) {
        // Nothing depends on how it ends.
        let _ = tokio::time::timeout(CLOSED_WITHIN, self.0.acquire_many(MOST)).await;
    }
}

/// A connection. It has one until it is dropped.
#[derive(Debug)]
pub(super) struct Connection(Option<(SqliteConnection, OwnedSemaphorePermit)>);

impl Deref for Connection {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.0.as_ref().expect("it is there until it is dropped").0
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.0.as_mut().expect("it is there until it is dropped").0
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let (Some((connection, permit)), Ok(runtime)) = (self.0.take(), Handle::try_current())
        else {
            return;
        };
        runtime.spawn(async move {
            // Nothing depends on how it ends.
            let _ = connection.close().await;
            drop(permit);
        });
    }
}
