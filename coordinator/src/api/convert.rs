//! The core's types as answers.

mod step;
mod waiting;

use std::collections::HashMap;

use unanimo_core::{
    AbortCause, Attempts, Branch, BranchState, Decision, Event, Heuristic, HeuristicKind, Identity,
    Outcome, Phase, PhaseTwo, Policy, Refusal, State, Timestamp, Transaction, Version, Vote,
    timeline,
};
use unanimo_proto::v1;

use self::step::{child_gid, compensation, held_locks, input};
use self::waiting::waiting;
use super::timeline::{newest, timeline_entry};
use crate::engine::{Answer, Inquired, Verdict, View};
use crate::env::{Env, SystemEnv};
use crate::spans;
use crate::store::{AttentionCount, Found, PhaseCount, PhaseName, Stored, Unreadable};
use crate::wire::{self, mode_to_wire, payload_to_wire, time_to_wire};

pub(super) fn outcome(outcome: Outcome) -> v1::Outcome {
    match outcome {
        Outcome::NotDecided => v1::Outcome::NotDecided,
        Outcome::Committed => v1::Outcome::Committed,
        Outcome::Aborted => v1::Outcome::Aborted,
    }
}

fn state(phase: Phase) -> v1::TransactionState {
    phase_name(PhaseName::of(phase))
}

fn phase_name(phase: PhaseName) -> v1::TransactionState {
    use v1::TransactionState as State;
    match phase {
        PhaseName::Scheduled => State::Scheduled,
        PhaseName::Active => State::Active,
        PhaseName::InDoubt => State::InDoubt,
        PhaseName::Committing => State::Committing,
        PhaseName::Aborting => State::Aborting,
        PhaseName::Committed => State::Committed,
        PhaseName::Aborted => State::Aborted,
    }
}

fn heuristic(heuristic: Heuristic) -> v1::Heuristic {
    match heuristic {
        Heuristic::None => v1::Heuristic::None,
        Heuristic::Mixed => v1::Heuristic::Mixed,
        Heuristic::Hazard => v1::Heuristic::Hazard,
    }
}

pub(super) fn abort_cause(phase: Phase) -> v1::AbortCause {
    let Some(Decision::Abort(cause)) = phase.decision() else {
        return v1::AbortCause::Unspecified;
    };
    match cause {
        AbortCause::Refused(_) => v1::AbortCause::Refused,
        AbortCause::Deadline => v1::AbortCause::Deadline,
        AbortCause::Rollback => v1::AbortCause::Rollback,
        AbortCause::Unlisted(_) => v1::AbortCause::Unlisted,
        AbortCause::NoVote(_) => v1::AbortCause::NoVote,
        AbortCause::GaveUp(_) => v1::AbortCause::GaveUp,
        AbortCause::OutputDropped(_) => v1::AbortCause::OutputDropped,
        AbortCause::Locked(_) => v1::AbortCause::Locked,
        AbortCause::Parent => v1::AbortCause::Parent,
    }
}

/// The branch that the cause of an abort speaks of, where its name is still known.
fn abort_branch(tx: &Transaction) -> String {
    let Some(Decision::Abort(cause)) = tx.phase().decision() else { return String::new() };
    let branch = cause.number().and_then(|number| tx.branch(number));
    branch.map_or_else(String::new, |branch| branch.spec.branch_id.to_string())
}

fn vote(vote: Option<Vote>) -> v1::Vote {
    match vote {
        None => v1::Vote::Unspecified,
        Some(Vote::Prepared) => v1::Vote::Prepared,
        Some(Vote::ReadOnly) => v1::Vote::ReadOnly,
        Some(Vote::Refused) => v1::Vote::Refused,
    }
}

fn refusal(refusal: Option<&Refusal>) -> Option<v1::Refusal> {
    refusal.map(|Refusal { reason, message }| v1::Refusal {
        reason: reason.clone(),
        message: message.clone(),
    })
}

