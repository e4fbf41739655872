//! The coordinator as a participant: children begin, vote, and hear their parents' decisions.
//!
//! Prepare begins the child, under a gid that a repetition finds again, and waits until the child is in
//! doubt or has ended after an ABORT. Commit and Cancel hand the parent's decision over, and wait for the
//! child's end. A wait that lasts as long as a call may is answered with WORKING, and goes on with the
//! next attempt.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use unanimo_core::{
    Decision, Definition, Heuristic, HeuristicKind, PhaseTwoAnswer, PhaseTwoOperation,
    PrepareAnswer, Refusal, Transaction, timeline,
};

use super::namespace::Names;
use super::parse::{self, Reading};
use crate::engine::children::{ChildEnd, gid_of_child, is_child_of, parent_of_child};
use crate::engine::{Answer, Error, Handle, Until, WeakHandle};
use crate::participants::caller::BranchCall;
use crate::participants::own::Own;

/// Pause before a parent asks again whether its child has got on. The wait itself is in the call.
const PAUSE: Duration = Duration::from_millis(50);

/// The answer leaves this much before the end of the call, or a tenth of its time, whichever is less.
const MARGIN_MAX: Duration = Duration::from_millis(200);

/// Reason of a child that aborted before it had voted.
const CHILD_ABORTED: &str = "CHILD_ABORTED";

/// Reason of a child whose gid is another transaction's.
const CHILD_GID_REUSED: &str = "CHILD_GID_REUSED";

/// Reason of a child that breaks a rule by now.
const CHILD_INVALID: &str = "CHILD_INVALID";

/// The coordinator as a participant.
#[derive(Debug)]
pub(crate) struct Children {
    engine: WeakHandle,
}

impl Children {
    /// Makes the participant. It does not keep the engine alive, which calls it.
    pub(crate) fn new(engine: WeakHandle) -> Self {
        Self { engine }
    }
}

const STOPPED: &str = "the coordinator has stopped";

#[async_trait]
impl Own for Children {
    async fn prepare(&self, call: &BranchCall) -> PrepareAnswer {
        let Some(engine) = self.engine.upgrade() else {
            return PrepareAnswer::Failed(STOPPED.to_owned());
        };
        let definition = match definition(&engine, call) {
            Ok(definition) => definition,
            Err(why) => return refused(CHILD_INVALID, why),
        };
        let gid = definition.gid.local().to_owned();
        let answer = match engine.begin_child(definition, answer_by(call)).await {
            Ok(Answer::View(view)) => {
                let own = is_child_of(&view.tx, parent_of_child(&call.identity, call.number));
                match vote(&view.tx, own) {
                    // It sleeps, and so may its parent.
                    PrepareAnswer::Working { .. } if view.is_asleep => asleep(&view.tx),
                    vote => vote,
                }
            }
            Ok(Answer::NotYet(_)) => PrepareAnswer::Working { retry_after: PAUSE },
            Err(error @ Error::GidReused { .. }) => {
                refused(CHILD_GID_REUSED, format!("child {gid}: {error}"))
            }
            Err(error) => PrepareAnswer::Failed(format!("child {gid}: {error}")),
        };
        crash_point!("child-voted");
        answer
    }

    async fn phase_two(&self, operation: PhaseTwoOperation, call: &BranchCall) -> PhaseTwoAnswer {
        let Some(engine) = self.engine.upgrade() else {
            return PhaseTwoAnswer::Failed(STOPPED.to_owned());
        };
        let of_child = gid_of_child(&call.identity, &call.spec.branch_id, call.number);
        let (parent, gid) = (parent_of_child(&call.identity, call.number), of_child.local());
        let answer = match engine.end_child(&of_child, parent, operation, answer_by(call)).await {
            Ok(ChildEnd::Ended(child)) => end(&child, operation),
            Ok(ChildEnd::None) => PhaseTwoAnswer::Done,
            Ok(ChildEnd::Working) => PhaseTwoAnswer::Working { retry_after: PAUSE },
            Ok(ChildEnd::Unknown) => PhaseTwoAnswer::Heuristic {
                kind: HeuristicKind::Hazard,
                note: format!("no child {gid} is known, though it voted"),
            },
            Err(error) => PhaseTwoAnswer::Failed(format!("child {gid}: {error}")),
        };
        crash_point!("child-ended");
        answer
    }
}

