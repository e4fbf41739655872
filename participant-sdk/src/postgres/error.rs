//! What an error of PostgreSQL means for what was asked.

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::refusal::Refusal;
use crate::resource::Fault;

/// `lock_not_available`.
pub(super) const LOCK_TIMEOUT: &str = "55P03";
/// `serialization_failure` and `deadlock_detected`: others were given preference.
const OVERTAKEN: [&str; 2] = ["40001", "40P01"];
/// `undefined_object`: no such prepared transaction.
pub(super) const UNDEFINED_OBJECT: &str = "42704";
/// `object_not_in_prerequisite_state`: prepared transactions are disabled, or this one is busy.
pub(super) const NOT_IN_STATE: &str = "55000";
/// `out_of_memory`: as many prepared transactions as the server allows.
pub(super) const OUT_OF_MEMORY: &str = "53200";
/// `feature_not_supported`: the transaction did something that cannot be prepared.
pub(super) const NOT_SUPPORTED: &str = "0A000";

/// An error as a fault. Only an answer to this very statement, with severity ERROR, is definite: it
/// had no effect. After anything else one cannot tell.
pub(super) fn fault(doing: &'static str) -> impl Fn(sqlx::Error) -> Fault {
    move |error| match definite(&error) {
        Some(answer) => Fault::Definite {
            doing,
            code: answer.code().to_owned(),
            text: format!("{} ({})", answer.message(), answer.code()),
        },
        None => Fault::Unknown { doing, text: error.to_string() },
    }
}

fn definite(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    let answer = error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?;
    matches!(answer.severity(), PgSeverity::Error).then_some(answer)
}

/// The code of an error that the server answered with.
pub(super) fn code(error: &sqlx::Error) -> Option<&str> {
    definite(error).map(PgDatabaseError::code)
}

/// Whether another transaction was in the way: to be run again.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code == LOCK_TIMEOUT || OVERTAKEN.contains(&code))
}

/// A broken integrity constraint (class 23) is the vote no: it would be broken again.
pub(super) fn violation(error: &sqlx::Error) -> Option<Refusal> {
    let answer = definite(error)?;
    let detail = answer.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
    answer
        .code()
        .starts_with("23")
        .then(|| Refusal::new("CONSTRAINT_VIOLATED", format!("{}{detail}", answer.message())))
}