/// Returns what an initiator needs to know, with outputs only if it asked for them.
pub(super) fn result(answer: Answer, outputs: bool) -> v1::TransactionResult {
    let view = match answer {
        Answer::View(view) => view,
        Answer::NotYet(tx_id) => {
            return v1::TransactionResult {
                tx_id: tx_id.map(|tx_id| tx_id.to_string()).unwrap_or_default(),
                outcome: v1::Outcome::NotDecided.into(),
                heuristic: v1::Heuristic::None.into(),
                ..Default::default()
            };
        }
    };
    let View { tx, .. } = &*view;
    v1::TransactionResult {
        tx_id: tx.tx_id().to_string(),
        outcome: outcome(tx.outcome()).into(),
        ended: tx.phase().ended_at().is_some(),
        heuristic: heuristic(tx.heuristic()).into(),
        abort_cause: abort_cause(tx.phase()).into(),
        abort_branch_id: abort_branch(tx),
        branches: tx.branches().iter().map(|branch| branch_result(branch, outputs)).collect(),
        abort_detail: tx.abort_explanation().unwrap_or_default(),
    }
}

fn branch_result(branch: &Branch, outputs: bool) -> v1::BranchResult {
    let progress = &branch.progress;
    v1::BranchResult {
        branch_id: branch.spec.branch_id.to_string(),
        vote: vote(progress.vote).into(),
        refusal: refusal(progress.refusal.as_ref()),
        output: branch.output.as_ref().filter(|_| outputs).and_then(payload_to_wire),
        output_dropped: progress.output_dropped,
        last_error: branch.last_error().unwrap_or_default().to_owned(),
    }
}

/// A branch's vote, for Execute.
pub(super) fn executed(tx: &Transaction, branch: &Branch) -> v1::ExecuteBranchResponse {
    let progress = &branch.progress;
    v1::ExecuteBranchResponse {
        branch_number: branch.number.get().into(),
        vote: vote(progress.vote).into(),
        refusal: refusal(progress.refusal.as_ref()),
        output: branch.output.as_ref().and_then(payload_to_wire),
        output_dropped: progress.output_dropped,
        outcome: outcome(tx.outcome()).into(),
        last_error: branch.last_error().unwrap_or_default().to_owned(),
    }
}

/// Returns what a participant is told of a branch that it holds in doubt.
pub(super) fn inquired(known: &Inquired, policy: &Policy, cluster_id: &str) -> v1::BranchVerdict {
    let verdict = match known.verdict {
        Verdict::Running => v1::Verdict::Running,
        Verdict::Commit => v1::Verdict::Commit,
        Verdict::Cancel => v1::Verdict::Cancel,
        Verdict::NeverSeen => v1::Verdict::NeverSeen,
        Verdict::Purged => v1::Verdict::Purged,
        Verdict::Heuristic => v1::Verdict::Heuristic,
    };
    let of = known.of.as_ref().and_then(|(tx, number)| Some((tx, tx.branch(*number)?)));
    v1::BranchVerdict {
        verdict: verdict.into(),
        ended: known.ended,
        context: of.map(|(tx, branch)| {
            wire::context(tx.identity(), &branch.spec, branch.number, cluster_id)
        }),
        action: of.map(|(_, branch)| branch.spec.action.to_string()).unwrap_or_default(),
        prepare_until: of
            .and_then(|(tx, branch)| tx.prepare_until(branch, policy))
            .map(time_to_wire),
    }
}

/// Parts of a branch that are shown only where they were asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Content {
    /// Answers of the Prepares.
    pub(super) outputs: bool,
    /// Arguments of the actions.
    pub(super) payloads: bool,
}

/// The revision of a state, as it is shown.
pub(super) fn revision(view: &View) -> u64 {
    revision_of(view.revision)
}

fn revision_of(version: Version) -> u64 {
    u64::try_from(version.0).unwrap_or(0)
}

/// A transaction with its branches, and with its history if the events of it are given.
pub(super) fn transaction(
    view: &View,
    content: Content,
    events: Option<&[Event]>,
) -> v1::Transaction {
    transaction_at(SystemEnv.now(), view, content, events)
}

