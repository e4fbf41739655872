//! Codes of errors that speak of the work itself.
//!
//! Such an error would be raised again, and is a vote no. All others are no vote: the server speaks of
//! itself, of the session, of a role, of other transactions, or of a schema that is being changed (class 42
//! while a new version is rolled out), and the same work may well be done later. A code that is not listed
//! is no vote either: a no is for good, and an error that comes again costs no more than the time until the
//! deadline.

use crate::handler::Isolation;

/// Classes of which every error speaks of the work: cardinality, values, changes of what a trigger has
/// changed, the check of a view.
const CLASSES: [&str; 4] = ["21", "22", "27", "44"];

/// Single codes.
const CODES: [&str; 7] = [
    "20000", // case_not_found: no branch of PL/pgSQL's CASE
    "23000", // integrity_constraint_violation
    "23001", // restrict_violation
    "23502", // not_null_violation
    "23503", // foreign_key_violation
    "23514", // check_violation
    "54000", // program_limit_exceeded: a row or a key that is too long
];

/// Codes of rows that exclude each other. The row in the way may have been committed after the snapshot of
/// REPEATABLE READ was taken, so that the handler did not see it: that is a serialization failure.
const EXCLUSIVE: [&str; 2] = [
    "23505", // unique_violation
    "23P01", // exclusion_violation
];

/// Class of what PL/pgSQL raises by the word of a function: `raise_exception`, `no_data_found` and so on.
const RAISED: &str = "P0";

/// Error of PL/pgSQL itself.
const PLPGSQL_ERROR: &str = "P0000";

/// Classes that PostgreSQL uses. Those beyond are of functions and triggers, which raise them of the work.
const OF_POSTGRESQL: [&str; 43] = [
    "00", "01", "02", "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "20", "21", "22",
    "23", "24", "25", "26", "27", "28", "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "40",
    "42", "44", "53", "54", "55", "57", "58", "72", "F0", "HV", "XX",
];

/// Tells whether an error of this code speaks of the work, in a transaction of this isolation.
pub(super) fn is_spoken_of(code: &str, isolation: Isolation) -> bool {
    let Some(class) = code.get(..2) else { return false };
    if EXCLUSIVE.contains(&code) {
        return isolation == Isolation::ReadCommitted;
    }
    let is_raised = class == RAISED && code != PLPGSQL_ERROR;
    let is_of_the_service = class != RAISED && !OF_POSTGRESQL.contains(&class);
    CLASSES.contains(&class) || CODES.contains(&code) || is_raised || is_of_the_service
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_speaks_of_the_work_is_a_no() {
        for code in [
            "21000", "22001", "22003", "22012", "22P02", "23000", "23001", "23502", "23503",
            "23514", "27000", "44000", "45000", "54000", "P0001", "P0002", "P0004", "U0001",
            "AB123",
        ] {
            for isolation in [Isolation::ReadCommitted, Isolation::RepeatableRead] {
                assert!(is_spoken_of(code, isolation), "{code}");
            }
        }
        for code in ["23505", "23P01"] {
            assert!(is_spoken_of(code, Isolation::ReadCommitted), "{code}");
            assert!(!is_spoken_of(code, Isolation::RepeatableRead), "{code}");
        }
        for code in [
            "08006", "0A000", "0LP01", "25001", "25006", "25P02", "26000", "28000", "2BP01",
            "2F005", "38000", "39000", "3B001", "3D000", "3F000", "40001", "40P01", "42501",
            "42601", "42701", "42703", "42804", "42846", "42883", "42P01", "42P07", "42P10",
            "53100", "53200", "53300", "54001", "55000", "55006", "55P03", "57014", "57P01",
            "58000", "58030", "72000", "F0000", "HV000", "P0000", "XX000", "XX001", "", "4",
        ] {
            assert!(!is_spoken_of(code, Isolation::ReadCommitted), "{code}");
        }
    }
}
