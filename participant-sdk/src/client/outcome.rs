//! Outcomes of transactions.

use std::fmt;

use unanimo_proto::v1;
use unanimo_proto::v1::{AbortCause, Heuristic};

use super::error::Error;
use super::output::Output;
use crate::refusal::Refusal;

/// Conclusion that an initiator may draw. Only the first two are final.
#[derive(Debug)]
#[must_use = "a transaction that is not decided may still commit"]
pub enum Outcome {
    /// Decided, durably: every branch is, or will be, committed.
    Committed(Committed),
    /// Decided, durably: every branch is, or will be, undone.
    Aborted(Aborted),
    /// Neither is known. It goes on by its own rules: ask again with the same call, or make certain with
    /// [`Client::rollback`](super::Client::rollback), whose answer is final. Never conclude that it failed, also
    /// not because [`Client::find`](super::Client::find) finds nothing: the call may still be on its way, and
    /// who starts again under another gid then pays twice.
    NotDecided(NotDecided),
}

/// A transaction that is committed.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The coordinator's name for it.
    pub tx_id: String,
    /// Every branch has ended.
    pub ended: bool,
    /// Deviation of branches from the decision.
    pub heuristic: Heuristic,
    /// Results of its branches, as far as they are known, in the order of enlisting.
    pub branches: Vec<BranchOutcome>,
}

/// A transaction that is aborted.
#[derive(Clone, Debug)]
pub struct Aborted {
    /// The coordinator's name for it.
    pub tx_id: String,
    /// Reason of the abort.
    pub cause: AbortCause,
    /// The branch that the cause speaks of, if any.
    pub branch_id: Option<String>,
    /// Reason of that branch's vote no, if it voted so.
    pub refusal: Option<Refusal>,
    /// One sentence that explains the cause, where there is more to say: for [`AbortCause::Locked`]
    /// the lock, and the transaction that holds it. May be empty.
    pub detail: String,
    /// Every branch has ended.
    pub ended: bool,
    /// Deviation of branches from the decision.
    pub heuristic: Heuristic,
    /// Results of its branches, as far as they are known, in the order of enlisting.
    pub branches: Vec<BranchOutcome>,
}

/// A transaction of which no decision is known.
#[derive(Debug)]
pub struct NotDecided {
    /// The coordinator's name for it, if it was learned.
    pub tx_id: Option<String>,
    /// Failure of the call, if the coordinator gave no answer, or one that is not understood.
    pub error: Option<Error>,
}

/// Result of a branch, as far as it is known.
#[derive(Clone, Debug)]
pub struct BranchOutcome {
    /// The branch.
    pub branch_id: String,
    /// Reason of its vote no, if it voted so.
    pub refusal: Option<Refusal>,
    /// Result of its handler. Empty unless outputs were asked for
    /// ([`Draft::with_outputs`](super::Draft::with_outputs)).
    pub output: Output,
    /// The last error of its calls; on abort this explains a missing vote.
    pub last_error: String,
}

impl Outcome {
    /// Tells whether it is committed.
    #[must_use]
    pub fn is_committed(&self) -> bool {
        matches!(self, Self::Committed(_))
    }

