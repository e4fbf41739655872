//! Calls to participants, each in a task of its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use unanimo_core::{Branch, Call, Operation, ParticipantName, PhaseTwoAnswer, PrepareAnswer, TxId};

use super::super::children::{gid_of_child, is_child_of, parent_of_child};
use super::super::live::Live;
use super::super::message::{CallEnd, Message};
use super::super::waiting::{self, WaitingCall, next_kind};
use super::Service;
use crate::participants::breaker::{Pass, Past};
use crate::participants::caller::{self, Caller, End, Failed};
use crate::participants::directory::Entry;

/// Transactions whose waiting calls are sent in one turn of the loop, after their participant came back.
const RETRIES_PER_TURN: usize = 256;

impl Service {
    /// Sends a call, or keeps it until its participant takes it.
    pub(super) fn call(&mut self, tx_id: TxId, call: Call) {
        let Some(live) = self.live.get(&tx_id) else { return };
        let Some(branch) = live.tx.branch(call.number) else { return };
        let name = branch.spec.participant.clone();
        let Some(entry) = self.caller.find(&name).filter(|entry| !entry.is_own()) else {
            return self.send(tx_id, call, false);
        };
        let (kind, now) = (waiting::kind(call.operation), Instant::now());
        let past = live.failing().past(call.number, kind);
        match self.waiting.ask(&name, &entry, kind, past, live.is_adopted, now) {
            Pass::Free => self.send(tx_id, call, false),
            Pass::Probe => self.send(tx_id, call, true),
            Pass::Wait => self.keep(tx_id, call, &name, &entry),
        }
    }

    fn keep(&mut self, tx_id: TxId, call: Call, name: &ParticipantName, entry: &Arc<Entry>) {
        let Some(live) = self.live.get(&tx_id) else { return };
        let past = live.failing().past(call.number, waiting::kind(call.operation));
        let (life, is_adopted) = (live.life, live.is_adopted);
        let is_untried = live.failing().is_untried(call.number);
        let waiting = WaitingCall { tx_id, life, call, past, is_adopted, is_untried };
        self.waiting.push(name, entry, waiting, Instant::now());
        self.note_place(tx_id);
    }

    /// Sets a transaction aside if it waits for nothing but calls that move nothing: they fail, because their
    /// participants do or by themselves, or what is answered has been no progress for long. Takes that back once
    /// it waits for others, or goes on. Until the decision there is a deadline, except where only a pivot's answer
    /// decides.
    fn note_place(&mut self, tx_id: TxId) {
        let Some(live) = self.live.get(&tx_id) else { return };
        let called: Vec<&Branch> =
            live.tx.branches().iter().filter(|branch| branch.is_called()).collect();
        let waits = !called.is_empty() && !live.tx.has_deadline();
        let aside = waits && called.iter().all(|b| self.fails(live, b) || self.waits_long(live, b));
        let (failing, answers): (Vec<&Branch>, Vec<&Branch>) =
            called.into_iter().filter(|_| aside).partition(|branch| self.fails(live, branch));
        let names = |branches: Vec<&Branch>| -> Vec<ParticipantName> {
            branches.iter().map(|branch| branch.spec.participant.clone()).collect()
        };
        let (waited_for, failing) = (names(answers), names(failing));
        let Some(live) = self.live.get_mut(&tx_id) else { return };
        let was_aside = live.is_aside();
        live.set_aside(aside);
        live.hold_shares(&waited_for, &failing);
        if live.is_aside() != was_aside
            && let Some(parent) = live.tx.identity().parent
        {
            self.note_place(parent.tx_id);
        }
    }

    /// Tells whether a branch's calls fail: its participant does, or the branch by itself.
    fn fails(&self, live: &Live, branch: &Branch) -> bool {
        let entry = self.caller.find(&branch.spec.participant);
        let fails = entry.is_some_and(|entry| match entry.is_own() {
            true => self.is_child_aside(live, branch),
            false => entry.breaker(next_kind(branch)).is_open(),
        });
        fails || live.failing().is_by_itself(branch.number)
    }

    /// Tells whether a branch's calls have moved nothing for long. A child waits for participants of its own.
    fn waits_long(&self, live: &Live, branch: &Branch) -> bool {
        let now = Instant::now();
        let next = branch.next_attempt_at().map_or(now, |at| live.clock.moment_of(at).max(now));
        let entry = self.caller.find(&branch.spec.participant);
        !entry.is_some_and(|entry| entry.is_own())
            && live.failing().waits_long(branch.number, next_kind(branch), next)
    }

    /// Tells whether a branch is a child that is set aside.
    fn is_child_aside(&self, parent: &Live, branch: &Branch) -> bool {
        let identity = parent.tx.identity();
        let gid = gid_of_child(identity, &branch.spec.branch_id, branch.number);
        let child = self.by_gid.get(&gid).and_then(|tx_id| self.live.get(tx_id));
        let own = parent_of_child(identity, branch.number);
        child.is_some_and(|child| child.is_aside() && is_child_of(&child.tx, own))
    }

