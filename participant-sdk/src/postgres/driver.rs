//! Drivers of PostgreSQL: the way by which a participant's connections come from another crate than sqlx.
//!
//! All that a participant does in PostgreSQL is above these traits: the barrier, two-phase commit, the sweeper.
//! A driver acquires sessions, runs statements, and says which error is the server's. Handlers work with the
//! driver's own type of connection.
//!
//! | driver | feature | handlers work with |
//! | --- | --- | --- |
//! | [`Sqlx`] | `postgres` | [`sqlx::PgConnection`] |
#![cfg_attr(
    feature = "tokio-postgres",
    doc = "| [`TokioPostgres`](crate::TokioPostgres) | `tokio-postgres` | [`TokioConnection`](crate::TokioConnection) |"
)]
//! | one of your own | `postgres` | its [`Driver::Connection`] |
//!
//! A participant with a driver of its own is made by [`Postgres::over`](crate::Postgres::over), and its
//! handlers are those of `Postgres<D>`: `impl Tcc<Postgres<MyDriver>> for Reserve`.
//!
//! # What a driver guarantees
//!
//! The promises of a participant rest on these points. Each method says its own part; here they are together.
//!
//! 1. *A session is one session.* Between [`Pool::acquire`] and its end a session is used by nobody else, and
//!    all its statements reach one and the same server session. A pooler that shares sessions between
//!    transactions is found out when a session is set up, and refused.
//! 2. *Statements go out as they are given*, in their order, and none of them twice. A driver repeats
//!    nothing by itself: not a statement, and above all not a COMMIT.
//! 3. *An error tells whether the server has answered.* [`Error::server`] is only for an answer to this very
//!    statement, with the server's SQLSTATE: by that code the participant knows that the statement had no
//!    effect, and it may turn an error into a vote no. Everything else is [`Error::other`], even if it is
//!    very likely that the statement failed: a connection that was lost, a timeout, an answer that cannot be
//!    read. Its effect is then not known, and the participant asks again.
//! 4. *A session that is dropped never comes back.* Futures of the participant are dropped at any point, and so
//!    are the sessions in them: a handler panics, an operation is ended. A session that was
//!    not [released](Session::release) is closed, so that the server rolls back.
//!    A driver never gives a session with an open transaction to the next user.
//! 5. *A session is made fit by [`Care`]*: after it was opened, before it is used again, and after it was
//!    used. What Care refuses is closed.
//! 6. *Nothing waits for ever.* [`Pool::acquire`] ends within [`ACQUIRE_TIMEOUT`]. Keepalives of the client end
//!    statements whose server has vanished.
//!
//! # How much is to be written
//!
//! Four types: the [`Driver`], which opens connections; its [`Pool`]; the [`Session`] that is taken from a
//! pool; and the [`Connection`] in it. Drivers for crates that know statements with parameters of their own
//! types take some 150 lines. `tests/src/plain_driver.rs` of the repository is one without a pool.

mod error;
mod value;

use std::fmt;
use std::time::Duration;

pub use self::error::{Error, ServerError};
pub(super) use self::value::{FromRow, column_error};
pub use self::value::{Parameter, Row, Value};
#[cfg(feature = "tokio-postgres")]
pub use super::over_deadpool::{TokioPool, TokioSession};
pub use super::over_sqlx::{Sqlx, SqlxPool, SqlxSession};
pub use super::session::Care;

/// Longest time of [`Pool::acquire`], with all that it tries.
pub const ACQUIRE_TIMEOUT: Duration = crate::resource::ACQUIRE_TIMEOUT;

/// Opens connections to one database. Cheap to clone.
pub trait Driver: Clone + fmt::Debug + Send + Sync + 'static {
    /// Type that handlers work with: a connection inside the branch's local transaction. It should not offer
    /// to begin or to end a transaction.
    type Connection: Connection;

    /// Type of its pools.
    type Pool: Pool<Connection = Self::Connection>;

    /// Opens a connection outside of every pool, for the set-up. These settings are given at the session's
    /// start if the driver can do that (`options` of the startup packet); they are set afterwards in any
    /// case.
    ///
    /// # Errors
    /// The database does not let it in. [`Error::unfit`] is for what only a person can mend.
    fn connect(
        &self,
        settings: &[(&str, String)],
    ) -> impl Future<Output = Result<Self::Connection, Error>> + Send;

    /// Makes a pool of at most this many sessions. It opens them when they are needed, and gives the
    /// [settings](Care::settings) at a session's start if it can: they then hold even behind a handler's
    /// `RESET ALL`. A participant has three pools, which take nothing from one another.
    fn pool(&self, sessions_max: u32, care: Care) -> Self::Pool;
}