    /// Tells whether it is aborted. Not the opposite of [`Self::is_committed`].
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        matches!(self, Self::Aborted(_))
    }

    /// Returns the deviation of branches from the decision, if there is one: then what was decided is not what
    /// has happened everywhere, and a person has to look at it.
    #[must_use]
    pub fn deviation(&self) -> Option<Heuristic> {
        let heuristic = match self {
            Self::Committed(Committed { heuristic, .. })
            | Self::Aborted(Aborted { heuristic, .. }) => *heuristic,
            Self::NotDecided(_) => return None,
        };
        (heuristic != Heuristic::None).then_some(heuristic)
    }

    /// Reads an answer, or the lack of one.
    pub(super) fn of_answer(
        answer: Result<Option<v1::TransactionResult>, Error>,
        tx_id: Option<&str>,
    ) -> Result<Self, Error> {
        let not_decided =
            |tx_id: Option<String>, error| Self::NotDecided(NotDecided { tx_id, error });
        match answer {
            Ok(Some(result)) => Ok(Self::of_result(result)),
            // It does not exclude that the call had its effect.
            Ok(None) => {
                let error = Error::Answer("it holds no result");
                Ok(not_decided(tx_id.map(str::to_owned), Some(error)))
            }
            Err(error @ Error::Unavailable { .. }) => {
                Ok(not_decided(tx_id.map(str::to_owned), Some(error)))
            }
            Err(error) => Err(error),
        }
    }

    fn of_result(result: v1::TransactionResult) -> Self {
        let (outcome, cause) = (result.outcome(), result.abort_cause());
        // A deviation that is not told, or not known here, needs a person all the same.
        let heuristic = match Heuristic::try_from(result.heuristic) {
            Ok(Heuristic::Unspecified) | Err(_) => Heuristic::Hazard,
            Ok(known) => known,
        };
        let v1::TransactionResult {
            tx_id,
            ended,
            abort_branch_id,
            abort_detail: detail,
            branches,
            ..
        } = result;
        let branches: Vec<_> = branches.into_iter().map(BranchOutcome::of).collect();
        match outcome {
            v1::Outcome::Committed => {
                Self::Committed(Committed { tx_id, ended, heuristic, branches })
            }
            v1::Outcome::Aborted => {
                let branch_id = Some(abort_branch_id).filter(|id| !id.is_empty());
                let of = |id: &String| branches.iter().find(|branch| branch.branch_id == *id);
                let refusal = branch_id.as_ref().and_then(of).and_then(|b| b.refusal.clone());
                Self::Aborted(Aborted {
                    tx_id,
                    cause,
                    branch_id,
                    refusal,
                    detail,
                    ended,
                    heuristic,
                    branches,
                })
            }
            v1::Outcome::NotDecided | v1::Outcome::Unspecified => {
                let tx_id = Some(tx_id).filter(|id| !id.is_empty());
                Self::NotDecided(NotDecided { tx_id, error: None })
            }
        }
    }

    pub(super) fn of_transaction(transaction: v1::Transaction) -> Self {
        let ended = transaction.ended_at.is_some();
        let branches = transaction.branches.into_iter().map(|branch| v1::BranchResult {
            vote: branch.vote,
            last_error: last_error(&branch),
            branch_id: branch.branch_id,
            refusal: branch.refusal,
            output: branch.output,
            output_dropped: branch.output_dropped,
        });
        Self::of_result(v1::TransactionResult {
            tx_id: transaction.tx_id,
            outcome: transaction.outcome,
            ended,
            heuristic: transaction.heuristic,
            abort_cause: transaction.abort_cause,
            abort_branch_id: transaction.abort_branch_id,
            abort_detail: transaction.abort_detail,
            branches: branches.collect(),
        })
    }
}

fn last_error(branch: &v1::Branch) -> String {
    let attempts = [&branch.phase_two_attempts, &branch.prepare_attempts];
    let errors = attempts.into_iter().flatten().map(|attempts| &attempts.last_error);
    errors.into_iter().find(|error| !error.is_empty()).cloned().unwrap_or_default()
}

impl BranchOutcome {
    fn of(result: v1::BranchResult) -> Self {
        Self {
            branch_id: result.branch_id,
            refusal: result.refusal.map(Refusal::from),
            output: Output::new(result.output.unwrap_or_default().into(), result.output_dropped),
            last_error: result.last_error,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Committed(Committed { tx_id, heuristic, .. }) => {
                write!(f, "committed{}", Deviation(*heuristic, tx_id))
            }
            Self::Aborted(aborted) => write!(f, "{aborted}"),
            Self::NotDecided(NotDecided { error: Some(error), .. }) => {
                write!(f, "not decided: {error}")
            }
            Self::NotDecided(_) => f.write_str("not decided yet"),
        }
    }
}