fn answer_by(call: &BranchCall) -> Instant {
    Instant::now() + (call.timeout - (call.timeout / 10).min(MARGIN_MAX))
}

/// Returns the child as it begins: with the name, the trace and the metadata that its parent gives it.
fn definition(engine: &Handle, call: &BranchCall) -> Result<Definition, String> {
    let parent = &call.identity;
    // Its times were checked when its parent began.
    let (limits, namespace) = (&engine.policy().limits, parent.gid.namespace());
    let names = Names::of(namespace.as_ref());
    let reading = Reading { now: parent.created_at, limits, depth: 0, names };
    let child = parse::stored_child(&call.spec.payload, call.number, reading)?;
    Ok(Definition {
        gid: gid_of_child(parent, &call.spec.branch_id, call.number),
        parent: Some(parent_of_child(parent, call.number)),
        metadata: parent.metadata.clone(),
        trace: call.traced.sent(parent),
        initiator: parent.initiator.clone(),
        ..child
    })
}

/// Returns the answer of a child that waits for nothing but time.
fn asleep(child: &Transaction) -> PrepareAnswer {
    match child.sleeps_until() {
        Some(until) => PrepareAnswer::Asleep { until },
        None => PrepareAnswer::Working { retry_after: PAUSE },
    }
}

fn refused(reason: &str, message: String) -> PrepareAnswer {
    PrepareAnswer::Refused(Refusal { reason: reason.to_owned(), message })
}

/// Returns the vote of a child, once it has voted or ended: the wait for that may have run out. A
/// transaction under its gid that is no child of this parent is either a tombstone, or somebody else's.
fn vote(child: &Transaction, own: bool) -> PrepareAnswer {
    let gid = child.identity().gid.local();
    if own && !Until::ChildVoted.is_reached(child) {
        return PrepareAnswer::Working { retry_after: PAUSE };
    }
    match (child.phase().decision(), own) {
        (Some(Decision::Abort(_)), true) => refused(CHILD_ABORTED, why_aborted(child)),
        (_, true) => PrepareAnswer::Prepared(Default::default()),
        (Some(Decision::Abort(_)), false) if child.identity().mode().is_none() => {
            refused(CHILD_ABORTED, format!("child {gid} was rolled back before it began"))
        }
        (_, false) => {
            let message = format!("child {gid}: the gid is in use for another transaction");
            refused(CHILD_GID_REUSED, message)
        }
    }
}

/// Tells the cause of a child's ABORT in one sentence.
fn why_aborted(child: &Transaction) -> String {
    let gid = child.identity().gid.local();
    let Some(Decision::Abort(cause)) = child.phase().decision() else { return String::new() };
    let branch = cause.number().and_then(|number| child.branch(number));
    let branch_id = branch.map_or("", |branch| branch.spec.branch_id.as_str());
    let cause = timeline::cause_in_words(cause, branch_id);
    let refusal = branch.and_then(|branch| branch.progress.refusal.as_ref());
    let refusal = refusal.map(|no| format!("{}: {}", no.reason, no.message));
    let detail = child.abort_explanation().or(refusal);
    match detail {
        Some(detail) => format!("child {gid} aborted: {cause}: {detail}"),
        None => format!("child {gid} aborted: {cause}"),
    }
}

/// Returns the answer of a child that has ended.
fn end(child: &Transaction, told: PhaseTwoOperation) -> PhaseTwoAnswer {
    let gid = child.identity().gid.local();
    let heuristic = |kind, note| PhaseTwoAnswer::Heuristic { kind, note };
    match child.phase().decision().map(Decision::operation) {
        Some(done) if done == told => match child.heuristic() {
            Heuristic::None => PhaseTwoAnswer::Done,
            Heuristic::Mixed | Heuristic::Hazard => {
                let note = format!("branches of child {gid} ended otherwise, or cannot tell");
                heuristic(HeuristicKind::Hazard, note)
            }
        },
        Some(PhaseTwoOperation::Commit) => {
            heuristic(HeuristicKind::Commit, format!("child {gid} has committed"))
        }
        _ => heuristic(HeuristicKind::Rollback, format!("child {gid} has aborted")),
    }
}
