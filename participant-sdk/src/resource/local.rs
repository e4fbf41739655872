//! A local transaction that leaves no connection behind whose state nobody knows.

use std::ops::{Deref, DerefMut};

use sqlx::pool::PoolConnection;
use sqlx::{Database, Pool, SqlSafeStr};
use sqlx_core::transaction::TransactionManager;

/// A local transaction on a connection of a pool. Its owner [commits](Self::commit) it or
/// [releases](Self::release) it. One that is dropped, because its task was ended, its handler panicked or
/// the database did not answer, closes its connection: nobody could tell what state that is in, and the
/// server rolls back by itself.
#[derive(Debug)]
pub(crate) struct Local<D: Database> {
    connection: PoolConnection<D>,
    is_ended: bool,
}

impl<D: Database> Local<D> {
    /// Begins one with this statement.
    #[cfg(any(feature = "mysql", feature = "sqlite"))]
    pub(crate) async fn begin(pool: &Pool<D>, statement: impl SqlSafeStr) -> sqlx::Result<Self> {
        let mut local = Self::acquire(pool).await?;
        local.start(statement).await?;
        Ok(local)
    }

    /// Takes a connection for one that is to be [started](Self::start).
    pub(crate) async fn acquire(pool: &Pool<D>) -> sqlx::Result<Self> {
        Ok(Self { connection: pool.acquire().await?, is_ended: false })
    }

    /// Starts it with this statement. After an error of the database it can be tried again.
    pub(crate) async fn start(&mut self, statement: impl SqlSafeStr) -> sqlx::Result<()> {
        let statement = statement.into_sql_str();
        D::TransactionManager::begin(&mut self.connection, Some(statement)).await
    }

    /// Commits.
    #[cfg(any(feature = "mysql", feature = "sqlite"))]
    pub(crate) async fn commit(mut self) -> sqlx::Result<()> {
        D::TransactionManager::commit(&mut self.connection).await?;
        self.is_ended = true;
        Ok(())
    }

    /// Commits, and keeps the connection until it is released.
    #[cfg(feature = "postgres")]
    pub(crate) async fn commit_and_keep(&mut self) -> sqlx::Result<()> {
        D::TransactionManager::commit(&mut self.connection).await
    }

    /// Rolls back, and gives the connection back to its pool. What is under way there when it is given
    /// back is waited for by the pool.
    pub(crate) fn release(mut self) {
        D::TransactionManager::start_rollback(&mut self.connection);
        self.is_ended = true;
    }
}

impl<D: Database> Deref for Local<D> {
    type Target = D::Connection;

    fn deref(&self) -> &D::Connection {
        &self.connection
    }
}

impl<D: Database> DerefMut for Local<D> {
    fn deref_mut(&mut self) -> &mut D::Connection {
        &mut self.connection
    }
}

impl<D: Database> Drop for Local<D> {
    fn drop(&mut self) {
        if !self.is_ended {
            self.connection.close_on_drop();
        }
    }
}
