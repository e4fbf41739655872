//! Errors of MariaDB and MySQL as faults.

use sqlx::mysql::MySqlDatabaseError;

use crate::causes;
use crate::handler::Isolation;
use crate::refusal::Refusal;
use crate::resource::Fault;
use crate::schema::Error;

/// `ER_DUP_ENTRY`: there is such a row.
pub(super) const DUPLICATE: u16 = 1062;

/// `ER_NO_SUCH_TABLE`.
pub(super) const NO_SUCH_TABLE: u16 = 1146;

/// `ER_LOCK_WAIT_TIMEOUT`.
pub(super) const LOCK_WAIT_TIMEOUT: u16 = 1205;

/// `ER_SP_DOES_NOT_EXIST`, also of a savepoint.
const NO_SAVEPOINT: u16 = 1305;

/// `ER_XAER_NOTA`: no such XA transaction, or one that another session holds.
pub(super) const UNKNOWN: u16 = 1397;

/// `ER_XAER_RMFAIL`: not inside an XA transaction, or not in its state.
const NOT_INSIDE_XA: u16 = 1399;

/// MySQL's `ER_XA_TEMP_TABLE`: temporary tables are not for XA transactions that are detached. On MariaDB it says something
/// else, in another class.
const TEMPORARY_IN_XA: (u16, &str) = (4091, "HY000");

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

/// Errors of accounts that may not do what is asked: `ER_DBACCESS_DENIED_ERROR`, `ER_TABLEACCESS_DENIED_ERROR`,
/// `ER_COLUMNACCESS_DENIED_ERROR`, `ER_SPECIFIC_ACCESS_DENIED_ERROR`.
const DENIED: [u16; 4] = [1044, 1142, 1143, 1227];

/// Tells whether the account may not upgrade the table.
pub(super) fn is_not_permitted(error: &Error) -> bool {
    let Error::Migrate(error) = error else { return false };
    let mut causes = std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source());
    let number = causes.find_map(|cause| cause.downcast_ref().and_then(number));
    number.is_some_and(|number| DENIED.contains(&number))
}

/// Tells whether the answer to a savepoint's statement says that its transaction is not what it was. Other errors, such
/// as one of a statement that was ended, or of a right that was taken away, tell nothing of that.
pub(super) fn is_gone(number: u16) -> bool {
    number == NO_SAVEPOINT || number == NOT_INSIDE_XA || ROLLED_BACK.contains(&number)
}

/// The same of a fault.
pub(super) fn says_gone(fault: &Fault) -> bool {
    matches!(fault, Fault::Definite { code, .. } if code.parse().is_ok_and(is_gone))
}

/// Tells whether an answer to a savepoint's statement says nothing of the savepoint: it is the error of a statement
/// before, which was dropped, or this one was ended.
pub(super) fn says_nothing_of_it(fault: &Fault) -> bool {
    matches!(fault, Fault::Busy | Fault::Definite { .. }) && !says_gone(fault)
}

/// The number of an error that the server answered with.
pub(super) fn number(error: &sqlx::Error) -> Option<u16> {
    answer(error).map(MySqlDatabaseError::number)
}

fn answer(error: &sqlx::Error) -> Option<&MySqlDatabaseError> {
    error.as_database_error()?.try_downcast_ref()
}

/// Classes of which every error speaks of the work, by SQLSTATE: no branch of a CASE, values, a view's check, and what
/// a trigger or a procedure signals. Such an error would be raised again, and is a vote no. All others are no vote: an
/// unknown column (1054), an unknown table (1146) or a missing default (1364) may be a schema that is being
/// changed while a new version is rolled out, and what a role may not do is a matter of the set-up.
const CLASSES: [&str; 4] = ["20", "22", "44", "45"];

/// Classes that the servers use. Those beyond are of triggers and procedures, which signal them of the work, with a
/// number of their own.
const OF_THE_SERVERS: [&str; 50] = [
    "00", "01", "02", "07", "08", "09", "0A", "0B", "0F", "0K", "0L", "0P", "0Z", "10", "20", "21",
    "22", "23", "24", "25", "26", "28", "2B", "2D", "2F", "30", "33", "34", "35", "37", "38", "39",
    "3B", "3C", "3D", "3F", "40", "42", "44", "45", "51", "57", "58", "70", "72", "HY", "IM", "S0",
    "S1", "XA",
];