/// The same as it was at this time, for what it waits for.
pub(super) fn transaction_at(
    now: Timestamp,
    view: &View,
    content: Content,
    events: Option<&[Event]>,
) -> v1::Transaction {
    let View { tx, stripped, .. } = view;
    let mut shown = basics(tx.identity(), &tx.state(), *stripped);
    shown.revision = revision(view);
    shown.metadata = metadata(tx.identity());
    shown.abort_branch_id = abort_branch(tx);
    shown.abort_detail = tx.abort_explanation().unwrap_or_default();
    shown.deadline = Some(time_to_wire(tx.deadline()));
    if !stripped {
        shown.trace_id = spans::trace_id(tx.identity());
        shown.locks = held_locks(tx);
        shown.waiting = waiting(tx, now);
        shown.branches = tx.branches().iter().map(|b| branch(tx, b, content)).collect();
        let entries = events.map(|events| timeline::timeline(tx, events)).unwrap_or_default();
        (shown.timeline, shown.timeline_dropped) =
            newest(entries.into_iter().map(timeline_entry).collect());
    }
    shown
}

/// A transaction of a list; one that cannot be read has names, if these can be, and the reason.
pub(super) fn found(found: &Found, with_metadata: bool) -> v1::Transaction {
    match found {
        Ok(stored) => summary(stored, with_metadata),
        Err(Unreadable { tx_id, gid, problem }) => v1::Transaction {
            tx_id: tx_id.to_string(),
            gid: gid.clone(),
            created_at: Some(time_to_wire(Timestamp(tx_id.created_ms()))),
            outcome: v1::Outcome::NotDecided.into(),
            attention: true,
            unreadable: problem.clone(),
            ..Default::default()
        },
    }
}

/// A transaction without its branches, with metadata if it was asked for.
fn summary(stored: &Stored, with_metadata: bool) -> v1::Transaction {
    let record = &stored.record;
    let mut shown = basics(&record.identity, &record.state, stored.stripped);
    shown.revision = revision_of(record.version);
    if with_metadata {
        shown.metadata = metadata(&record.identity);
    }
    shown
}

/// Numbers of transactions by state.
pub(super) fn counts(
    (counted, attention): &(Vec<PhaseCount>, AttentionCount),
) -> v1::TransactionCounts {
    let number = |count: i64| u64::try_from(count).unwrap_or(0);
    let counts = counted.iter().map(|counted| v1::StateCount {
        state: phase_name(counted.phase).into(),
        transaction_count: number(counted.count),
        at_least: counted.at_least,
    });
    v1::TransactionCounts {
        states: counts.collect(),
        stalled_count: number(attention.stalled),
        heuristic_count: number(attention.heuristic),
        unreadable_count: number(attention.unreadable),
    }
}

fn metadata(identity: &Identity) -> HashMap<String, String> {
    identity.metadata.clone().into_iter().collect()
}

fn basics(identity: &Identity, current: &State, stripped: bool) -> v1::Transaction {
    let phase = current.phase;
    v1::Transaction {
        tx_id: identity.tx_id.to_string(),
        gid: identity.gid.to_string(),
        mode: identity.mode().map_or(v1::Mode::Unspecified, mode_to_wire).into(),
        state: state(phase).into(),
        outcome: outcome(phase.into()).into(),
        abort_cause: abort_cause(phase).into(),
        heuristic: heuristic(current.heuristic).into(),
        stalled: current.is_held_up(),
        attention: current.attention(),
        alarms: current.alarms().into_iter().map(str::to_owned).collect(),
        created_at: Some(time_to_wire(identity.created_at)),
        deadline: Some(time_to_wire(identity.deadline)),
        start_at: identity.start_at.map(time_to_wire),
        started_at: current.started_at.map(time_to_wire),
        // The branch's id is known to the parent alone.
        parent: identity.parent.map(|parent| v1::ParentBranch {
            tx_id: parent.tx_id.to_string(),
            branch_id: String::new(),
        }),
        decided_at: phase.decided_at().map(time_to_wire),
        ended_at: phase.ended_at().map(time_to_wire),
        stripped,
        branch_count: u32::try_from(current.branches.len()).unwrap_or(u32::MAX),
        ..Default::default()
    }
}

