//! The question before an act on many transactions.

use std::io::{BufRead, IsTerminal, Write, stderr, stdin};

use super::super::client;

/// Tells what will be done, and asks whether to go on. Where nobody can be asked it is an error: what a script does to many
/// transactions has to be said in it.
pub(super) async fn is_agreed(what: &str) -> Result<bool, client::Error> {
    if !stdin().is_terminal() || !stderr().is_terminal() {
        return Err(client::Error::NotAgreed(what.to_owned()));
    }
    let mut stderr = anstream::stderr().lock();
    // A question that cannot be shown is not answered either.
    let _ = write!(stderr, "{what}\nGo on? [y/N] ").and_then(|()| stderr.flush());
    drop(stderr);
    // On a thread of its own: the connection has to be kept meanwhile.
    let answer = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        stdin().lock().read_line(&mut answer).map(|_| answer)
    });
    Ok(answer.await.is_ok_and(|answer| answer.is_ok_and(|answer| is_yes(&answer))))
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yes_alone_is_yes() {
        for (answer, expected) in [
            ("y\n", true),
            (" YES \r\n", true),
            ("\n", false),
            ("", false),
            ("n\n", false),
            ("yy\n", false),
            ("y n\n", false),
        ] {
            assert_eq!(is_yes(answer), expected, "{answer:?}");
        }
    }
}
