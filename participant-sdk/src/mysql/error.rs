//! Errors of MariaDB and MySQL as faults.

use sqlx::mysql::MySqlDatabaseError;

use crate::refusal::Refusal;
use crate::resource::Fault;

/// `ER_DUP_ENTRY`: there is such a row.
pub(super) const DUPLICATE: u16 = 1062;

/// `ER_NO_SUCH_TABLE`.
pub(super) const NO_SUCH_TABLE: u16 = 1146;

/// `ER_LOCK_WAIT_TIMEOUT`.
pub(super) const LOCK_WAIT_TIMEOUT: u16 = 1205;

/// `ER_XAER_NOTA`: no such XA transaction, or one that another session holds.
pub(super) const UNKNOWN: u16 = 1397;

/// `ER_XAER_RMFAIL`: not inside an XA transaction, or not in its state.
const NOT_INSIDE_XA: u16 = 1399;

/// `ER_XAER_DUPID`.
pub(super) const ALREADY_STARTED: u16 = 1440;

/// The server has rolled an XA transaction back: `ER_XA_RBROLLBACK`, `ER_XA_RBTIMEOUT`,
/// `ER_XA_RBDEADLOCK`.
pub(super) const ROLLED_BACK: [u16; 3] = [1402, 1613, 1614];

/// `ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION`.
const READ_ONLY: u16 = 1792;

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

/// Classes of errors that speak of the work, by SQLSTATE: cardinality, values, broken constraints, a
/// view's check, and what a trigger or a procedure signals. They would be raised again.
const OF_THE_WORK: [&str; 5] = ["21", "22", "23", "44", "45"];

/// The same where the server has no class of its own for them.
const OF_THE_WORK_TOO: [u16; 5] = [
    1054, // ER_BAD_FIELD_ERROR
    1146, // ER_NO_SUCH_TABLE
    1364, // ER_NO_DEFAULT_FOR_FIELD
    1366, // ER_TRUNCATED_WRONG_VALUE_FOR_FIELD
    3819, // ER_CHECK_CONSTRAINT_VIOLATED
];

/// Returns the vote no for an error of a handler, or for what caused it, in which the server speaks of the
/// work.
pub(super) fn of_the_work_among(error: &(dyn std::error::Error + 'static)) -> Option<Refusal> {
    let answer = answer_among(error)?;
    // After a deadlock, too: then the savepoint is gone, and there is no vote.
    if answer.number() == NOT_INSIDE_XA {
        let message = format!("{} ({NOT_INSIDE_XA})", answer.message());
        return Some(Refusal::new("CANNOT_BE_PREPARED", message));
    }
    let class = answer.code().and_then(|state| state.get(..2)).unwrap_or_default();
    if !OF_THE_WORK.contains(&class) && !OF_THE_WORK_TOO.contains(&answer.number()) {
        return None;
    }
    let reason = if class == "23" { "CONSTRAINT_VIOLATED" } else { "DATABASE_REFUSED" };
    Some(Refusal::new(reason, format!("{} ({})", answer.message(), answer.number())))
}

/// A handler that is declared read-only and wrote would do it again.
pub(super) fn wrote(error: &(dyn std::error::Error + 'static)) -> Option<Refusal> {
    let answer = answer_among(error)?;
    (answer.number() == READ_ONLY).then(|| {
        let message = format!("the action is declared read-only: {}", answer.message());
        Refusal::new("READ_ONLY_VIOLATED", message)
    })
}

/// Tells whether an error, or what caused it, is a wait for a lock that has ended without it, or a
/// preference that was given to others.
pub(super) fn is_locked_out(error: &(dyn std::error::Error + 'static)) -> bool {
    answer_among(error).is_some_and(|answer| BUSY.contains(&answer.number()))
}

/// Finds the server's answer among an error and its causes.
fn answer_among<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a MySqlDatabaseError> {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.find_map(|cause| match cause.downcast_ref::<sqlx::Error>() {
        Some(error) => answer(error),
        None => cause.downcast_ref::<MySqlDatabaseError>(),
    })
}
