//! Sessions whose handler was ended while a statement of it may be at work.
//!
//! The server takes the question whether the transaction is still there only behind that statement, and does not look at
//! its connection meanwhile. `max_execution_time` of MySQL bounds only what reads. So the statement is ended from another
//! session, and so is a session that is given up: it would keep the locks for as long as its statement takes.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, MySqlConnection, MySqlPool, Row as _};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use super::error;
use crate::barrier::{self, Behind, LOOK_PAUSE, LOOKS_WITHIN, Seen};
use crate::resource::Local;

/// Pause before a statement is ended, and between two attempts: a session without one has answered by then.
const PAUSE: Duration = Duration::from_millis(100);

/// Attempts to end a session, while the database gives none to do it in.
const ATTEMPTS_MAX: usize = 10;

/// Between two of them.
const ATTEMPT_PAUSE: Duration = Duration::from_secs(1);

/// Looks that find the session without a statement before that is believed.
const LOOKS: u32 = 2;

/// `ER_NO_SUCH_THREAD`.
const GONE: u16 = 1094;

/// Ends a session that is given up, unless it is [left](Self::leave) before.
#[derive(Debug)]
pub(super) struct Guard {
    pool: MySqlPool,
    /// The session's number, once it is known, and the time since which it has it at least.
    session: Option<(u64, Instant)>,
}

impl Guard {
    pub(super) fn new(pool: &MySqlPool) -> Self {
        Self { pool: pool.clone(), session: None }
    }

    pub(super) fn of(&mut self, number: u64) {
        self.session.get_or_insert((number, Instant::now()));
    }

    /// The session has ended its work.
    pub(super) fn leave(&mut self) {
        self.session = None;
    }

    /// Runs statements of ours behind a handler, whose text is this. What else the session is at is ended.
    pub(super) async fn behind<T>(
        &self,
        ours: &str,
        statements: impl Future<Output = T>,
    ) -> Behind<T> {
        barrier::behind(statements, |tell| {
            let (number, _) = self.session?;
            Some(end_given_up(self.pool.clone(), number, ours.to_owned(), tell))
        })
        .await
    }

    /// Ends statements of the session for as long as somebody waits behind them.
    pub(super) fn ends_statements(&self) -> Waits {
        let (wait, over) = oneshot::channel();
        if let Some((number, _)) = self.session {
            tokio::spawn(end_statements(self.pool.clone(), number, over));
        }
        Waits { _wait: wait }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let (Some((number, since)), Ok(runtime)) = (self.session.take(), Handle::try_current())
        else {
            return;
        };
        runtime.spawn(end_session(self.pool.clone(), number, since));
    }
}

/// Somebody waits behind the session's statements.
#[derive(Debug)]
pub(super) struct Waits {
    _wait: oneshot::Sender<()>,
}

async fn end_given_up(
    pool: MySqlPool,
    number: u64,
    ours: String,
    tell: watch::Sender<Seen>,
) -> Seen {
    loop {
        let pause = match try_to_end_given_up(&pool, number, &ours).await {
            // It is ours, and takes long.
            Ok(Some(false)) => return *tell.borrow(),
            Ok(Some(true)) => {
                tell.send_replace(Seen::GivenUp);
                PAUSE
            }
            // Ours is on its way, or its answer is.
            Ok(None) => LOOK_PAUSE,
            Err(error) => {
                tracing::debug!(number, %error, "failed to look what a session is at behind a handler");
                LOOK_PAUSE
            }
        };
        tokio::select! {
            () = tell.closed() => return *tell.borrow(),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Tells of a session at work whether its statement is none of these, and ends that. The server shows the first 100 bytes
/// of the one that it is at.
async fn try_to_end_given_up(
    pool: &MySqlPool,
    number: u64,
    ours: &str,
) -> sqlx::Result<Option<bool>> {
    let mut session = pool.acquire().await?;
    for row in sqlx::raw_sql("SHOW PROCESSLIST").fetch_all(&mut *session).await? {
        let statement = row.try_get_unchecked::<Option<String>, _>(7)?;
        let Some(statement) = statement else { continue };
        if row.try_get_unchecked::<u64, _>(0)? != number {
            continue;
        }
        let is_theirs = !ours.contains(statement.trim());
        if is_theirs {
            let kill = AssertSqlSafe(format!("KILL QUERY {number}"));
            sqlx::raw_sql(kill).execute(&mut *session).await?;
        }
        return Ok(Some(is_theirs));
    }
    Ok(None)
}

async fn end_statements(pool: MySqlPool, number: u64, mut over: oneshot::Receiver<()>) {
    loop {
        if tokio::time::timeout(PAUSE, &mut over).await.is_ok() {
            return;
        }
        let kill = AssertSqlSafe(format!("KILL QUERY {number}"));
        if let Err(error) = sqlx::raw_sql(kill).execute(&pool).await {
            tracing::debug!(number, %error, "failed to end the statement of a handler that was ended");
        }
    }
}

/// Ends the session if a statement of it is at work. The others end by themselves, with their connection: two looks that
/// find nothing at work are enough, because a statement that has just come may not have begun.
async fn end_session(pool: MySqlPool, number: u64, since: Instant) {
    let mut looks = 0;
    for attempt in 0..ATTEMPTS_MAX {
        if attempt > 0 {
            tokio::time::sleep(ATTEMPT_PAUSE).await;
        }
        let ended = try_to_end(&pool, number, since);
        let Ok(ended) = tokio::time::timeout(LOOKS_WITHIN, ended).await else { continue };
        match ended {
            Ok(false) if looks + 1 == LOOKS => return,
            Ok(false) => looks += 1,
            Ok(true) => {
                tracing::warn!(
                    number,
                    "ended a session of the database that was given up while a statement of it was at work"
                );
                return;
            }
            Err(error) if error::number(&error) == Some(GONE) => return,
            Err(error) => {
                tracing::debug!(number, %error, "failed to end a session that was given up");
            }
        }
    }
    tracing::warn!(
        number,
        "failed to end a session of the database that was given up: it may be at a statement, and hold its locks"
    );
}

async fn try_to_end(pool: &MySqlPool, number: u64, since: Instant) -> sqlx::Result<bool> {
    // Whoever gives it up closes the connection.
    let mut session = Local::acquire(pool).await?;
    let ended = end_in(&mut session, number, since).await;
    match &ended {
        Err(error) if error::number(error).is_none() => {}
        _ => session.release(),
    }
    ended
}

async fn end_in(session: &mut MySqlConnection, number: u64, since: Instant) -> sqlx::Result<bool> {
    // A server that has been started since may have given the number to another session.
    let uptime = sqlx::raw_sql("SHOW GLOBAL STATUS LIKE 'Uptime'").fetch_one(&mut *session).await?;
    let uptime: String = uptime.try_get_unchecked(1)?;
    if uptime.parse().is_ok_and(|secs| since.elapsed() > Duration::from_secs(secs) + ATTEMPT_PAUSE)
    {
        return Ok(false);
    }
    let sessions = sqlx::raw_sql("SHOW PROCESSLIST").fetch_all(&mut *session).await?;
    for row in sessions {
        let (id, command) =
            (row.try_get_unchecked::<u64, _>(0)?, row.try_get_unchecked::<String, _>(4)?);
        if id == number && command != "Sleep" {
            let kill = AssertSqlSafe(format!("KILL {number}"));
            return sqlx::raw_sql(kill).execute(&mut *session).await.map(|_| true);
        }
    }
    Ok(false)
}
