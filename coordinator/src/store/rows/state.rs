//! Columns of a transaction's state.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use unanimo_core::{AbortCause, Decision, Heuristic, Phase, Progress, State, Timestamp};

use super::super::{Error, PhaseName};
use super::{
    TransactionRow, corrupt, ms_from_column, ms_to_column, not_our_json, number_from_column,
    number_to_column, progress, to_json,
};

/// A transaction's state, spread over columns.
#[derive(Debug)]
pub(in crate::store) struct StateColumns {
    pub(in crate::store) phase: Cow<'static, str>,
    pub(in crate::store) abort_cause: Option<Cow<'static, str>>,
    pub(in crate::store) abort_branch: Option<i16>,
    pub(in crate::store) decided_ms: Option<i64>,
    pub(in crate::store) ended_ms: Option<i64>,
    pub(in crate::store) heuristic: Cow<'static, str>,
    pub(in crate::store) stalled: bool,
    pub(in crate::store) forgotten: bool,
    pub(in crate::store) attention: bool,
    pub(super) alarms: Alarms,
    pub(super) progress: progress::Column,
    pub(in crate::store) more: String,
    pub(in crate::store) wake_ms: Option<i64>,
}

/// Alarms of some branch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alarms {
    pub(super) refused: bool,
    pub(super) too_large: bool,
}

impl Alarms {
    fn of(branches: &[Progress]) -> Self {
        Self {
            refused: branches.iter().any(|branch| branch.refused_after_commit),
            too_large: branches.iter().any(|branch| branch.output_too_large),
        }
    }
}

/// The part of the state that few transactions have, in one column: JSON, or empty for nothing of it.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct More {
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    abort_detail: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    quiet: bool,
}

impl More {
    fn to_column(state: &State) -> String {
        let State { started_at, abort_detail, quiet, .. } = state;
        if started_at.is_none() && abort_detail.is_none() && !quiet {
            return String::new();
        }
        let (started_at, abort_detail) = (*started_at, abort_detail.clone());
        to_json(&Self { started_at, abort_detail, quiet: *quiet })
    }

    fn from_column(json: &str) -> Result<Self, Error> {
        if json.is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_str(json).map_err(not_our_json("transactions.more"))
    }
}

impl StateColumns {
    pub(in crate::store) fn of(state: &State) -> Self {
        let (abort_cause, abort_branch) = match state.phase.decision() {
            Some(Decision::Abort(cause)) => {
                (Some(cause.name().into()), cause.number().map(number_to_column))
            }
            Some(Decision::Commit) | None => (None, None),
        };
        Self {
            phase: PhaseName::of(state.phase).as_str().into(),
            abort_cause,
            abort_branch,
            decided_ms: decided_at(state.phase).map(ms_to_column),
            ended_ms: state.phase.ended_at().map(ms_to_column),
            heuristic: Cow::Borrowed(match state.heuristic {
                Heuristic::None => "none",
                Heuristic::Mixed => "mixed",
                Heuristic::Hazard => "hazard",
            }),
            stalled: state.stalled,
            forgotten: state.forgotten,
            attention: state.attention(),
            alarms: Alarms::of(&state.branches),
            progress: progress::Column::of(&state.branches),
            more: More::to_column(state),
            wake_ms: state.wake_at.map(ms_to_column),
        }
    }
}

impl TransactionRow {
    pub(super) fn state_columns(&self) -> StateColumns {
        // What cannot be read is set aside, and shown to a person for that.
        let alarms = Alarms::of(&self.progress.read().unwrap_or_default());
        let is_held_up =
            self.ended_ms.is_none() && (self.stalled || alarms.refused || alarms.too_large);
        StateColumns {
            phase: self.phase.clone().into(),
            abort_cause: self.abort_cause.clone().map(Cow::Owned),
            abort_branch: self.abort_branch,
            decided_ms: self.decided_ms,
            ended_ms: self.ended_ms,
            heuristic: self.heuristic.clone().into(),
            stalled: self.stalled,
            forgotten: self.forgotten,
            attention: is_held_up || (self.heuristic != "none" && !self.forgotten),
            alarms,
            progress: self.progress.clone().renewed(),
            more: self.more.clone(),
            wake_ms: self.wake_ms,
        }
    }

    pub(super) fn state(&self) -> Result<State, Error> {
        let More { started_at, abort_detail, quiet } = More::from_column(&self.more)?;
        Ok(State {
            phase: self.phase()?,
            heuristic: match self.heuristic.as_str() {
                "none" => Heuristic::None,
                "mixed" => Heuristic::Mixed,
                "hazard" => Heuristic::Hazard,
                other => return Err(corrupt("transactions.heuristic", other)),
            },
            stalled: self.stalled,
            forgotten: self.forgotten,
            started_at,
            abort_detail,
            wake_at: self.wake_ms.map(ms_from_column),
            quiet,
            branches: self.progress.read()?,
        })
    }

    fn phase(&self) -> Result<Phase, Error> {
        let at =
            |ms: Option<i64>, what| ms.map(ms_from_column).ok_or_else(|| corrupt(what, "NULL"));
        let (decision, ended) = match self.phase.as_str() {
            "scheduled" => return Ok(Phase::Scheduled),
            "active" => return Ok(Phase::Active),
            "in_doubt" => {
                return Ok(Phase::InDoubt { at: at(self.decided_ms, "transactions.decided_ms")? });
            }
            "committing" => (Decision::Commit, false),
            "committed" => (Decision::Commit, true),
            "aborting" => (Decision::Abort(self.cause()?), false),
            "aborted" => (Decision::Abort(self.cause()?), true),
            other => return Err(corrupt("transactions.phase", other)),
        };
        let decided_at = at(self.decided_ms, "transactions.decided_ms")?;
        if !ended {
            return Ok(Phase::Decided { decision, at: decided_at });
        }
        let at = at(self.ended_ms, "transactions.ended_ms")?;
        Ok(Phase::Ended { decision, decided_at, at })
    }

    fn cause(&self) -> Result<AbortCause, Error> {
        let branch = || {
            const WHAT: &str = "transactions.abort_branch";
            let number = self.abort_branch.ok_or_else(|| corrupt(WHAT, "NULL"))?;
            number_from_column(number, WHAT)
        };
        match self.abort_cause.as_deref() {
            Some("refused") => Ok(AbortCause::Refused(branch()?)),
            Some("deadline") => Ok(AbortCause::Deadline),
            Some("rollback") => Ok(AbortCause::Rollback),
            Some("unlisted") => Ok(AbortCause::Unlisted(branch()?)),
            Some("no_vote") => Ok(AbortCause::NoVote(branch()?)),
            Some("gave_up") => Ok(AbortCause::GaveUp(branch()?)),
            Some("output_dropped") => Ok(AbortCause::OutputDropped(branch()?)),
            Some("locked") if self.abort_branch.is_none() => Ok(AbortCause::Locked(None)),
            Some("locked") => Ok(AbortCause::Locked(Some(branch()?))),
            Some("parent") => Ok(AbortCause::Parent),
            other => Err(corrupt("transactions.abort_cause", other.unwrap_or("NULL"))),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// The column is also the time since when a child waits for its parent's decision.
fn decided_at(phase: Phase) -> Option<Timestamp> {
    match phase {
        Phase::InDoubt { at } => Some(at),
        other => other.decided_at(),
    }
}
