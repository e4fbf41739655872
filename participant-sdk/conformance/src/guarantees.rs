//! The guarantees, as a list. docs/participant-guide.md explains them to whoever writes a
//! participant.

mod conditions;
mod ends;
mod inputs;
mod manners;
mod races;
mod signs;
mod steps;
mod tombstones;
mod votes;

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use super::answer::{End, Vote};
use super::session::{Session, Stop};

/// A check that runs.
type Checking = Pin<Box<dyn Future<Output = Result<(), Stop>> + Send>>;

/// A rule that a participant must hold to, and its check.
#[derive(Clone, Copy)]
pub struct Guarantee {
    /// Stable, for programs: `duplicate-prepare`.
    pub name: &'static str,
    /// The rule.
    pub text: &'static str,
    /// Damage where it does not hold.
    pub why: &'static str,
    /// Checks it, with branches of its own.
    pub check: fn(Session) -> Checking,
}

impl fmt::Debug for Guarantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarantee").field("name", &self.name).finish_non_exhaustive()
    }
}

macro_rules! guarantees {
    ($($name:literal, $check:path, $text:literal, $why:literal;)*) => {
        /// Every guarantee, in the order in which they are checked.
        pub const GUARANTEES: [Guarantee; [$($name),*].len()] = [$(Guarantee {
            name: $name,
            text: $text,
            why: $why,
            check: |session| Box::pin($check(session)),
        }),*];
    };
}

