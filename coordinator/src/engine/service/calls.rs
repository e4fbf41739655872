//! Calls to participants, each in a task of its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use unanimo_core::{Call, Operation, PhaseTwoAnswer, PrepareAnswer, TxId};

use super::super::message::{CallEnd, Message};
use super::Service;
use crate::participants::caller::{self, Caller};

impl Service {
    /// Sends a call from a task of its own, which reports its end whatever happens.
    pub(super) fn call(&mut self, tx_id: TxId, call: Call) {
        let (Some(live), Some(inbox)) = (self.live.get_mut(&tx_id), self.own.upgrade()) else {
            return;
        };
        let Some(branch) = live.tx.branch(call.number) else { return };
        let policy = &self.options.policy;
        let call_timeout = self.options.call_timeout;
        let timeout = match call.operation {
            Operation::Prepare => {
                let timeout = branch.spec.step.attempt_timeout.unwrap_or(call_timeout);
                let timeout = timeout.min(call_timeout);
                // Nobody waits for a vote past the deadline, where there is one.
                match live.tx.prepare_until(branch, policy) {
                    Some(_) => {
                        let left = live.clock.now().until(live.tx.deadline());
                        timeout.min(left.max(Duration::from_millis(1)))
                    }
                    None => timeout,
                }
            }
            Operation::PhaseTwo(_) => call_timeout,
        };
        let about = caller::BranchCall {
            identity: Arc::clone(live.tx.identity()),
            spec: Arc::clone(&branch.spec),
            number: branch.number,
            output: branch.output.clone(),
            attempt: call.attempt,
            inputs: live.tx.inputs_of(branch),
            must_succeed: live.tx.must_succeed(branch),
            output_bytes_max: live.tx.output_bytes_max(branch, policy),
            prepare_until: live.tx.prepare_until(branch, policy),
            cluster_id: Arc::clone(&self.cluster_id),
            timeout,
            endpoint: Arc::default(),
        };
        let report = Report { inbox, tx_id, call, end: None };
        let task = tokio::spawn(make_call(self.caller.clone(), about, report));
        if call.operation == Operation::Prepare {
            live.started_prepare(task.abort_handle());
        }
    }
}

/// Reports the end of a call: its answer, or that there is none if its task ends without one.
struct Report {
    inbox: mpsc::UnboundedSender<Message>,
    tx_id: TxId,
    call: Call,
    end: Option<CallEnd>,
}

impl Drop for Report {
    fn drop(&mut self) {
        let Call { number, operation, attempt } = self.call;
        let lost = || "the call's task ended without a result".to_owned();
        let end = self.end.take().unwrap_or_else(|| match operation {
            Operation::Prepare => CallEnd::Prepare(PrepareAnswer::Failed(lost())),
            Operation::PhaseTwo(operation) => {
                CallEnd::PhaseTwo(operation, PhaseTwoAnswer::Failed(lost()))
            }
        });
        // The engine may have ended.
        let _ = self.inbox.send(Message::CallEnded { tx_id: self.tx_id, number, attempt, end });
    }
}

async fn make_call(caller: Caller, about: caller::BranchCall, mut report: Report) {
    let (tx_id, gid, branch_id) =
        (about.identity.tx_id, about.identity.gid.clone(), about.spec.branch_id.clone());
    let participant = about.spec.participant.clone();
    let called = Arc::clone(&about.endpoint);
    let operation = report.call.operation;
    crash_point!("call-before-send");
    let (end, failure) = match operation {
        Operation::Prepare => {
            let answer = caller.prepare(about).await;
            let failure = match &answer {
                PrepareAnswer::Failed(error) => Some(error.clone()),
                _ => None,
            };
            (CallEnd::Prepare(answer), failure)
        }
        Operation::PhaseTwo(operation) => {
            let answer = caller.phase_two(operation, about).await;
            let failure = match &answer {
                PhaseTwoAnswer::Failed(error) => Some(error.clone()),
                _ => None,
            };
            (CallEnd::PhaseTwo(operation, answer), failure)
        }
    };
    crash_point!("call-after-answer");
    let (operation, attempt) = (operation.as_str(), report.call.attempt);
    let endpoint = called.get().map_or("", String::as_str);
    match failure {
        Some(error) if attempt.is_power_of_two() => {
            tracing::warn!(
                %tx_id, %gid, %branch_id, %participant, endpoint, operation, attempt, error,
                "a call to a participant failed; it is sent again if it is still owed"
            );
        }
        Some(error) => {
            tracing::debug!(
                %tx_id, %gid, %branch_id, %participant, endpoint, operation, attempt, error,
                "a call to a participant failed"
            );
        }
        None => tracing::debug!(
            %tx_id, %gid, %branch_id, %participant, endpoint, operation, attempt, ?end,
            "the participant answered"
        ),
    }
    report.end = Some(end);
}