fn branch(tx: &Transaction, branch: &Branch, content: Content) -> v1::Branch {
    let (progress, step) = (&branch.progress, &branch.spec.step);
    let (note, resolved_by, resolution_note) = match &progress.phase_two {
        PhaseTwo::Heuristic { note, operator: Some(operator), .. } => {
            (format!("{operator}: {note}"), operator.clone(), note.clone())
        }
        PhaseTwo::Heuristic { note, operator: None, .. } => {
            (note.clone(), String::new(), String::new())
        }
        _ => Default::default(),
    };
    v1::Branch {
        branch_id: branch.spec.branch_id.to_string(),
        branch_number: branch.number.get().into(),
        participant: branch.spec.participant.to_string(),
        action: branch.spec.action.to_string(),
        state: branch_state(branch.state(tx.phase().decision())).into(),
        vote: vote(progress.vote).into(),
        refusal: refusal(progress.refusal.as_ref()),
        output: branch.output.as_ref().filter(|_| content.outputs).and_then(payload_to_wire),
        output_dropped: progress.output_dropped,
        prepare_attempts: attempts(&progress.prepare_attempts),
        phase_two_attempts: attempts(&progress.phase_two_attempts),
        voted_at: progress.voted_at.map(time_to_wire),
        ended_at: progress.ended_at.map(time_to_wire),
        heuristic_note: note,
        payload: content.payloads.then(|| payload_to_wire(&branch.spec.payload)).flatten(),
        mode: mode_to_wire(branch.spec.mode).into(),
        depends_on: step.depends_on.iter().map(ToString::to_string).collect(),
        inputs: step.inputs.iter().map(input).collect(),
        pivot: step.pivot,
        compensation: compensation(branch).into(),
        due_at: tx.due_at(branch).map(time_to_wire),
        child_gid: child_gid(tx, branch),
        resolved_by,
        resolution_note,
        hidden_payload: None,
        hidden_output: None,
    }
}

fn branch_state(state: BranchState) -> v1::BranchState {
    match state {
        BranchState::Waiting => v1::BranchState::Waiting,
        BranchState::Done => v1::BranchState::Done,
        BranchState::Kept => v1::BranchState::Kept,
        BranchState::Enlisted => v1::BranchState::Enlisted,
        BranchState::Preparing => v1::BranchState::Preparing,
        BranchState::Prepared => v1::BranchState::Prepared,
        BranchState::ReadOnly => v1::BranchState::ReadOnly,
        BranchState::Refused => v1::BranchState::Refused,
        BranchState::Committing => v1::BranchState::Committing,
        BranchState::Committed => v1::BranchState::Committed,
        BranchState::Cancelling => v1::BranchState::Cancelling,
        BranchState::Cancelled => v1::BranchState::Cancelled,
        BranchState::Heuristic(HeuristicKind::Commit) => v1::BranchState::HeuristicCommit,
        BranchState::Heuristic(HeuristicKind::Rollback) => v1::BranchState::HeuristicRollback,
        BranchState::Heuristic(HeuristicKind::Hazard) => v1::BranchState::HeuristicHazard,
    }
}

fn attempts(attempts: &Attempts) -> Option<v1::Attempts> {
    let Attempts { count, first_at, last_at, first_error, last_error, .. } = attempts;
    (*count > 0).then(|| v1::Attempts {
        count: *count,
        first_at: Some(time_to_wire(*first_at)),
        last_at: Some(time_to_wire(*last_at)),
        first_error: first_error.clone().unwrap_or_default(),
        last_error: last_error.clone().unwrap_or_default(),
    })
}