guarantees! {
    "duplicate-prepare", votes::duplicate,
        "The same Prepare, sent again, has no further effect and gets the same vote and output, with \
         the same media type.",
        "S7: an answer that is lost on its way makes the coordinator send the call again.";
    "concurrent-prepare", votes::concurrent,
        "Of the same Prepare, sent eight times at once, all get the same vote and output; WORKING \
         is allowed until there is a vote.",
        "S7: a call whose answer takes too long is sent again while the first one is at work.";
    "late-duplicate", votes::late_duplicate,
        "A Prepare past its prepare_until, of a branch that has voted yes, gets that yes.",
        "the bound is for branches without a trace; a vote that was given stands until phase two.";
    "prepare-too-late", votes::too_late,
        "A Prepare past its prepare_until, of a branch without a trace, is REFUSED, and stays so.",
        "the transaction has been aborted, and its tombstone may have been purged: nobody would \
         ever cancel what this Prepare did.";
    "unknown-action", votes::unknown_action,
        "An action that is not offered is REFUSED in an OK reply, and the refusal is stored.",
        "an error status is no vote: the coordinator would ask until the deadline.";
    "stored-refusal", votes::stored_refusal,
        "A REFUSED Prepare gets the same refusal when it is sent again; its Cancel is done.",
        "a vote that changes its mind could be a no that the initiator saw and a yes that commits.";
    "unknown-requirement", conditions::unknown_requirement,
        "A Prepare that requires a feature which the participant does not know is REFUSED with \
         reason FEATURE_UNSUPPORTED, and the refusal is stored.",
        "a later version asks for something that this work would not be: it must not be done \
         without it.";
    "must-succeed-refusal", conditions::must_succeed,
        "REFUSED to a Prepare that must succeed is not stored: the same Prepare may be PREPARED \
         later. PREPARED is stored as ever: sent again, eight times at once as well, it gets the same \
         output.",
        "the transaction can no longer be aborted: a stored no would be the end of it.";
    "must-succeed-requirement", conditions::unknown_and_must_succeed,
        "REFUSED to a Prepare that requires `must_succeed` and a feature which the participant does \
         not know is not stored, by a participant that does not know `must_succeed` either.",
        "the transaction can no longer be aborted: a stored no would be the end of it, where another \
         process may know the feature.";
    "step-inputs", inputs::given,
        "A Prepare with inputs that requires `step_inputs` is answered as one without those that the \
         action does not read; its duplicates get the same vote and output, and its Cancel is done, \
         with and without them.",
        "a saga hands the answers of its earlier steps on; a compensation gets them, too.";
    "missing-input", inputs::missing,
        "A Prepare without an input that the action reads gets a vote: REFUSED, which is stored as any \
         refusal. Cancel of a branch that was never prepared is done without any input.",
        "an input that was over a limit, or that its step did not return, is missing for ever: an \
         error status would be asked for again until the deadline.";
    "must-succeed-input", steps::input_that_comes_later,
        "A Prepare that must succeed and lacks an input is not refused for good: with the input it is \
         PREPARED.",
        "the transaction can no longer be aborted, and a person may have to give what is missing.";
    "output-bound", steps::output_bound,
        "Work whose output has more than output_bytes_max bytes is undone and REFUSED with reason \
         OUTPUT_TOO_LARGE, stored as any refusal, and not stored where the work must succeed.",
        "a later step reads the output, and the coordinator drops what is too large: the saga could \
         neither go on nor be undone.";
    "unknown-phase-two-requirement", conditions::phase_two,
        "Commit and Cancel that require a feature which the participant does not know are answered \
         with the status UNIMPLEMENTED; nothing is done or stored.",
        "an answer would end a branch otherwise than it was told.";
    "unknown-mode", conditions::unknown_mode,
        "A Prepare in a mode that the participant does not know is REFUSED with reason \
         MODE_NOT_OFFERED, and the refusal is stored; its Commit and Cancel are answered by the row, \
         and Cancel without a row leaves a tombstone.",
        "an error status is no vote, and no end: the coordinator would ask for ever.";
    "commit-after-refusal", votes::commit_after_refusal,
        "Commit of a branch that was REFUSED is heuristic, never done.",
        "S11: there is nothing that could be committed, and done would say that there was.";
    "cancel-before-prepare", tombstones::cancel_first,
        "Cancel of a branch that was never prepared is done, and done again.",
        "S8: a Prepare may be lost or late, and its Cancel comes all the same.";
    "concurrent-cancel-before-prepare", tombstones::cancel_first_at_once,
        "Of the same Cancel of a branch that was never prepared, sent eight times at once, all are \
         done.",
        "S8: two tombstones for one branch must neither deadlock nor be an error.";
    "late-prepare", tombstones::late_prepare,
        "A Prepare that comes after its Cancel is REFUSED, however often it comes, alone or eight \
         at once.",
        "S8: nobody would ever cancel what it did, and a yes could be committed.";
    "prepare-races-cancel", races::prepare_and_cancel,
        "Where Prepare and Cancel of a branch come at once, Cancel is done and no Prepare that \
         comes afterwards is answered PREPARED.",
        "S8: whichever comes first, the branch ends without an effect.";
    "abandoned-prepare", races::abandoned,
        "A Prepare whose caller goes away at any moment can be sent again, and can be cancelled.",
        "S7: a call that is broken off half way may have taken effect or not; both must end well.";
    "cancel-at-work", steps::cancelled_at_work,
        "Where Cancel comes eight times at any moment of a Prepare that was sent eight times, all are \
         done, and no Prepare that comes afterwards is answered PREPARED.",
        "a saga aborts while its steps are at work: what they do must end undone.";
    "cancel-without-an-end", steps::cancelled_without_an_end,
        "Cancel without output, of a branch whose Prepare was broken off and whose vote was lost, is \
         done, and done again with it; no later Prepare is answered PREPARED.",
        "a coordinator that was killed may not know that a step was sent, and undoes what it cannot \
         exclude.";
    "row-outlives-bound", steps::outlives_its_bound,
        "A Prepare that voted yes before its prepare_until gets that yes after it, too, with and \
         without the bound, until its branch is ended.",
        "S7: a step of a saga is sent no Commit, and may be asked for again, or undone, days later.";
    "no-bound", steps::no_bound,
        "A Prepare without prepare_until votes as any other; its Cancel without one is done, first or \
         later, and no Prepare that comes after it is answered PREPARED.",
        "the pivot of a saga has no bound: an operator may answer in its place while it is under way.";
    "saga-in-order", steps::in_order,
        "A step, a pivot and a step after it, all in one transaction, each keep their votes when later \
         ones are done, repeated and undone.",
        "what is undone in the reverse order must not take what stands before it along.";
    "cancel-twice", ends::cancel_twice,
        "Cancel of a prepared branch is done, with and without the output, and done again.",
        "S7: an answer that is lost on its way makes the coordinator send the call again.";
    "concurrent-cancel", ends::cancel_at_once,
        "Of the same Cancel of a prepared branch, sent eight times at once, all are done.",
        "S7: a call whose answer takes too long is sent again while the first one is at work.";
    "prepare-after-cancel", ends::prepare_after_cancel,
        "A duplicate of a Prepare that voted yes is never answered PREPARED once the branch is \
         cancelled.",
        "S8: the network may hold a call back for as long as it likes.";
    "commit-after-cancel", ends::commit_after_cancel,
        "Commit of a cancelled branch is HEURISTIC_ROLLBACK or HEURISTIC_HAZARD, never done.",
        "S11: done would report a commit that never happened.";
    "commit-unknown", ends::commit_unknown,
        "Commit of a branch without a trace is HEURISTIC_HAZARD, never done, and its late Prepare \
         is never answered PREPARED.",
        "S11: a branch that voted yes and is gone was lost, by a restored backup say; somebody has \
         to look at it.";
    "independent-branches", votes::independent,
        "Two branches of one transaction with the same action are two: what happens to one leaves \
         the other as it is.",
        "a transaction may debit the same account twice.";
    "wrong-participant", manners::wrong_participant,
        "A branch of another participant's name is answered with an error status: Prepare not with a vote, and Commit and \
         Cancel not with an end, whichever database they name.",
        "an address that was given to another participant would vote for work that is not its own, or end it.";
    "other-database", manners::other_database,
        "A branch that was prepared in another database of the participant's name is not answered for: \
         Prepare and Cancel get an error status, and Commit is HEURISTIC_HAZARD. The id that the votes \
         carry is its own.",
        "two processes of one name with two databases: done would be said of work that is elsewhere.";
    "other-place", manners::other_place,
        "A branch whose database is at another place than the participant's own is not answered for: Prepare, Commit \
         and Cancel get an error status, and nothing is done. A participant that looks at no place answers all of them.",
        "a copy of a database has the id of its original: done would be said of work that is in the other one.";
    "malformed-context", manners::malformed,
        "A Prepare without a context, or with one that breaks the rules, is answered with an error \
         status, not with a vote.",
        "a vote for a branch that cannot be named could never be found again.";
    "limits", manners::limits,
        "Outputs have at most 1 MiB, a media type of at most 128 bytes of printable ASCII without space at either end, and are \
         none in two-phase commit; a refusal's reason is 1 to 64 bytes of A-Z a-z 0-9 _ . : -, its \
         message has at most 1,024.",
        "what is over a limit is dropped or cut off on its way.";
    "status-size", signs::status_size,
        "An error status has at most 1 KiB, of its text percent-encoded and its details; a longer text is cut \
         off.",
        "it travels in headers: one that is too long ends the whole connection, and every other call on it.";
    "working-grows", signs::working_grows,
        "The retry_after of WORKING, if there is one, grows with the call's attempt.",
        "it takes the place of the coordinator's own pause, which grows: a branch that is stuck for days would \
         be asked for again and again as in its first second.";
    "commit-twice", ends::commit_twice,
        "Commit of a prepared branch is done, with and without the output, and done again.",
        "S7: an answer that is lost on its way makes the coordinator send the call again.";
    "concurrent-commit", ends::commit_at_once,
        "Of the same Commit, sent eight times at once, all are done.",
        "S7: a call whose answer takes too long is sent again while the first one is at work.";
    "prepare-after-commit", ends::prepare_after_commit,
        "A duplicate of a Prepare that comes after Commit gets the yes and output of before, and \
         Commit is done again.",
        "S7: the network may hold a call back for as long as it likes; it must not work again.";
    "cancel-after-commit", ends::cancel_after_commit,
        "Cancel of a committed branch is HEURISTIC_COMMIT, and leaves it committed.",
        "S11: it cannot be undone, and done would say that it was.";
    "commit-races-cancel", races::commit_and_cancel,
        "Where Commit and Cancel of a prepared branch come at once, at most one of them is done.",
        "S7: a coordinator never sends both; a participant that did both would hide that one did.";
}

