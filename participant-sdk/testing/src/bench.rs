//! Where checks work: fresh worlds, operations whose failures name the handler, and comparisons.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use unanimo_conformance::{Branch, End, Options, Session, Stop, Target, Vote};
use unanimo_proto::v1::Mode;

use crate::lives::{Halted, Interruptions, Lives};
use crate::subject::Subject;

/// Names of the handlers of a mode.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Methods {
    pub(crate) prepare: &'static str,
    pub(crate) commit: &'static str,
    pub(crate) cancel: &'static str,
}

impl Methods {
    pub(crate) const TCC: Self =
        Self { prepare: "`try_`", commit: "`confirm`", cancel: "`cancel`" };
    pub(crate) const SAGA: Self =
        Self { prepare: "`run`", commit: "the end of the saga", cancel: "`compensate`" };
    pub(crate) const TWO_PHASE: Self =
        Self { prepare: "`prepare`", commit: "COMMIT PREPARED", cancel: "ROLLBACK PREPARED" };
}

/// Common parts of all checks of a run.
pub(crate) struct Bench<S> {
    pub(crate) options: Options,
    pub(crate) methods: Methods,
    /// Data that one committed transaction must lead to, if it was told.
    pub(crate) effect: Option<String>,
    notes: Mutex<Vec<String>>,
    _subject: PhantomData<fn() -> S>,
}

impl<S: Subject> Bench<S> {
    pub(crate) fn new(options: Options, methods: Methods, effect: Option<String>) -> Arc<Self> {
        Arc::new(Self { options, methods, effect, notes: Mutex::default(), _subject: PhantomData })
    }

    /// A participant on data that nobody has touched.
    pub(crate) async fn world(&self) -> Result<World<S>, Stop> {
        World::begin(&self.options, self.methods).await
    }

    pub(crate) fn is_two_phase(&self) -> bool {
        self.options.mode == Mode::TwoPhaseCommit
    }

    /// Stops a check about Commit where none is ever sent.
    pub(crate) fn needs_commit(&self) -> Result<(), Stop> {
        match self.options.mode {
            Mode::Saga => Err(Stop::Skipped("a step of a saga is not sent Commit".to_owned())),
            _ => Ok(()),
        }
    }

    pub(crate) fn note(&self, note: String) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(note);
    }

    pub(crate) fn notes(&self) -> Vec<String> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A participant on data of its own.
pub(crate) struct World<S: Subject> {
    subject: Arc<S>,
    lives: Arc<Lives<S>>,
    pub(crate) interruptions: Interruptions,
    pub(crate) session: Session,
    methods: Methods,
}

impl<S: Subject> World<S> {
    pub(crate) async fn begin(options: &Options, methods: Methods) -> Result<Self, Stop> {
        let subject = S::fresh().await.map_err(|error| unmade("a fresh subject", &error))?;
        let (subject, interruptions) = (Arc::new(subject), Interruptions::default());
        let lives = Lives::begin(Arc::clone(&subject), interruptions.clone()).await;
        let lives = Arc::new(lives.map_err(|error| unmade("the participant", &error))?);
        let session = Session::new(Arc::clone(&lives) as _, options.clone());
        Ok(Self { subject, lives, interruptions, session, methods })
    }

    pub(crate) fn target(&self) -> Arc<dyn Target> {
        Arc::clone(&self.lives) as _
    }

    pub(crate) fn participant(&self) -> String {
        self.lives.participant().unwrap_or_default()
    }

    /// Ends the participant's process at once, and starts it again on the same data. What stood still in it
    /// has ended, too.
    pub(crate) async fn crash(&self, halted: Option<Halted>) -> Result<(), Stop> {
        let begun = self.lives.crash(halted).await;
        begun.map_err(|error| unmade("the participant after a crash", &error))
    }

    /// Tells whether a crash has ended a call that was under way.
    pub(crate) fn has_cut_off(&self) -> bool {
        self.lives.cut_off() > 0
    }

    pub(crate) async fn observe(&self) -> Result<String, Stop> {
        self.subject.observe().await.map_err(|error| unmade("an observation", &error))
    }

    /// A branch that voted yes.
    pub(crate) async fn prepared(&self) -> Result<Branch, Stop> {
        self.session.prepared().await.map_err(|stop| named(self.methods.prepare, stop))
    }

    pub(crate) async fn prepare(&self, branch: &Branch) -> Result<Vote, Stop> {
        self.session.prepare(branch).await.map_err(|stop| named(self.methods.prepare, stop))
    }

    /// Commits a branch that voted yes.
    pub(crate) async fn commit(&self, branch: &Branch) -> Result<(), Stop> {
        let end = commit(&self.session, branch).await;
        done("Commit", &end.map_err(|stop| named(self.methods.commit, stop))?)
    }

    /// Cancels a branch.
    pub(crate) async fn cancel(&self, branch: &Branch) -> Result<(), Stop> {
        let end = self.session.cancel(branch).await;
        done("Cancel", &end.map_err(|stop| named(self.methods.cancel, stop))?)
    }

    /// Compares the data with what it should be; the error has `words`, and both.
    pub(crate) async fn compare(
        &self,
        expected: (&str, &str),
        found: &str,
        words: impl fmt::Display,
    ) -> Result<(), Stop> {
        let (label, expected) = expected;
        let seen = self.observe().await?;
        if seen == expected {
            return Ok(());
        }
        let width = label.len().max(found.len());
        Err(Stop::Failed(format!(
            "{words}\n         {label:width$}  {expected}\n         {found:width$}  {seen}"
        )))
    }
}

/// Sends Commit. A step of a saga is sent none: it is committed by its yes.
pub(crate) async fn commit(session: &Session, branch: &Branch) -> Result<End, Stop> {
    match session.options().mode {
        Mode::Saga => Ok(End::Done),
        _ => session.commit(branch).await,
    }
}

fn unmade(what: &str, error: &unanimo_sdk::BoxError) -> Stop {
    Stop::Failed(format!("{what} cannot be had: {error}"))
}

fn done(what: &str, end: &End) -> Result<(), Stop> {
    match end {
        End::Done => Ok(()),
        End::Heuristic(_) => Err(Stop::Failed(format!("{what} was answered {end}"))),
    }
}

/// Part of the error of a handler that commits on SQLite, where the SDK refuses that:
/// `SQLITE_CONSTRAINT_COMMITHOOK`.
const SQLITE_COMMIT_REFUSED: &str = "(code: 531)";

/// A failure that names the handler which caused it.
pub(crate) fn named(method: &str, stop: Stop) -> Stop {
    let Stop::Failed(text) = stop else { return stop };
    let cause = if text.contains("panicked") {
        "panicked when it was called"
    } else if text.contains("the local transaction that it was given")
        || text.contains(SQLITE_COMMIT_REFUSED)
    {
        "committed or rolled back by itself, which is the SDK's to do"
    } else if text.contains("the handler failed") && text.contains("locked") {
        "failed when it was called (does it write through a connection of its own, and not the one \
         that it is given?)"
    } else if text.contains("the handler failed") {
        "failed when it was called"
    } else {
        return Stop::Failed(text);
    };
    Stop::Failed(format!("{method} {cause}: {text}"))
}
