//! Acts on many transactions: which ones each is for, what it does, and the calls for one of them.

use unanimo_proto::v1::{self, BranchState, TransactionState as State};

use super::super::client::{self, Client};
use super::super::operate::retry::not_sent;
use super::super::words;
use super::{Done, patiently};
use crate::output::{clean, wrapped};

/// Act, with all that it is told.
#[derive(Clone, Copy, Debug)]
pub(in crate::tx) enum Act {
    /// Send the waiting calls.
    Retry,
    /// End each branch at one participant that waits for it.
    Resolve(v1::Resolution),
    /// Clear the alarm of those that have ended.
    Forget { released: bool },
}

/// Operator and reason, for the history and the audit.
#[derive(Clone, Debug)]
pub(in crate::tx) struct By {
    pub(in crate::tx) operator: String,
    pub(in crate::tx) note: String,
}

impl Act {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Resolve(_) => "resolve",
            Self::Forget { .. } => "forget",
        }
    }

    pub(super) fn is_retry(self) -> bool {
        matches!(self, Self::Retry)
    }

    pub(super) fn is_resolve(self) -> bool {
        matches!(self, Self::Resolve(_))
    }

    /// Returns the states of the transactions that it is for. The end of a branch may be the decision of its transaction: so
    /// many are not resolved before they are decided.
    fn states(self) -> &'static [State] {
        match self {
            Self::Retry => &[State::Active, State::Committing, State::Aborting],
            Self::Resolve(_) => &[State::Committing, State::Aborting],
            Self::Forget { .. } => &[State::Committed, State::Aborted],
        }
    }

    /// Asks for no other transactions than those that it is for.
    pub(super) fn narrow(
        self,
        request: &mut v1::ListTransactionsRequest,
    ) -> Result<(), client::Error> {
        let states: Vec<i32> = self.states().iter().map(|state| i32::from(*state)).collect();
        if request.states.iter().any(|state| !states.contains(state)) {
            let names: Vec<_> = self.states().iter().map(|state| words::state(*state)).collect();
            let why = format!(
                "`tx {} --all` is for transactions in these states alone: {}",
                self.name(),
                names.join(", ")
            );
            return Err(client::Error::Lacks(why));
        }
        if request.states.is_empty() {
            request.states = states;
        }
        request.attention |= matches!(self, Self::Forget { .. });
        Ok(())
    }

    /// Tells whether it is for a transaction of the list.
    pub(super) fn is_for(self, tx: &v1::Transaction) -> bool {
        match self {
            Self::Retry | Self::Resolve(_) => true,
            Self::Forget { .. } => tx.ended_at.is_some() && words::deviates(tx.heuristic),
        }
    }

    /// Tells what it will do to so many transactions.
    pub(super) fn says(self, count: usize, participant: &str, pace: u32) -> String {
        let them = match count {
            1 => "1 transaction".to_owned(),
            count => format!("{count} transactions"),
        };
        let participant = clean(participant);
        let text = match self {
            Self::Retry => format!(
                "retry {them}: every call that waits is sent now, before its next retry. No decision changes."
            ),
            Self::Resolve(resolution) => format!(
                "resolve as {} each branch of {participant} that waits for it, in {them}. {participant} is told nothing \
                 more of them, and may still hold what it had prepared or reserved. The decisions do not change; the \
                 transactions become heuristic. It cannot be undone.",
                resolved_as(resolution)
            ),
            Self::Forget { released } => format!(
                "forget {them}: their alarms are cleared. Do this when the data of all participants is right again. {}",
                match released {
                    true =>
                        "You say that somebody has looked: the participants hold nothing more of them.",
                    false =>
                        "Those of which an operator has resolved a branch are refused, without --released.",
                }
            ),
        };
        wrapped(0, &format!("{text} At most {pace} a second, each with an entry in the audit."))
    }

    /// Acts on one transaction, and tells whether there was anything to do.
    pub(super) async fn on(
        self,
        client: &mut Client,
        by: &By,
        tx_id: &str,
        participant: &str,
    ) -> Result<bool, client::Error> {
        match self {
            Self::Retry => retry(client, by, tx_id).await,
            Self::Resolve(resolution) => resolve(client, by, tx_id, participant, resolution).await,
            Self::Forget { released } => forget(client, by, tx_id, released).await,
        }
    }

    /// Tells what came of it.
    pub(super) fn told(self, came: Done) -> String {
        let Done { matched, done, nothing_due, failed, unreadable, left, dry_run, .. } = came;
        let unreadable = match unreadable {
            0 => String::new(),
            number => format!("; {number} more cannot be read"),
        };
        let would = match self {
            Self::Retry => "retried",
            Self::Resolve(_) => {
                "looked at, and have branches of the participant resolved that wait for it"
            }
            Self::Forget { .. } => "forgotten",
        };
        if dry_run {
            return format!("{matched} transactions would be {would}{unreadable}\n");
        }
        let what = match self {
            Self::Retry => format!("calls of {done} were sent, of {nothing_due} none was due"),
            Self::Resolve(_) => {
                format!("branches of {done} were resolved, of {nothing_due} none waited")
            }
            Self::Forget { .. } => format!("{done} were forgotten"),
        };
        let left = if left == 0 { String::new() } else { format!(", {left} were not tried") };
        format!("{matched} transactions: {what}, {failed} failed{left}{unreadable}\n")
    }
}

