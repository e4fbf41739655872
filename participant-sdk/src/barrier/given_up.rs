//! Statements that a handler has given up: it has dropped their futures and has returned, and the server is at them still.
//!
//! The next statement of ours would wait behind such a one for as long as its operation may take. So somebody looks from
//! another session what the server is at, once ours takes long: one that is not ours is ended. There is no vote then, and no
//! end: nobody knows what the handler took it for.

#[cfg(any(feature = "mysql", feature = "postgres"))]
use std::pin::pin;
use std::time::Duration;

#[cfg(any(feature = "mysql", feature = "postgres"))]
use tokio::sync::watch;

#[cfg(any(feature = "mysql", feature = "postgres"))]
use super::LOOKS_WITHIN;
use crate::resource::Fault;

/// Time that a statement of ours may take behind a handler before somebody looks.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// Between two looks that have found nothing.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) const LOOK_PAUSE: Duration = Duration::from_millis(500);

const GAVE_UP: &str = "it has returned while the database was at a statement that it had given up";

/// State in which the session was found behind a handler.
#[cfg(any(feature = "mysql", feature = "postgres"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nothing else than ours is known to be at work.
    Nothing,
    /// A statement of the handler's was at work, and is being ended.
    GivenUp,
    /// The same, and it is not in the transaction that the handler was given.
    Elsewhere,
}

/// Result of a statement of ours behind a handler.
#[cfg(any(feature = "mysql", feature = "postgres"))]
#[derive(Debug)]
pub(crate) enum Behind<T> {
    /// Nothing of the handler's was in its way.
    Nothing(T),
    /// A statement that the handler had given up was, and was ended. `None` tells that ours has not been answered since.
    GivenUp(Option<T>),
    /// The same, and the session is not in the transaction that the handler was given.
    Elsewhere,
}

#[cfg(feature = "mysql")]
impl<T, E> Behind<Result<T, E>> {
    pub(crate) fn map_err<F>(self, map: impl FnOnce(E) -> F) -> Behind<Result<T, F>> {
        match self {
            Self::Nothing(done) => Behind::Nothing(done.map_err(map)),
            Self::GivenUp(done) => Behind::GivenUp(done.map(|done| done.map_err(map))),
            Self::Elsewhere => Behind::Elsewhere,
        }
    }
}

/// Runs a statement of ours. If it takes long, `look` tells what the session is at, and ends what is not ours, until nobody
/// listens any more; it answers what it has told last.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) async fn behind<T, L>(
    statement: impl Future<Output = T>,
    look: impl FnOnce(watch::Sender<Seen>) -> Option<L>,
) -> Behind<T>
where
    L: Future<Output = Seen> + Send + 'static,
{
    let mut statement = pin!(statement);
    if let Ok(done) = tokio::time::timeout(PATIENCE, &mut statement).await {
        return Behind::Nothing(done);
    }
    let (tell, mut told) = watch::channel(Seen::Nothing);
    let Some(looking) = look(tell) else { return Behind::Nothing(statement.await) };
    let looking = tokio::spawn(looking);
    let done = tokio::select! {
        biased;
        done = &mut statement => Some(done),
        Ok(_) = told.wait_for(|seen| *seen != Seen::Nothing) => None,
    };
    if let Some(done) = done {
        drop(told);
        // What was ended may have answered before it is known here that it was.
        let seen = tokio::time::timeout(LOOKS_WITHIN, looking).await;
        return match seen {
            Ok(Ok(Seen::GivenUp | Seen::Elsewhere)) => Behind::GivenUp(Some(done)),
            _ => Behind::Nothing(done),
        };
    }
    tokio::select! {
        biased;
        done = &mut statement => Behind::GivenUp(Some(done)),
        Ok(_) = told.wait_for(|seen| *seen == Seen::Elsewhere) => Behind::Elsewhere,
        () = tokio::time::sleep(LOOKS_WITHIN) => Behind::GivenUp(None),
    }
}

/// The fault of a handler that has left a statement at work, in the transaction that it was given.
pub(crate) fn gave_up() -> Fault {
    Fault::Wrong(GAVE_UP)
}

/// The same where the database does not tell which transaction that was.
pub(crate) fn gave_up_unseen() -> Fault {
    Fault::Unseen(GAVE_UP.to_owned())
}
