//! Sessions whose handler was ended while a statement of it may be at work.
//!
//! The server takes the question whether the transaction is still there only behind that statement. So the statement
//! is ended first, from another session. One that does not end by that is looked at from there: a session in the
//! transaction that it was given has that transaction's id, and one in another, or in none, has lost it.
//!
//! A handler may also return and leave a statement at work that it has given up itself. Of that it is known by its text
//! that it is not ours, and it is ended in the same way. Each session that is given up is ended if it is at work then: the
//! server does not look at its connection meanwhile, and it would keep its locks.

use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use super::driver::{Connection, Error, Parameter, Pool, Session};
use super::waiting::Backend;
use super::{error, statements};
use crate::barrier::{self, Behind, LOOK_PAUSE, LOOKS_WITHIN, Seen};

/// Pause before a statement is ended, and between two attempts: a session without one has answered by then.
const PAUSE: Duration = Duration::from_millis(100);

/// Looks that find the session outside of its transaction before that is believed: one that ends has none for a
/// moment, too.
const LOOKS: u32 = 2;

/// Attempts to end a session, while the database gives none to do it in.
const ATTEMPTS_MAX: usize = 10;

/// Before each of them.
const ATTEMPT_PAUSE: Duration = Duration::from_secs(1);

/// Finds the session, and none with its `pid` that has begun later.
macro_rules! of_backend {
    () => {
        "FROM pg_stat_activity WHERE pid = split_part($1, ' ', 1)::integer
            AND backend_start <= to_timestamp(split_part($1, ' ', 2)::bigint / 1000000.0) + interval '1 millisecond'
            AND split_part($1, ' ', 3)::bigint = (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint"
    };
}

/// Ends the session's statement, and tells whether it was in another transaction than this.
const END_STATEMENT: &str = concat!(
    "SELECT $2 <> '' AND backend_xid IS DISTINCT FROM nullif($2, '')::xid8::xid, pg_cancel_backend(pid) ",
    of_backend!()
);

/// Tells of a session at work whether its statement is not ours, which has a word in it that nobody else knows, and is in
/// another transaction than this; and ends that. The server keeps the first 1,024 bytes of a statement, and 100 at least.
const END_GIVEN_UP: &str = concat!(
    "SELECT is_theirs, is_theirs AND $2 <> '' AND xid IS DISTINCT FROM nullif($2, '')::xid8::xid,
         CASE WHEN is_theirs THEN pg_cancel_backend(pid) ELSE false END
     FROM (SELECT pid, backend_xid AS xid, position($3 in query) = 0 AS is_theirs ",
    of_backend!(),
    " AND state = 'active') AS session"
);

/// Ends the session if it is at a statement that has begun so many milliseconds ago at least, and tells whether it was. Behind a
/// pooler another client may have it: its statement is younger.
const END_SESSION: &str = concat!(
    "SELECT coalesce(CASE WHEN state = 'active' AND query_start < clock_timestamp() - $2::bigint * interval '1 millisecond'
         THEN pg_terminate_backend(pid) END, false) ",
    of_backend!()
);

/// Ends a session that is given up, unless it is [left](Self::leave) before.
#[derive(Debug)]
pub(super) struct Guard<O: Pool> {
    pool: O,
    /// The session's, once statements of a handler may be at work in it.
    backend: Option<Backend>,
}

impl<O: Pool> Guard<O> {
    pub(super) fn new(pool: &O) -> Self {
        Self { pool: pool.clone(), backend: None }
    }

    pub(super) fn of(&mut self, backend: &Backend) {
        self.backend.get_or_insert_with(|| backend.clone());
    }

    /// The session has ended its work.
    pub(super) fn leave(&mut self) {
        self.backend = None;
    }
}

impl<O: Pool> Drop for Guard<O> {
    fn drop(&mut self) {
        let (Some(backend), Ok(runtime)) = (self.backend.take(), Handle::try_current()) else {
            return;
        };
        runtime.spawn(end_session(self.pool.clone(), backend, Instant::now()));
    }
}

/// Runs a statement of ours behind a handler, with the savepoint's name in it. An empty `xid` is not compared.
pub(super) async fn behind<O: Pool, T>(
    pool: &O,
    of: Option<(&Backend, &str)>,
    savepoint: &str,
    statement: impl Future<Output = T>,
) -> Behind<T> {
    barrier::behind(statement, |tell| {
        let (backend, xid) = of?;
        let of = [backend.read(), xid, savepoint].map(str::to_owned);
        Some(end_given_up(pool.clone(), of, tell))
    })
    .await
}

async fn end_given_up(
    pool: impl Pool,
    [backend, xid, savepoint]: [String; 3],
    tell: watch::Sender<Seen>,
) -> Seen {
    let mut elsewhere = 0;
    loop {
        let parameters = || [&backend, &xid, &savepoint].map(|text| Parameter::Text(text.as_str()));
        let found = as_login::<(bool, bool, bool), 3>(&pool, END_GIVEN_UP, parameters).await;
        let pause = match found {
            // It is ours, and takes long.
            Ok(Some((false, ..))) => return *tell.borrow(),
            Ok(Some((true, is_elsewhere, _))) => {
                elsewhere = if is_elsewhere { elsewhere + 1 } else { 0 };
                tell.send_replace(match elsewhere {
                    LOOKS.. => Seen::Elsewhere,
                    _ => Seen::GivenUp,
                });
                PAUSE
            }
            // Ours is on its way, or its answer is.
            Ok(None) => LOOK_PAUSE,
            Err(error) => {
                tracing::debug!(%error, "failed to look what a session is at behind a handler");
                LOOK_PAUSE
            }
        };
        tokio::select! {
            () = tell.closed() => return *tell.borrow(),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Tells whether the transaction is lost, by this statement, which goes back to a savepoint in it. `None` tells that the
/// server has not answered in time. An empty `xid` is not compared. The session is to be given up.
pub(super) async fn is_lost<O: Pool>(
    session: &mut O::Session,
    undo: &str,
    (backend, xid): (&Backend, &str),
    pool: &O,
) -> Option<bool> {
    let (tell, elsewhere) = oneshot::channel();
    tokio::spawn(end_statement(pool.clone(), backend.clone(), xid.to_owned(), tell));
    tokio::select! {
        biased;
        is_lost = look(session.connection(), undo) => Some(is_lost),
        Ok(()) = elsewhere => Some(true),
        () = tokio::time::sleep(LOOKS_WITHIN) => None,
    }
}

async fn look(connection: &mut impl Connection, undo: &str) -> bool {
    match undone(connection, undo).await {
        Ok(()) => false,
        Err(error) => error::is_gone(&error),
    }
}

/// Goes back to a savepoint. The first answers may be errors of statements before, whose futures the handler has dropped.
pub(super) async fn undone(connection: &mut impl Connection, undo: &str) -> Result<(), Error> {
    const ATTEMPTS_MAX: usize = 10;
    let mut attempt = 1;
    loop {
        match connection.run(undo).await {
            Err(error) if attempt < ATTEMPTS_MAX && error::says_nothing_of_it(&error) => {
                attempt += 1;
            }
            done => return done,
        }
    }
}

/// Ends the session's statements until nobody waits for that any more, or it is elsewhere.
async fn end_statement(
    pool: impl Pool,
    backend: Backend,
    xid: String,
    mut tell: oneshot::Sender<()>,
) {
    let mut seen = 0;
    loop {
        tokio::select! {
            () = tell.closed() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
        let parameters = || [Parameter::Text(backend.read()), Parameter::Text(&xid)];
        match as_login::<(bool, bool), 2>(&pool, END_STATEMENT, parameters).await {
            Ok(Some((true, _))) => seen += 1,
            Ok(_) => seen = 0,
            Err(error) => {
                let pid = backend.pid();
                tracing::debug!(pid, %error, "failed to end the statement of a handler that was ended");
            }
        }
        if seen == LOOKS {
            let _ = tell.send(());
            return;
        }
    }
}

/// Ends a session that was given up then: the server does not look at its connection while a statement is at work, and
/// that keeps the locks.
async fn end_session(pool: impl Pool, backend: Backend, since: Instant) {
    let (pid, mut looks) = (backend.pid(), 0);
    for _ in 0..ATTEMPTS_MAX {
        // One that ends with its connection is not ended.
        tokio::time::sleep(ATTEMPT_PAUSE).await;
        let parameters = || {
            // A statement that was on its way has begun a moment later: the second look counts what the first one has
            // not seen yet.
            let began = since.elapsed().saturating_sub(ATTEMPT_PAUSE * 9 / 10 * (looks + 1));
            let ms = i64::try_from(began.as_millis()).unwrap_or(i64::MAX);
            [Parameter::Text(backend.read()), Parameter::Int(Some(ms))]
        };
        let ended = as_login::<(bool,), 2>(&pool, END_SESSION, parameters);
        let Ok(ended) = tokio::time::timeout(LOOKS_WITHIN, ended).await else { continue };
        match ended {
            Ok(None) => return,
            // It ends once it sees that its connection has; what it has not read by now it may begin yet.
            Ok(Some((false,))) if looks + 1 == LOOKS => return,
            Ok(Some((false,))) => looks += 1,
            Ok(Some((true,))) => {
                tracing::warn!(
                    pid,
                    "ended a session of the database that was given up while a statement of it was at work"
                );
                return;
            }
            Err(error) => {
                tracing::debug!(pid, %error, "failed to end a session that was given up");
            }
        }
    }
    tracing::warn!(
        pid,
        "failed to end a session of the database that was given up: it may be at a statement, and hold its locks"
    );
}

/// Asks as the login: the role that the participant works as need not be allowed to end what its login has begun.
async fn as_login<'a, T: super::driver::FromRow, const N: usize>(
    pool: &impl Pool,
    statement: &str,
    parameters: impl FnOnce() -> [Parameter<'a>; N],
) -> Result<Option<T>, Error> {
    let mut session = pool.acquire().await?;
    let connection = session.connection();
    let mut done = connection.run("SET ROLE NONE").await.map(|()| None);
    if done.is_ok() {
        done = statements::optional(connection, statement, &parameters()).await;
    }
    statements::given_back(session, done)
}