/// Returns a resolution as `--as` has it.
fn resolved_as(resolution: v1::Resolution) -> &'static str {
    match resolution {
        v1::Resolution::Committed => "committed",
        v1::Resolution::RolledBack => "rolled-back",
        v1::Resolution::Hazard | v1::Resolution::Unspecified => "hazard",
    }
}

/// Sends the waiting calls of one transaction, and tells whether there were any.
async fn retry(client: &mut Client, by: &By, tx_id: &str) -> Result<bool, client::Error> {
    let answer = patiently(async || {
        let request = client.request(v1::RetryTransactionRequest {
            tx_id: tx_id.to_owned(),
            operator: by.operator.clone(),
            note: by.note.clone(),
            requires: vec!["retry_note".to_owned()],
            ..Default::default()
        });
        Ok(client.operator.retry_transaction(request).await?.into_inner())
    });
    Ok(answer.await?.transaction.is_some_and(|tx| not_sent(&tx, "").is_none()))
}

/// Resolves every branch of a participant that was called and has not ended. One that is refused does not keep the others
/// from it.
async fn resolve(
    client: &mut Client,
    by: &By,
    tx_id: &str,
    participant: &str,
    resolution: v1::Resolution,
) -> Result<bool, client::Error> {
    let found = patiently(async || {
        let request = client.request(v1::GetTransactionRequest {
            key: Some(v1::get_transaction_request::Key::TxId(tx_id.to_owned())),
            ..Default::default()
        });
        let found = client.coordinator.get_transaction(request).await?.into_inner();
        found.transaction.ok_or(client::Error::Nonsense("it has no transaction"))
    });
    let tx = found.await?;
    let owed = tx.branches.iter().filter(|of| of.participant == participant && waits(of));
    let owed: Vec<_> = owed.map(|of| of.branch_id.clone()).collect();
    if tx.decided_at.is_none() || owed.is_empty() {
        return Ok(false);
    }
    let mut refused = None;
    for branch_id in owed {
        let answer = patiently(async || {
            let request = client.request(v1::ResolveBranchRequest {
                tx_id: tx_id.to_owned(),
                branch_id: branch_id.clone(),
                resolution: resolution.into(),
                operator: by.operator.clone(),
                note: by.note.clone(),
                ..Default::default()
            });
            Ok(client.operator.resolve_branch(request).await?)
        });
        match answer.await {
            Ok(_) => {}
            Err(error) if error.is_of_one() => {
                refused.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    refused.map_or(Ok(true), Err)
}

/// Tells whether a branch waits for its participant, which was called.
fn waits(branch: &v1::Branch) -> bool {
    let is_owed = matches!(
        branch.state(),
        BranchState::Preparing | BranchState::Committing | BranchState::Cancelling
    );
    let attempts = [&branch.prepare_attempts, &branch.phase_two_attempts];
    let is_called = attempts.into_iter().flatten().any(|attempts| attempts.count > 0);
    is_owed && is_called && branch.ended_at.is_none()
}

async fn forget(
    client: &mut Client,
    by: &By,
    tx_id: &str,
    released: bool,
) -> Result<bool, client::Error> {
    let answer = patiently(async || {
        let request = client.request(v1::ForgetTransactionRequest {
            tx_id: tx_id.to_owned(),
            operator: by.operator.clone(),
            note: by.note.clone(),
            released: Some(released),
            ..Default::default()
        });
        Ok(client.operator.forget_transaction(request).await?)
    });
    answer.await.map(|_| true)
}