    /// Sends the calls that need not wait any longer.
    pub(super) fn send_waiting(&mut self) {
        for (tx_id, number) in self.take_retries() {
            // A branch without a waiting call stays as it is.
            let input = unanimo_core::Input::Retry { number: Some(number), operator: None };
            let _ = self.apply(tx_id, input);
        }
        let live = &self.live;
        let wanted = |waiting: &WaitingCall| {
            live.get(&waiting.tx_id).is_some_and(|live| waiting.is_awaited(live))
        };
        let caller = &self.caller;
        let due = self.waiting.take_due(Instant::now(), |name| caller.find(name), wanted);
        for (WaitingCall { tx_id, call, .. }, probe) in due {
            self.send(tx_id, call, probe);
        }
    }

    fn take_retries(&mut self) -> Vec<(TxId, unanimo_core::BranchNumber)> {
        let count = self.retries.len().min(RETRIES_PER_TURN);
        self.retries.drain(..count).collect()
    }

    /// Sends the calls of a transaction that wait, because an operator wants it.
    pub(super) fn send_waiting_of(&mut self, tx_id: TxId) {
        let Some(life) = self.live.get(&tx_id).map(|live| live.life) else { return };
        for call in self.waiting.take_of(tx_id, life) {
            self.send(tx_id, call, true);
        }
    }

    /// Sends a call from a task of its own, which reports its end whatever happens.
    fn send(&mut self, tx_id: TxId, call: Call, probe: bool) {
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
        // Its answer is to find it in memory.
        live.parked_until = None;
        let traced = self.traces.sent(&live.tx, branch, call, live.clock);
        let about = caller::BranchCall {
            identity: Arc::clone(live.tx.identity()),
            spec: Arc::clone(&branch.spec),
            number: branch.number,
            output: branch.output.clone(),
            database_id: branch.progress.database_id.clone(),
            attempt: call.attempt,
            inputs: live.tx.inputs_of(branch),
            must_succeed: live.tx.must_succeed(branch),
            output_bytes_max: live.tx.output_bytes_max(branch, policy),
            prepare_until: live.tx.prepare_until(branch, policy),
            cluster_id: Arc::clone(&self.cluster_id),
            timeout,
            full: call_timeout,
            avoid: live.failing().endpoint(call.number).into_iter().collect(),
            probe,
            past: live.failing().past(call.number, waiting::kind(call.operation)),
            traced,
        };
        let report = Report { inbox, tx_id, call, end: None, failed_at: None };
        let task = self.calls.spawn(make_call(self.caller.clone(), about, report));
        if call.operation == Operation::Prepare {
            live.started_prepare(task);
        }
        if live.is_aside() {
            self.note_place(tx_id);
        }
    }

    /// A call has ended, or was not sent after all.
    pub(super) fn call_ended(
        &mut self,
        tx_id: TxId,
        call: Call,
        end: CallEnd,
        failed_at: Option<u64>,
    ) {
        self.waiting.hurry(Instant::now());
        let Some(live) = self.live.get_mut(&tx_id) else { return };
        let Call { number, attempt, operation } = call;
        let awaits = |branch: &Branch| branch.awaits(operation, attempt);
        let awaited =
            live.tx.branch(number).is_some_and(awaits) && !matches!(end, CallEnd::Deferred);
        if awaited {
            live.call_ended(call, end.has_failed(), failed_at);
        }
        let participant = live.tx.branch(number).map(|branch| branch.spec.participant.clone());
        let input = match end {
            CallEnd::Deferred => {
                let Some(branch) = live.tx.branch(number) else { return };
                if branch.awaits(call.operation, attempt) {
                    if !live.is_durable() {
                        return live.hold(vec![call], Vec::new());
                    }
                    let name = branch.spec.participant.clone();
                    match self.caller.find(&name) {
                        Some(entry) => self.keep(tx_id, call, &name, &entry),
                        None => self.send(tx_id, call, false),
                    }
                }
                return;
            }
            CallEnd::Prepare(answer) => {
                self.note_skew(tx_id, number, &answer);
                let answer = self.with_room(tx_id, number, answer);
                unanimo_core::Input::PrepareAnswered { number, attempt, answer }
            }
            CallEnd::PhaseTwo(operation, answer) => {
                unanimo_core::Input::PhaseTwoAnswered { number, operation, attempt, answer }
            }
        };
        // It may have left memory: ended by an operator, or lost.
        let _ = self.apply(tx_id, input);
        if let Some(live) = self.live.get_mut(&tx_id) {
            self.traces.call_ended(&live.tx, call);
            if awaited {
                live.note_progress(call);
            }
            if live.is_aside() || !live.failing().is_empty() || !self.failing.is_empty() {
                self.note_place(tx_id);
            } else {
                live.hold_shares(&[], &[]);
            }
        }
        if let Some(participant) =
            participant.filter(|_| failed_at.is_some() || !self.failing.is_empty())
        {
            self.note_failing(participant);
        }
    }