/// Waits for so long. Not even a timer is waited for where that is no time: what has been sent before would be over on a
/// busy machine.
async fn later(after: Duration) {
    if !after.is_zero() {
        tokio::time::sleep(after).await;
    }
}

/// A vote that must not be yes.
fn expect_no_yes(vote: &Vote, when: &str) -> Result<(), Stop> {
    match vote {
        // READ_ONLY lets a transaction commit as well as PREPARED does.
        Vote::Prepared(_) | Vote::ReadOnly => {
            Err(Stop::Failed(format!("{when} was answered {vote}")))
        }
        Vote::Refused(_) => Ok(()),
    }
}

/// A vote that must be no.
fn expect_refused(vote: &Vote, when: &str) -> Result<(), Stop> {
    match vote {
        Vote::Refused(_) => Ok(()),
        Vote::Prepared(_) | Vote::ReadOnly => {
            Err(Stop::Failed(format!("{when} was answered {vote}, expected REFUSED")))
        }
    }
}

/// A vote that must be the one of before.
fn expect_same(first: &Vote, again: &Vote, when: &str) -> Result<(), Stop> {
    if first == again {
        return Ok(());
    }
    Err(Stop::Failed(format!("{when} was answered {again}; the first time it was {first}")))
}

/// An end that must be as it was told.
fn expect_done(end: &End, when: &str) -> Result<(), Stop> {
    match end {
        End::Done => Ok(()),
        End::Heuristic(_) => Err(Stop::Failed(format!("{when} was answered {end}, expected done"))),
    }
}