impl fmt::Display for Aborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let branch = self.branch_id.as_deref().unwrap_or("a branch");
        match (self.cause, &self.refusal) {
            (_, Some(refusal)) => {
                write!(f, "aborted: {branch} refused: {} ({})", refusal.message, refusal.reason)?;
            }
            (AbortCause::Deadline, _) => {
                f.write_str("aborted: not every vote was there before the deadline")?;
                let silent = self.branches.iter().find(|branch| !branch.last_error.is_empty());
                if let Some(branch) = silent {
                    write!(f, " ({}: {})", branch.branch_id, branch.last_error)?;
                }
            }
            (AbortCause::Rollback, _) => f.write_str("aborted: its initiator rolled it back")?,
            (AbortCause::Unlisted, _) => write!(f, "aborted: {branch} was not listed")?,
            (AbortCause::NoVote, _) => write!(f, "aborted: {branch} was listed without a vote")?,
            (AbortCause::GaveUp, _) => {
                write!(f, "aborted: {branch} did not vote within the bounds of its attempts")?;
            }
            (AbortCause::OutputDropped, _) => {
                write!(
                    f,
                    "aborted: the output of {branch} is over a limit, and another branch needs it"
                )?;
            }
            (AbortCause::Locked, _) => f.write_str("aborted: a lock was not had in time")?,
            (AbortCause::Parent, _) => f.write_str("aborted: its parent was aborted")?,
            (AbortCause::Unspecified | AbortCause::Refused, _) => f.write_str("aborted")?,
        }
        match &*self.detail {
            "" => {}
            detail => write!(f, "; {detail}")?,
        }
        write!(f, "{}", Deviation(self.heuristic, &self.tx_id))
    }
}

/// Clause behind a decision that was not followed everywhere.
struct Deviation<'a>(Heuristic, &'a str);

impl fmt::Display for Deviation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(heuristic, tx_id) = self;
        let what = match heuristic {
            Heuristic::None => return Ok(()),
            Heuristic::Mixed => "but a branch has ended against the decision (MIXED)",
            Heuristic::Hazard | Heuristic::Unspecified => {
                "but how a branch has ended is not certain (HAZARD)"
            }
        };
        write!(f, ", {what}: see `unanimo tx show {tx_id}`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s11_an_outcome_is_never_shown_without_its_deviation() {
        let result = |outcome: v1::Outcome, heuristic: i32| {
            let branches = vec![v1::BranchResult { branch_id: "a".into(), ..Default::default() }];
            let (tx_id, outcome) = ("tx-7".to_owned(), outcome.into());
            let abort_cause = AbortCause::Rollback.into();
            Outcome::of_result(v1::TransactionResult {
                tx_id,
                outcome,
                heuristic,
                abort_cause,
                branches,
                ..Default::default()
            })
        };
        let shown = "see `unanimo tx show tx-7`";
        for (heuristic, deviation, word) in [
            (Heuristic::None.into(), None, ""),
            (Heuristic::Mixed.into(), Some(Heuristic::Mixed), "(MIXED)"),
            (Heuristic::Hazard.into(), Some(Heuristic::Hazard), "(HAZARD)"),
            (Heuristic::Unspecified.into(), Some(Heuristic::Hazard), "(HAZARD)"),
            // One of a later version.
            (99, Some(Heuristic::Hazard), "(HAZARD)"),
        ] {
            for (decided, begins) in [
                (v1::Outcome::Committed, "committed"),
                (v1::Outcome::Aborted, "aborted: its initiator rolled it back"),
            ] {
                let outcome = result(decided, heuristic);
                assert_eq!(outcome.deviation(), deviation);
                let text = outcome.to_string();
                let rest = text.strip_prefix(begins).unwrap_or_else(|| panic!("{text}"));
                assert!(rest.contains(word) && rest.is_empty() == word.is_empty(), "{text}");
                assert_eq!(text.contains(shown), deviation.is_some(), "{text}");
            }
        }
        let not_decided = result(v1::Outcome::NotDecided, Heuristic::Mixed.into());
        assert_eq!(not_decided.deviation(), None);
        assert_eq!(not_decided.to_string(), "not decided yet");
    }
}
