//! Texts of calls to participants that have failed, for log lines and for `last_error`.

use tonic::{Code, Status};

use crate::wire::status_in_words;

/// Prepares after which a no that comes as an error status gets an explanation: the first ones may be what
/// the codes say, a conflict that goes away.
const HINT_AFTER: u32 = 3;

/// Most bytes of a participant's own words, so that the rest has its place in what is kept of an error.
const WORDS_BYTES_MAX: usize = 640;

/// Explanation for a participant that means no by an error.
const HINT: &str = "an error status is no vote, and Prepare is repeated until the deadline: a participant \
                    says no with REFUSED in an OK reply";

/// Describes the status of a call.
pub(super) fn in_words(status: &Status, prepare: bool, attempt: u32) -> String {
    let mut text = status_in_words(status, WORDS_BYTES_MAX);
    if prepare && attempt >= HINT_AFTER && is_a_no(status.code()) {
        text = format!("{text}; {HINT}");
    }
    text
}

/// Tells whether a code looks like a decision about the work, and not like a fault that goes away.
fn is_a_no(code: Code) -> bool {
    matches!(
        code,
        Code::FailedPrecondition
            | Code::Aborted
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::OutOfRange
            | Code::PermissionDenied
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn an_error_of_the_transport_tells_its_cause() {
        let mut status = Status::unavailable("tcp connect error");
        assert_eq!(in_words(&status, true, 9), "Unavailable: tcp connect error");
        status.set_source(Arc::new(std::io::Error::other("Connection refused")));
        let text = in_words(&status, true, 9);
        assert_eq!(text, "Unavailable: tcp connect error: Connection refused");
        assert_eq!(in_words(&Status::internal(""), true, 1), "Internal");
    }

    #[test]
    fn a_no_that_comes_as_an_error_again_and_again_is_explained() {
        let no =
            |code, prepare, attempt| in_words(&Status::new(code, "sold out"), prepare, attempt);
        for code in [Code::FailedPrecondition, Code::Aborted, Code::NotFound] {
            assert!(no(code, true, 3).ends_with(
                ": sold out; an error status is no vote, and Prepare is repeated until the deadline: a \
                 participant says no with REFUSED in an OK reply"
            ));
            assert!(no(code, true, 2).ends_with(": sold out"));
            assert!(no(code, false, 3).ends_with(": sold out"));
        }
        assert!(no(Code::Unavailable, true, 3).ends_with(": sold out"));
        let long = Status::aborted("ä".repeat(5000));
        let text = in_words(&long, true, 3);
        assert!(text.len() < unanimo_core::TEXT_BYTES_MAX && text.contains("REFUSED"), "{text}");
    }
}