    /// Notes whether a participant fails. Once it does, all that is owed to it waits together: whatever
    /// tries it next, does so for all.
    fn note_failing(&mut self, participant: ParticipantName) {
        let failing = self.caller.find(&participant).is_some_and(|entry| entry.is_failing());
        if !failing {
            self.failing.remove(&participant);
        } else if self.failing.insert(participant.clone()) {
            self.end_pauses(&[participant]);
        }
    }

    /// Ends the pauses between attempts at participants that came back, or that are called by one attempt
    /// for all: what is owed to them goes little by little. Branches that were answered, and are to be asked
    /// again later, have time.
    pub(super) fn end_pauses(&mut self, names: &[ParticipantName]) {
        let awaited = |branch: &Branch| {
            let name = &branch.spec.participant;
            branch.progress.ended_at.is_none() && names.contains(name)
        };
        for (tx_id, live) in &self.live {
            let branches = live.tx.branches().iter().filter(|branch| awaited(branch));
            let failed = |branch: &&Branch| {
                live.is_adopted
                    || live.failing().past(branch.number, next_kind(branch)) != Past::Good
            };
            let waiting = branches.filter(|b| b.waits_for_its_next_attempt()).filter(failed);
            self.retries.extend(waiting.map(|branch| (*tx_id, branch.number)));
        }
        self.waiting.hurry(Instant::now());
    }
}

/// Reports the end of a call: its answer, or that there is none if its task ends without one.
struct Report {
    inbox: mpsc::UnboundedSender<Message>,
    tx_id: TxId,
    call: Call,
    end: Option<CallEnd>,
    failed_at: Option<u64>,
}

impl Report {
    /// Tells where the yes is, which is about to be told. Without one the branch is not bound to a database:
    /// the participant may get another one, and its Cancel must reach that.
    fn voted_in(&self, database_id: String) {
        if !database_id.is_empty() {
            let (tx_id, number) = (self.tx_id, self.call.number);
            // The engine may have ended.
            let _ = self.inbox.send(Message::Database { tx_id, number, database_id });
        }
    }

    fn ended(&mut self, end: CallEnd, failed_at: Option<u64>) {
        (self.end, self.failed_at) = (Some(end), failed_at);
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let lost = || "the call's task ended without a result".to_owned();
        let end = self.end.take().unwrap_or_else(|| without_answer(self.call.operation, lost()));
        let (tx_id, call, failed_at) = (self.tx_id, self.call, self.failed_at);
        // The engine may have ended.
        let _ = self.inbox.send(Message::CallEnded { tx_id, call, end, failed_at });
    }
}

fn without_answer(operation: Operation, error: String) -> CallEnd {
    match operation {
        Operation::Prepare => CallEnd::Prepare(PrepareAnswer::Failed(error)),
        Operation::PhaseTwo(operation) => {
            CallEnd::PhaseTwo(operation, PhaseTwoAnswer::Failed(error))
        }
    }
}

async fn make_call(caller: Caller, about: caller::BranchCall, mut report: Report) {
    let (identity, spec) = (Arc::clone(&about.identity), Arc::clone(&about.spec));
    let (tx_id, gid, trace) = (identity.tx_id, &identity.gid, || caller.trace_id(&identity));
    let (branch_id, participant) = (&spec.branch_id, &spec.participant);
    let (asked, attempt) = (report.call.operation, report.call.attempt);
    let operation = asked.as_str();
    crash_point!("call-before-send");
    let end = match asked {
        Operation::Prepare => match caller.prepare(about).await {
            End::Answered((answer, database_id)) => {
                if matches!(answer, PrepareAnswer::Prepared(_)) {
                    report.voted_in(database_id);
                }
                Ok(CallEnd::Prepare(answer))
            }
            End::Failed(failed) => Err(failed),
            End::Deferred => Ok(CallEnd::Deferred),
        },
        Operation::PhaseTwo(operation) => match caller.phase_two(operation, about).await {
            End::Answered(answer) => Ok(CallEnd::PhaseTwo(operation, answer)),
            End::Failed(failed) => Err(failed),
            End::Deferred => Ok(CallEnd::Deferred),
        },
    };
    crash_point!("call-after-answer");
    match end {
        Ok(end) => {
            tracing::debug!(
                %tx_id, %gid, trace_id = trace(), %branch_id, %participant, operation, attempt, ?end,
                "the participant answered"
            );
            report.ended(end, None);
        }
        Err(Failed { error, endpoint, url }) => {
            // Where a participant fails, that is told once, and not for each transaction.
            let failing = caller.find(participant).is_some_and(|entry| entry.is_failing());
            let told = attempt.is_power_of_two() && !failing;
            if told && let Some(left_out) = caller.failures().take() {
                tracing::warn!(
                    %tx_id, %gid, trace_id = trace(), %branch_id, %participant, endpoint = url, operation, attempt,
                    error, left_out,
                    "a call to a participant failed; it is sent again if it is still owed"
                );
            } else {
                tracing::debug!(
                    %tx_id, %gid, trace_id = trace(), %branch_id, %participant, endpoint = url, operation, attempt,
                    error,
                    "a call to a participant failed"
                );
            }
            report.ended(without_answer(asked, error), endpoint);
        }
    }
}
