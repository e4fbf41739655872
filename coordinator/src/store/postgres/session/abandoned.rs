//! Processes of the server whose sessions were given up.
//!
//! One that waits for a standby, or for a lock, does not look at its connection, and stays for as long as it waits: with a
//! synchronous standby that is gone, for ever. So whoever opens the next session ends those that are still there. What they
//! have committed counts no more than before: it is where the standbys have it, or it is not proven.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgConnection;

use super::super::no_answer;

/// Processes that are remembered: more than there are sessions. One that is not ended by then ends by itself.
const MOST: usize = 64;

/// Longest wait for the answer of a session that was just opened.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The session's own process, with the time of its start: its number may be another one's later.
const OWN: &str =
    "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()";

/// Ends those that still do what they were given up for. A pooler may have given a session that was closed in good order to
/// somebody else.
const END: &str = "
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
JOIN UNNEST($1::int4[], $2::text[]) AS given_up (pid, started) USING (pid)
WHERE backend_start::text = started AND pid <> pg_backend_pid() AND state = 'active'
    AND (wait_event = 'SyncRep' OR query_start < clock_timestamp() - interval '1 second')";

/// Name of a process: its number, and the time of its start.
type Name = (i32, String);

/// The processes. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Abandoned(Arc<Mutex<VecDeque<Name>>>);

/// Process of a session. Where that was closed in good order it has ended by the time that somebody looks for it.
#[derive(Debug)]
pub(super) struct Backend {
    name: Option<Name>,
    of: Abandoned,
}

impl Drop for Backend {
    fn drop(&mut self) {
        let Some(name) = self.name.take() else { return };
        let mut names = self.of.names();
        names.push_back(name);
        if names.len() > MOST {
            names.pop_front();
        }
    }
}

impl Abandoned {
    /// Finds the process of a connection.
    pub(super) async fn backend(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Backend, sqlx::Error> {
        let name = match sqlx::query_as(OWN).fetch_optional(connection).await {
            Ok(name) => name,
            // Some that speak the protocol have none of this kind.
            Err(sqlx::Error::Database(_)) => None,
            Err(error) => return Err(error),
        };
        Ok(Backend { name, of: self.clone() })
    }

    /// Ends those that are still there. A refusal is not repeated: they are of another role then.
    pub(super) async fn end(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let names = std::mem::take(&mut *self.names());
        if names.is_empty() {
            return Ok(());
        }
        let (pids, started): (Vec<i32>, Vec<String>) = names.iter().cloned().unzip();
        let ending = sqlx::query_scalar(END).bind(pids).bind(started).fetch_one(connection);
        let ended = tokio::time::timeout(ANSWER_TIMEOUT, ending).await;
        match ended.unwrap_or_else(|_| Err(no_answer())) {
            Ok(0) => Ok(()),
            Ok(ended) => {
                let ended: i64 = ended;
                tracing::info!(
                    ended,
                    "sessions that were given up were still at work at the server, and were ended"
                );
                Ok(())
            }
            Err(sqlx::Error::Database(error)) => {
                tracing::debug!(
                    error = error.message(),
                    "sessions that were given up are left to the server"
                );
                Ok(())
            }
            Err(error) => {
                // The next session asks for them.
                self.names().extend(names);
                Err(error)
            }
        }
    }

    fn names(&self) -> MutexGuard<'_, VecDeque<Name>> {
        // Nothing in here panics half way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
