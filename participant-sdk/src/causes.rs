//! Errors with their causes, for log lines.

#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
use sqlx::error::DatabaseError;
use tonic::Status;

/// Returns an error and its causes in one line. What an error says of its own cause is not said twice.
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub(crate) fn in_full(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| {
        let said = cause.to_string();
        if text.contains(&said) { text } else { format!("{text}: {said}") }
    })
}

/// Finds the database's answer in an error, or in the cause that a wrapper shows in its place: what is transparent,
/// such as `#[error(transparent)]` and `anyhow`, passes over the error of sqlx, and shows what that holds.
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub(crate) fn answer<'e>(
    error: &'e (dyn std::error::Error + 'static),
) -> Option<&'e (dyn DatabaseError + 'static)> {
    if let Some(error) = error.downcast_ref::<sqlx::Error>() {
        return error.as_database_error();
    }
    error.downcast_ref::<Box<dyn DatabaseError>>().map(|held| &**held)
}

/// Returns a status in one line, with the innermost cause where the transport made it: what is around
/// that adds nothing, such as "transport error".
pub(crate) fn status_in_full(status: &Status) -> String {
    let text = match status.message() {
        "" => format!("{:?}", status.code()),
        message => format!("{:?}: {message}", status.code()),
    };
    let causes = std::iter::successors(std::error::Error::source(status), |cause| cause.source());
    match causes.last().map(ToString::to_string) {
        Some(said) if !text.contains(&said) => format!("{text}: {said}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_of_the_transport_tells_its_cause() {
        let refused = std::io::Error::other("Connection refused");
        let mut status = Status::unavailable("tcp connect error");
        assert_eq!(status_in_full(&status), "Unavailable: tcp connect error");
        status.set_source(std::sync::Arc::new(refused));
        assert_eq!(status_in_full(&status), "Unavailable: tcp connect error: Connection refused");
    }

    #[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
    #[test]
    fn each_cause_is_said_once() {
        let inner = std::io::Error::other("disk full");
        let outer = std::io::Error::other(format!("write: {inner}"));
        assert_eq!(in_full(&outer), "write: disk full");
    }
}