/// Sessions of one database. Cheap to clone: clones share the sessions.
pub trait Pool: Clone + fmt::Debug + Send + Sync + 'static {
    /// Type of its connections.
    type Connection: Connection;

    /// Type of its sessions.
    type Session: Session<Connection = Self::Connection>;

    /// Takes a session, outside of a transaction: a new one after [`Care::set_up`], or one that was used
    /// before and that [`Care::is_fit`] takes. It tries others, and new ones, for as long as there is time.
    /// A future that is dropped takes none.
    ///
    /// # Errors
    /// There is none within [`ACQUIRE_TIMEOUT`].
    fn acquire(&self) -> impl Future<Output = Result<Self::Session, Error>> + Send;
}

/// A session that was taken from a pool. One that is dropped is closed.
pub trait Session: fmt::Debug + Send + 'static {
    /// Type of its connection.
    type Connection: Connection;

    /// The connection.
    fn connection(&mut self) -> &mut Self::Connection;

    /// Begins a transaction by these statements, `BEGIN …` and perhaps `SAVEPOINT …`. They are sent as one,
    /// so that they take one round trip.
    ///
    /// # Errors
    /// There is no transaction.
    fn begin(&mut self, statements: &str) -> impl Future<Output = Result<(), Error>> + Send;

    /// Commits. The session is then outside of a transaction, and is not given back yet: whether a standby has the
    /// commit is asked in it. If it fails the session is dropped.
    ///
    /// # Errors
    /// [`Error::server`] says that nothing was committed. Once COMMIT may have been sent every other error
    /// leaves open whether it was.
    fn commit(&mut self) -> impl Future<Output = Result<(), Error>> + Send;

    /// Gives the session back, without keeping anybody waiting: a transaction that is open in it is rolled
    /// back, and [`Care::clean`] is run, before somebody else gets it. If either fails it is closed.
    fn release(self);
}

/// A connection.
///
/// Its methods need not survive that their futures are dropped: the session is then closed.
pub trait Connection: Send + Sized + 'static {
    /// Runs statements without parameters, separated by `;`, by the simple query protocol: in one round
    /// trip, until one of them fails.
    ///
    /// # Errors
    /// One of them failed.
    fn run(&mut self, statements: &str) -> impl Future<Output = Result<(), Error>> + Send;

    /// Runs one statement with parameters `$1`, `$2` and so on, and returns its rows. It should keep the
    /// statement prepared: there are a few dozen of them. A handler may deallocate them (`DEALLOCATE ALL`,
    /// SQLSTATE 26000): then the driver forgets them, and passes the error on.
    ///
    /// # Errors
    /// It failed, or a column is of a type that no [`Value`] has.
    fn query(
        &mut self,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> impl Future<Output = Result<Vec<Row>, Error>> + Send;

    /// Runs one statement as [`query`](Self::query) does, and returns the number of rows that it has changed.
    ///
    /// # Errors
    /// It failed.
    fn execute(
        &mut self,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> impl Future<Output = Result<u64, Error>> + Send;

    /// Returns the server's answer in an error of the driver, if it is one: handlers pass their errors on, and
    /// one that speaks of the work is a vote no. Causes are looked through by the caller. A wrapper that is
    /// transparent, such as `anyhow`, shows in the place of the driver's error what that names as its source: the
    /// answer must be found there, too.
    fn server_error(error: &(dyn std::error::Error + 'static)) -> Option<ServerError>;

    /// Closes it, with a word to the server if that takes no time.
    fn close(self) -> impl Future<Output = ()> + Send {
        drop(self);
        std::future::ready(())
    }
}
