//! Errors of MariaDB and MySQL as faults.

use sqlx::mysql::MySqlDatabaseError;

use crate::resource::Fault;

/// `ER_DUP_ENTRY`: there is such a row.
pub(super) const DUPLICATE: u16 = 1062;

/// `ER_NO_SUCH_TABLE`.
pub(super) const NO_SUCH_TABLE: u16 = 1146;

/// Somebody else holds a lock, or was given preference. The transaction is rolled back, by the
/// server or by us, and asked for again.
const BUSY: [u16; 5] = [
    // ER_CHECKREAD: a row has changed since the snapshot of REPEATABLE READ was taken.
    1020, // ER_LOCK_WAIT_TIMEOUT: the statement is rolled back, the transaction if so configured.
    1205, // ER_LOCK_DEADLOCK: the whole transaction is rolled back.
    1213, // ER_LOCK_ABORTED.
    1689, // ER_LOCK_NOWAIT.
    3572,
];

/// The server ends, or ends the connection. What it was doing may have taken effect.
const ENDING: [u16; 8] = [
    1053, // ER_SERVER_SHUTDOWN
    1077, // ER_NORMAL_SHUTDOWN
    1079, // ER_SHUTDOWN_COMPLETE
    1152, // ER_ABORTING_CONNECTION
    1184, // ER_NEW_ABORTING_CONNECTION
    1927, // ER_CONNECTION_KILLED
    3169, // ER_SESSION_WAS_KILLED
    4031, // ER_CLIENT_INTERACTION_TIMEOUT
];

/// An error as a fault. Only an answer to this very statement is definite: it had no effect. Anything
/// else makes it indeterminate.
pub(super) fn fault(doing: &'static str) -> impl Fn(sqlx::Error) -> Fault {
    move |error| match answer(&error) {
        Some(answer) if BUSY.contains(&answer.number()) => Fault::Busy,
        Some(answer) if !ENDING.contains(&answer.number()) => Fault::Definite {
            doing,
            code: answer.number().to_string(),
            text: format!("{} ({})", answer.message(), answer.number()),
        },
        _ => Fault::Indeterminate { doing, text: error.to_string() },
    }
}

/// The number of an error that the server answered with.
pub(super) fn number(error: &sqlx::Error) -> Option<u16> {
    answer(error).map(MySqlDatabaseError::number)
}

fn answer(error: &sqlx::Error) -> Option<&MySqlDatabaseError> {
    error.as_database_error()?.try_downcast_ref()
}
