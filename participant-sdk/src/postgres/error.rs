//! Errors of PostgreSQL as faults.

mod work;

use super::driver::{Connection, Error, ServerError};
use crate::barrier;
use crate::handler::Isolation;
use crate::refusal::Refusal;
use crate::resource::Fault;

/// `lock_not_available`.
pub(super) const LOCK_TIMEOUT: &str = "55P03";
/// `serialization_failure` and `deadlock_detected`: others were given preference.
const OVERTAKEN: [&str; 2] = ["40001", "40P01"];
/// `in_failed_sql_transaction`.
const IN_FAILED_BLOCK: &str = "25P02";
/// `no_active_sql_transaction`.
const NO_BLOCK: &str = "25P01";
/// `invalid_savepoint_specification`: no such savepoint.
const NO_SAVEPOINT: &str = "3B001";
/// `invalid_sql_statement_name`: no such prepared statement.
pub(super) const NO_SUCH_STATEMENT: &str = "26000";
/// `duplicate_prepared_statement`: a handler has prepared one in SQL before, and left it.
const DUPLICATE_STATEMENT: &str = "42P05";
/// `invalid_parameter_value`: of a role, that there is none.
const NO_SUCH_VALUE: &str = "22023";
/// `read_only_sql_transaction`.
const READ_ONLY: &str = "25006";
/// `duplicate_object`: a prepared transaction of this name.
pub(super) const DUPLICATE_OBJECT: &str = "42710";
/// `insufficient_privilege`.
pub(super) const NOT_PERMITTED: &str = "42501";
/// `undefined_object`: no such prepared transaction.
pub(super) const UNDEFINED_OBJECT: &str = "42704";
/// `object_not_in_prerequisite_state`: prepared transactions are disabled, or this one is busy.
pub(super) const NOT_IN_STATE: &str = "55000";
/// `out_of_memory`: as many prepared transactions as the server allows.
pub(super) const OUT_OF_MEMORY: &str = "53200";
/// `feature_not_supported`: the transaction did something that cannot be prepared.
pub(super) const NOT_SUPPORTED: &str = "0A000";

/// An error as a fault. Only an answer to this very statement, with severity ERROR, is definite: it
/// had no effect. Anything else makes it indeterminate.
pub(super) fn fault(doing: &'static str) -> impl Fn(Error) -> Fault {
    move |error| match definite(&error) {
        Some(answer) => {
            Fault::Definite { doing, code: answer.code.clone(), text: answer.to_string() }
        }
        None => Fault::Indeterminate { doing, text: error.to_string() },
    }
}

fn definite(error: &Error) -> Option<&ServerError> {
    error.answer().filter(|answer| !answer.is_fatal)
}

/// The code of an error that the server answered with.
pub(super) fn code(error: &Error) -> Option<&str> {
    definite(error).map(|answer| answer.code.as_str())
}

/// Tells whether a connection was refused because of the role that it was to work as.
pub(super) fn is_no_such_role(error: &Error) -> bool {
    // At the connection's start it is of severity FATAL.
    let code = error.answer().map(|answer| answer.code.as_str());
    matches!(code, Some(NOT_PERMITTED | NO_SUCH_VALUE))
}

/// The error of a login that cannot work as this role.
pub(super) fn may_not_work_as(role: &str, login: &str, error: &Error) -> Error {
    Error::unfit(format!(
        "the login {login} cannot work as the role {role} ({error}): the role must exist, and GRANT {role} TO \
         {login}"
    ))
}

/// Tells whether another transaction was in the way: to be run again.
pub(super) fn is_busy(error: &Error) -> bool {
    code(error).is_some_and(is_overtaken)
}

fn is_overtaken(code: &str) -> bool {
    code == LOCK_TIMEOUT || OVERTAKEN.contains(&code)
}

/// Returns the vote no for an error that [speaks of the work](work::is_spoken_of).
pub(super) fn of_the_work(error: &Error, isolation: Isolation) -> Option<Refusal> {
    refusal(definite(error)?, isolation)
}

/// The same for an error of a handler, or for what caused it.
pub(super) fn of_the_work_among<C: Connection>(
    error: &(dyn std::error::Error + 'static),
    isolation: Isolation,
) -> Option<Refusal> {
    refusal(&answer_among::<C>(error)?, isolation)
}

fn refusal(answer: &ServerError, isolation: Isolation) -> Option<Refusal> {
    if !work::is_spoken_of(&answer.code, isolation) {
        return None;
    }
    let is_constraint = answer.code.starts_with("23");
    let reason = if is_constraint { "CONSTRAINT_VIOLATED" } else { "DATABASE_REFUSED" };
    let detail = answer.detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
    let text = format!("{}{detail} ({})", answer.message, answer.code);
    Some(Refusal::new(reason, text))
}

/// Tells whether the savepoint, and with it the transaction, is not there any more.
pub(super) fn is_gone(error: &Error) -> bool {
    matches!(code(error), Some(NO_BLOCK | NO_SAVEPOINT))
}

/// Tells whether an answer to a savepoint's statement says nothing of the savepoint: it is the error of a statement
/// before, which was dropped, or this one was ended.
pub(super) fn says_nothing_of_it(error: &Error) -> bool {
    code(error).is_some() && !is_gone(error)
}

/// Turns the failure to end the handler's savepoint into the handler's fault.
pub(super) fn not_released(error: Error) -> Fault {
    match code(&error) {
        Some(IN_FAILED_BLOCK) => {
            Fault::Wrong("it went on after an error of the database, which has undone its work")
        }
        Some(NO_BLOCK | NO_SAVEPOINT) => barrier::lost(),
        _ => fault("end the savepoint that the handler was given")(error),
    }
}

/// Tells whether an error, or what caused it, is a wait for a lock that has ended without it, or a
/// preference that was given to others.
pub(super) fn is_locked_out<C: Connection>(error: &(dyn std::error::Error + 'static)) -> bool {
    answer_among::<C>(error).is_some_and(|answer| is_overtaken(&answer.code))
}

/// Tells whether the server's function of this name raised the error. Its messages are translated.
pub(super) fn raised_by(error: &Error, routine: &str) -> bool {
    definite(error).and_then(|answer| answer.routine.as_deref()) == Some(routine)
}

/// A handler that is declared read-only and wrote would do it again.
pub(super) fn wrote<C: Connection>(error: &(dyn std::error::Error + 'static)) -> Option<Refusal> {
    let answer = answer_among::<C>(error)?;
    (answer.code == READ_ONLY).then(|| {
        let message = format!("the action is declared read-only: {}", answer.message);
        Refusal::new("READ_ONLY_VIOLATED", message)
    })
}

/// Tells whether an error, or what caused it, would come again in this session, and in no new one: a statement that
/// is prepared there does not fit its table any more, or is there or gone against expectation, or the server has
/// found an error of its own.
pub(super) fn spoils<C: Connection>(error: &(dyn std::error::Error + 'static)) -> bool {
    let Some(answer) = answer_among::<C>(error) else { return false };
    let of_statements = [NOT_SUPPORTED, NO_SUCH_STATEMENT, DUPLICATE_STATEMENT];
    of_statements.contains(&answer.code.as_str()) || answer.code.starts_with("XX")
}

/// Finds the server's answer among an error and its causes.
fn answer_among<C: Connection>(error: &(dyn std::error::Error + 'static)) -> Option<ServerError> {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.find_map(C::server_error).filter(|answer| !answer.is_fatal)
}
