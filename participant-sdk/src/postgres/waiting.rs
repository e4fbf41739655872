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

/// Reads the server's process of a session, and a time at which it was there: `pid`s are used again.
macro_rules! backend {
    () => {
        "pg_backend_pid()::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    };
}
pub(super) use backend;

/// Attempts to end one, while the database gives no session for it.
const ATTEMPTS_MAX: usize = 10;

/// Between two of them.
const PAUSE: Duration = Duration::from_secs(1);

const ASK: &str = concat!("SELECT ", backend!());

/// The same, where a statement waits that a statement's longest time would end: it has none then.
const ASK_WITHOUT_TIMEOUT: &str =
    concat!("SELECT ", backend!(), ", set_config('statement_timeout', '0', false)");

/// Whoever has its `pid` by now has begun later.
const END: &str = "
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid = $1::bigint AND backend_start <= to_timestamp($2::bigint / 1000000.0) + interval '1 millisecond'";

/// The server's process of a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backend {
    pid: i64,
    seen_us: i64,
}

impl Backend {
    pub(super) fn new(pid: i64, seen_us: i64) -> Self {
        Self { pid, seen_us }
    }

    /// Asks for that of this session.
    pub(super) async fn of(session: &mut impl Session) -> Result<Self, Error> {
        let (pid, seen_us) = statements::one(session.connection(), ASK, &[]).await?;
        Ok(Self { pid, seen_us })
    }

    /// Asks for that of this session, whose statements have no longest time from now on.
    pub(super) async fn without_timeout(session: &mut impl Session) -> Result<Self, Error> {
        let asked = statements::one(session.connection(), ASK_WITHOUT_TIMEOUT, &[]);
        let (pid, seen_us, _): (_, _, String) = asked.await?;
        Ok(Self { pid, seen_us })
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
        let (Some(backend), Ok(runtime)) = (self.backend, Handle::try_current()) else { return };
        runtime.spawn(end(self.pool.clone(), backend));
    }
}

async fn end<O: Pool>(pool: O, backend: Backend) {
    let pid = backend.pid;
    for _ in 0..ATTEMPTS_MAX {
        match try_to_end(&pool, backend).await {
            Ok(true) => {
                tracing::warn!(
                    pid,
                    "ended a session of the database whose operation was given up while its commit waited, for a \
                     synchronous standby or for the disk"
                );
                return;
            }
            Ok(false) => return,
            Err(error) => {
                tracing::debug!(pid, %error, "failed to end a session whose operation was given up");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    tracing::warn!(pid, "a session of the database whose operation was given up may wait on");
}

async fn try_to_end(pool: &impl Pool, Backend { pid, seen_us }: Backend) -> Result<bool, Error> {
    let mut session = pool.acquire().await?;
    let connection = session.connection();
    let parameters = [Parameter::Int(Some(pid)), Parameter::Int(Some(seen_us))];
    // The role that the participant works as need not be allowed to end what its login has begun.
    let mut done = connection.run("SET ROLE NONE").await.map(|()| None);
    if done.is_ok() {
        done = statements::optional(connection, END, &parameters).await;
    }
    let ended: Option<(bool,)> = statements::given_back(session, done)?;
    Ok(ended.is_some())
}