/// Single errors that do, too. Their classes have others, such as 1052, an ambiguous column.
const NUMBERS: [u16; 16] = [
    1048, // ER_BAD_NULL_ERROR
    1172, // ER_TOO_MANY_ROWS: of SELECT … INTO in a procedure
    1216, // ER_NO_REFERENCED_ROW
    1217, // ER_ROW_IS_REFERENCED
    1242, // ER_SUBQUERY_NO_1_ROW
    1264, // ER_WARN_DATA_OUT_OF_RANGE
    1265, // WARN_DATA_TRUNCATED
    1329, // ER_SP_FETCH_NO_DATA
    1366, // ER_TRUNCATED_WRONG_VALUE_FOR_FIELD
    1369, // ER_VIEW_CHECK_FAILED
    1411, // ER_WRONG_VALUE_FOR_TYPE
    1451, // ER_ROW_IS_REFERENCED_2
    1452, // ER_NO_REFERENCED_ROW_2
    1644, // ER_SIGNAL_EXCEPTION
    3819, // ER_CHECK_CONSTRAINT_VIOLATED
    4025, // ER_CONSTRAINT_FAILED
];

/// Errors of rows that exclude each other. The row in the way may have been committed after the snapshot of
/// REPEATABLE READ was taken, so that the handler did not see it: that is a serialization failure.
const EXCLUSIVE: [u16; 7] = [
    1022, // ER_DUP_KEY
    DUPLICATE, 1169, // ER_DUP_UNIQUE
    1557, // ER_FOREIGN_DUPLICATE_KEY
    1586, // ER_DUP_ENTRY_WITH_KEY_NAME
    1761, // ER_FOREIGN_DUPLICATE_KEY_WITH_CHILD_INFO
    1762, // ER_FOREIGN_DUPLICATE_KEY_WITHOUT_CHILD_INFO
];

/// Errors of constraints, without class 23.
const CONSTRAINTS: [u16; 2] = [3819, 4025];

fn is_of_the_work(number: u16, class: &str, isolation: Isolation) -> bool {
    if EXCLUSIVE.contains(&number) {
        return isolation == Isolation::ReadCommitted;
    }
    let is_of_the_service = class.len() == 2 && !OF_THE_SERVERS.contains(&class);
    CLASSES.contains(&class) || NUMBERS.contains(&number) || is_of_the_service
}

/// Returns the vote no for an error of a handler, or for what caused it, in which the server speaks of the
/// work.
pub(super) fn of_the_work_among(
    error: &(dyn std::error::Error + 'static),
    isolation: Isolation,
) -> Option<Refusal> {
    let answer = answer_among(error)?;
    let is_temporary = (answer.number(), answer.code().unwrap_or_default()) == TEMPORARY_IN_XA;
    // After a deadlock, too: then the savepoint is gone, and there is no vote.
    if is_temporary || answer.number() == NOT_INSIDE_XA {
        let message = format!("{} ({})", answer.message(), answer.number());
        return Some(Refusal::new("CANNOT_BE_PREPARED", message));
    }
    let class = answer.code().and_then(|state| state.get(..2)).unwrap_or_default();
    if !is_of_the_work(answer.number(), class, isolation) {
        return None;
    }
    let is_constraint = class == "23" || CONSTRAINTS.contains(&answer.number());
    let reason = if is_constraint { "CONSTRAINT_VIOLATED" } else { "DATABASE_REFUSED" };
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
    causes.find_map(|cause| {
        let held = causes::answer(cause).and_then(|answer| answer.try_downcast_ref());
        held.or_else(|| cause.downcast_ref::<MySqlDatabaseError>())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_speaks_of_the_work_is_a_no() {
        use Isolation::{ReadCommitted, RepeatableRead};
        for (number, class) in [
            (1048, "23"),
            (1451, "23"),
            (1452, "23"),
            (4025, "23"),
            (3819, "HY"),
            (1644, "45"),
            (30001, "45"),
            (1644, "02"),
            (1264, "22"),
            (1365, "22"),
            (1406, "22"),
            (1366, "HY"),
            (1265, "01"),
            (1242, "21"),
            (1369, "HY"),
            (1690, "22"),
            (1172, "42"),
            (1329, "02"),
            (1339, "20"),
            (31_001, "U0"),
            (1644, "99"),
        ] {
            for isolation in [ReadCommitted, RepeatableRead] {
                assert!(is_of_the_work(number, class, isolation), "{number}");
            }
        }
        for number in EXCLUSIVE {
            assert!(is_of_the_work(number, "23", ReadCommitted), "{number}");
            assert!(!is_of_the_work(number, "23", RepeatableRead), "{number}");
        }
        for (number, class) in [
            (1044, "42"),
            (1045, "28"),
            (1052, "23"),
            (1054, "42"),
            (1064, "42"),
            (1114, "HY"),
            (1136, "21"),
            (1142, "42"),
            (1143, "42"),
            (1146, "42"),
            (1205, "HY"),
            (1213, "40"),
            (1227, "42"),
            (1290, "HY"),
            (1305, "42"),
            (1317, "70"),
            (1364, "HY"),
            (1370, "42"),
            (1836, "HY"),
            (1969, "70"),
            (3024, "HY"),
            (1927, "70"),
            (1399, "XA"),
            (9_999, ""),
        ] {
            assert!(!is_of_the_work(number, class, ReadCommitted), "{number}");
        }
    }
}
