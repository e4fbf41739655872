//! Sessions of the server that wait for a synchronous standby behind a client that has gone.
//!
//! The server does not look at its connection while a commit waits: it waits on for as long as no standby comes back.
//! An operation that is given up would leave its session there, and the next attempt another one, until the server
//! takes no more. So a session that is given up in a commit is ended, from another one. Its commit stands then, as if
//! its wait had been ended by hand, and nothing was answered: the next attempt finds what it has left.

use std::time::Duration;

use tokio::runtime::Handle;

use super::driver::{Connection, Error, Parameter, Pool, Session};
use super::{error, statements};

/// Reads the server's process of a session, a time at which it was there, because a `pid` is used again, and the start of
/// its server, because another one may have been promoted.
macro_rules! backend {
    () => {
        "concat_ws(' ', pg_backend_pid(), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
            (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint)"
    };
}
pub(super) use backend;

/// Attempts to end one, while the database gives no session for it, or while it does not wait yet.
const ATTEMPTS_MAX: usize = 10;

/// Between two of them.
const PAUSE: Duration = Duration::from_secs(1);

const ASK: &str = concat!("SELECT ", backend!());

/// The same, where a statement waits that a statement's longest time would end: it has none then.
const ASK_WITHOUT_TIMEOUT: &str =
    concat!("SELECT ", backend!(), ", set_config('statement_timeout', '0', false)");

/// Ends that session: another one with its `pid` has begun later. Only one that waits is ended: behind a pooler another client has it
/// once its commit is over.
const END: &str = "
SELECT wait_event IS NOT DISTINCT FROM 'SyncRep' AND pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid = split_part($1, ' ', 1)::integer AND state <> 'idle'
    AND backend_start <= to_timestamp(split_part($1, ' ', 2)::bigint / 1000000.0) + interval '1 millisecond'
    AND split_part($1, ' ', 3)::bigint = (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint";

/// The server's process of a session, as `backend!` reads it.
#[derive(Clone, Debug)]
pub(super) struct Backend(String);

impl Backend {
    pub(super) fn new(read: String) -> Self {
        Self(read)
    }

    /// Returns it as it was read.
    pub(super) fn read(&self) -> &str {
        &self.0
    }

    pub(super) fn pid(&self) -> &str {
        self.0.split(' ').next().unwrap_or_default()
    }

    /// Asks for that of this session.
    pub(super) async fn of(session: &mut impl Session) -> Result<Self, Error> {
        let (read,) = statements::one(session.connection(), ASK, &[]).await?;
        Ok(Self(read))
    }

    /// Asks for that of this session, whose statements have no longest time from now on.
    pub(super) async fn without_timeout(session: &mut impl Session) -> Result<Self, Error> {
        let asked = statements::one(session.connection(), ASK_WITHOUT_TIMEOUT, &[]);
        let (read, _): (_, String) = asked.await?;
        Ok(Self(read))
    }
}

/// Runs a statement that may wait for a standby. If this is dropped, or the server does not answer, its session is
/// ended by one of the pool.
pub(super) async fn ended_with_its_client<O: Pool, T>(
    backend: Option<Backend>,
    pool: &O,
    statement: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let mut waiting = Waiting { backend, pool: pool.clone() };
    let done = statement.await;
    if !matches!(&done, Err(error) if error::code(error).is_none()) {
        waiting.backend = None;
    }
    done
}

/// A statement that waits.
struct Waiting<O: Pool> {
    backend: Option<Backend>,
    pool: O,
}

impl<O: Pool> Drop for Waiting<O> {
    fn drop(&mut self) {
        let (Some(backend), Ok(runtime)) = (self.backend.take(), Handle::try_current()) else {
            return;
        };
        runtime.spawn(end(self.pool.clone(), backend));
    }
}

/// State in which a session is found that was given up.
enum Found {
    Ended,
    /// It does something else than wait for a standby, as far as is seen.
    Busy,
    Gone,
}

async fn end<O: Pool>(pool: O, Backend(backend): Backend) {
    let pid = backend.split(' ').next();
    for attempt in 0..ATTEMPTS_MAX {
        if attempt > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        match try_to_end(&pool, &backend).await {
            Ok(Found::Ended) => {
                tracing::warn!(
                    pid,
                    "ended a session of the database whose operation was given up while its commit waited for a \
                     synchronous standby"
                );
                return;
            }
            Ok(Found::Gone) => return,
            Ok(Found::Busy) => {}
            Err(error) => {
                tracing::debug!(pid, %error, "failed to end a session whose operation was given up");
            }
        }
    }
    tracing::warn!(pid, "a session of the database whose operation was given up may wait on");
}

async fn try_to_end(pool: &impl Pool, backend: &str) -> Result<Found, Error> {
    let mut session = pool.acquire().await?;
    let connection = session.connection();
    // The role that the participant works as need not be allowed to end what its login has begun.
    let mut done = connection.run("SET ROLE NONE").await.map(|()| None);
    if done.is_ok() {
        done = statements::optional(connection, END, &[Parameter::Text(backend)]).await;
    }
    let found: Option<(bool,)> = statements::given_back(session, done)?;
    Ok(match found {
        Some((true,)) => Found::Ended,
        Some((false,)) => Found::Busy,
        None => Found::Gone,
    })
}
