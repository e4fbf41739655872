//! Rules for a handler's effects, whatever happens around it.

mod crashes;
mod effects;
mod rollbacks;
mod together;

use std::pin::Pin;
use std::sync::Arc;

use unanimo_conformance::Stop;

pub(crate) use self::effects::once;
use crate::bench::Bench;
use crate::subject::Subject;

/// A guarantee's name and words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Described {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
    pub(crate) why: &'static str,
}

/// The data at each step of one undisturbed transaction.
#[derive(Debug)]
pub(crate) struct Once {
    pub(crate) before: String,
    pub(crate) after: String,
}

type Checking = Pin<Box<dyn Future<Output = Result<(), Stop>> + Send>>;

/// A guarantee, and how it is checked.
pub(crate) struct Check<S> {
    pub(crate) described: Described,
    pub(crate) run: fn(Arc<Bench<S>>, Arc<Once>) -> Checking,
}

/// The first: without it nothing else can be checked.
pub(crate) const ONCE: Described = Described {
    name: "works-once",
    text: "Prepare votes yes, and Commit and Cancel are done, without anything in their way.",
    why: "whoever votes yes promises that either will succeed.",
};

macro_rules! checks {
    ($($name:literal, $check:path, $text:literal, $why:literal;)*) => {
        /// All others.
        pub(crate) fn all<S: Subject>() -> Vec<Check<S>> {
            vec![$(Check {
                described: Described { name: $name, text: $text, why: $why },
                run: |bench, once| Box::pin(async move { $check(&bench, &once).await }),
            }),*]
        }
    };
}

checks! {
    "visible-effect", effects::visible,
        "Prepare and Commit change what `observe` shows.",
        "what it does not show cannot be compared.";
    "cancel-undoes", effects::cancel_undoes,
        "After Prepare and Cancel the data is as it was before.",
        "an aborted transaction must leave nothing behind.";
    "duplicates", effects::duplicates,
        "Each call, sent three times, has the effect of one.",
        "S7: an answer that is lost on its way makes the coordinator send the call again.";
    "duplicates-at-once", effects::duplicates_at_once,
        "Each call, sent eight times at once, has the effect of one.",
        "S7: a call whose answer takes too long is sent again while the first one is at work.";
    "cancel-first", effects::cancel_first,
        "Cancel, and the Prepare that comes after it, change nothing.",
        "S8: networks reorder calls.";
    "refusal-leaves-nothing", effects::refusal,
        "A Prepare that is refused leaves the data as it was.",
        "nobody cancels what was refused.";
    "unreadable-payload", effects::unreadable,
        "A payload that cannot be read is refused, and changes nothing.",
        "an error is no vote: the coordinator would ask until the deadline.";
    "work-that-must-succeed", effects::must_succeed,
        "A refusal of work that must succeed changes nothing; asked for again, sent twice, it has the \
         effect of one.",
        "after a saga's pivot nobody can undo it: it is asked for until it succeeds.";
    "without-inputs", effects::missing_input,
        "A Prepare without the inputs that the action reads changes nothing, unless it votes yes.",
        "an input that was over a limit is missing, and the step must not do half of its work.";
    "rollback-of-prepare", rollbacks::prepare,
        "Where Prepare's local transaction is rolled back after its handler ran, nothing is left of \
         it; run again, it has the effect of one run.",
        "a process may die between a handler and its commit; whatever was not written through the \
         connection that the handler is given stays behind, and nobody cancels it.";
    "rollback-of-commit", rollbacks::commit,
        "Where Commit's local transaction is rolled back after its handler ran, and Commit comes \
         again, both together have the effect of one.",
        "a process may die between a handler and its commit.";
    "rollback-of-cancel", rollbacks::cancel,
        "Where Cancel's local transaction is rolled back after its handler ran, and Cancel comes \
         again, the data is as it was before.",
        "a process may die between a handler and its commit.";
    "crash-in-prepare", crashes::prepare,
        "Where the process crashes at any moment of Prepare, and Prepare comes again, the transaction \
         commits with the effect of one, and cancels with none.",
        "S7: nobody can tell whether a call that broke off took effect.";
    "crash-in-commit", crashes::commit,
        "Where the process crashes at any moment of Commit, and Commit comes again, the effect is \
         that of one.",
        "S7: nobody can tell whether a call that broke off took effect.";
    "crash-in-cancel", crashes::cancel,
        "Where the process crashes at any moment of Cancel, and Cancel comes again, the data is as it \
         was before.",
        "S7: nobody can tell whether a call that broke off took effect.";
    "cancel-beside-commit", together::cancel_beside_commit,
        "Of two prepared transactions one can be cancelled and the other committed, in either order, \
         with the effect of the committed one alone.",
        "`cancel` and `confirm` must touch nothing but their own transaction's reservation.";
    "add-up", together::add_up,
        "Transactions at once have the effect that they have one after the other.",
        "what is read, changed in the program and written back loses what others wrote meanwhile.";
}
