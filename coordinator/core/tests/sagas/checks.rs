//! Checks of the coordinator's side: of what is durable, of what leaves, and that nothing that is
//! owed is forgotten. They know the plan, and share no code with the state machine.

use std::time::Duration;

use unanimo_core::{
    AbortCause, Branch, Decision, Enlistment, HeuristicKind, LockName, Mode, Operation, Phase,
    PhaseTwoOperation, Timestamp, Vote,
};

use crate::life::{Life, number};
use crate::participants::Prepare;
use crate::plan::Shape;

/// No pause between two attempts is longer.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// No pause between two requests for locks is longer.
const LOCK_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Longest time in which late starts are spread.
const SPREAD_MAX: Duration = Duration::from_secs(30);

impl Life {
    pub(crate) fn starts_at(&self) -> Timestamp {
        self.began.after(Duration::from_millis(self.plan.start_ms.unwrap_or(0)))
    }

    fn started_at(&self) -> Timestamp {
        self.tx.started_at().unwrap_or(self.began)
    }

    /// When ABORT is decided at the latest.
    pub(crate) fn deadline(&self) -> Timestamp {
        let start = self.started_at().max(self.starts_at());
        start.after(Duration::from_millis(self.plan.timeout_ms))
    }

    /// S2 and S4, of what is durable.
    pub(crate) fn check_durable(&mut self) {
        let phase = self.durable_phase();
        if let Some(before) = self.decided {
            assert_eq!(phase.decision(), Some(before), "S4: the decision changed");
        }
        self.decided = phase.decision();
        assert!(!self.ended || phase.ended_at().is_some(), "S4: an ended transaction came back");
        self.ended |= phase.ended_at().is_some();
        self.in_doubt |= matches!(phase, Phase::InDoubt { .. });
        match phase.decision() {
            Some(Decision::Commit) => self.check_commit(),
            Some(Decision::Abort(_)) if self.in_doubt => {
                let parent = self.parent;
                assert_eq!(parent, Some(PhaseTwoOperation::Cancel), "in doubt, the parent decides");
            }
            _ => {}
        }
        if let Some(pivot) = self.order.pivot
            && matches!(phase.decision(), Some(Decision::Abort(_)))
            && self.pivot_sent
        {
            let row = &self.participants.rows[pivot];
            let said = row.said.contains(&HeuristicKind::Rollback);
            let refused = row.vote == Some(Vote::Refused) || said;
            assert!(refused, "the pivot was sent: only its no, or a word for it, is an ABORT");
        }
    }

    fn check_commit(&self) {
        if self.is_child() {
            assert_eq!(self.parent, Some(PhaseTwoOperation::Commit), "a child committed by itself");
        }
        let stored = &self.journal.durable.0;
        for (at, progress) in stored.state.branches.iter().enumerate() {
            if self.order.is_after_pivot(at) {
                continue;
            }
            let row = &self.participants.rows[at];
            let said = row.said.contains(&HeuristicKind::Commit);
            if said && self.order.pivot == Some(at) && progress.vote.is_none() {
                continue;
            }
            assert!(row.said_yes(), "S2: COMMIT, and {at} never said yes");
            assert!(progress.vote.is_some_and(Vote::is_yes), "S2: the vote of {at} is not durable");
        }
    }

    pub(crate) fn check_prepare_sent(&mut self, prepare: &Prepare) {
        let at = prepare.at;
        let stored = &self.journal.durable.0;
        assert!(at < stored.branches.len(), "S6: {at} is sent, and not durable");
        assert!(self.now >= self.starts_at(), "{at} is sent before the start");
        assert!(stored.state.phase != Phase::Scheduled, "{at} is sent, and the start not durable");
        let after_pivot = self.order.is_after_pivot(at);
        assert_eq!(prepare.must_succeed, after_pivot, "must_succeed of {at}");
        let decision = stored.state.phase.decision();
        if after_pivot {
            assert_eq!(decision, Some(Decision::Commit), "S3: {at} is sent before COMMIT");
        } else {
            assert_eq!(decision, None, "{at} is sent after the decision");
        }
        let limit = self.deadline().after(self.policy.clock_skew);
        let limit = self.order.may_be_undone(at).then_some(limit);
        assert_eq!(prepare.prepare_until, limit, "prepare_until of {at}");
        self.check_ready(at);
        self.check_inputs(prepare);
        if self.order.pivot == Some(at) {
            assert!(stored.state.branches[at].released, "the pivot's release is not durable");
            self.pivot_sent = true;
        }
    }

    pub(crate) fn reads(&self, at: usize, before: usize) -> bool {
        let id = &self.specs[before].branch_id;
        self.specs[at].step.inputs.iter().any(|input| input.branch_id == *id)
    }

    /// Nothing that a step reads is left out, but what an operator has said not to be done.
    fn check_inputs(&self, prepare: &Prepare) {
        let at = prepare.at;
        for before in (0..self.specs.len()).filter(|before| self.reads(at, *before)) {
            let row = &self.participants.rows[before];
            let is_given = prepare.inputs.iter().any(|(name, _)| *name == format!("of_{before}"));
            let not_done = row.said.iter().any(|kind| *kind != HeuristicKind::Commit);
            assert!(is_given || row.by_initiator || not_done, "{at} is sent without {before}");
        }
    }

    fn check_ready(&self, at: usize) {
        let step = &self.specs[at].step;
        let mut ready = self.started_at();
        for before in (0..self.order.depends.len()).filter(|b| self.order.depends[at][*b]) {
            let row = &self.participants.rows[before];
            let over = row.said_yes() || row.by_initiator || row.by_word;
            assert!(over, "{at} is sent before the vote of {before}");
            let counts = row.said_yes() && !row.by_initiator && !row.by_word;
            if self.order.named[at].contains(&before) && counts {
                ready = ready.max(row.voted_at);
            }
        }
        let ready = step.delay.map_or(ready, |delay| ready.after(delay));
        assert!(self.now >= ready, "{at} is sent before its delay is over");
        assert!(step.start_at.is_none_or(|start| self.now >= start), "{at} is sent too early");
        let has = |owner: Option<usize>| self.locked.contains(&owner);
        assert!(step.locks.is_empty() || has(Some(at)), "{at} is sent without its locks");
        let own = &self.tx.identity().locks;
        assert!(own.is_empty() || has(None), "{at} is sent without the transaction's locks");
    }

    pub(crate) fn check_phase_two_sent(&self, at: usize, operation: Operation) {
        let decision = self.durable_phase().decision();
        match (operation, decision) {
            (Operation::PhaseTwo(PhaseTwoOperation::Commit), Some(Decision::Commit))
            | (Operation::PhaseTwo(PhaseTwoOperation::Cancel), Some(Decision::Abort(_))) => {}
            _ => panic!("S3: {operation:?} is sent to {at}, and durable is {decision:?}"),
        }
    }

    /// Whatever is owed is under way, or has a time, or waits for something that is named here.
    pub(crate) fn check(&self) {
        let wake = self.tx.wake_at(&self.policy);
        let phase = self.tx.phase();
        match phase {
            Phase::Scheduled => {
                assert!(
                    wake.is_some_and(|at| at <= self.now.max(self.starts_at()).after(PAUSE_MAX))
                );
            }
            Phase::Active if !self.pivot_is_released() => {
                assert!(wake.is_some_and(|at| at <= self.deadline()), "no deadline: {wake:?}");
            }
            Phase::InDoubt { .. } => assert_eq!(wake, None, "a child in doubt waits for no time"),
            Phase::Ended { .. } => assert_eq!(wake, None, "an ended transaction waits"),
            Phase::Active | Phase::Decided { .. } => {}
        }
        if let Some(sleeps) = self.tx.sleeps_until() {
            assert!(
                wake.is_some_and(|wake| sleeps <= wake),
                "sleeps until {sleeps:?}, due {wake:?}"
            );
        }
        for at in 0..self.tx.branches().len() {
            self.check_branch(at, wake);
        }
    }

    /// A transaction that is told that an older one stands in the way gives up once it has waited for so long as it may,
    /// since its first request that is on record, and never before, but if an older one waits for what it holds.
    pub(crate) fn check_wait(&mut self, owner: Option<usize>, lock: &LockName, told: [bool; 2]) {
        let [older, blocks_older] = told;
        let version = number(self.tx.version());
        let since = match owner {
            None => self.started_at(),
            Some(_) => {
                let asked = self.asked_in_life[&owner];
                self.waits.entry(owner).or_insert((asked, version)).0
            }
        };
        let wait_max = self.locks_of(owner).iter().find(|own| own.name == *lock).unwrap().wait_max;
        let gave_up = match self.tx.phase().decision() {
            Some(Decision::Abort(AbortCause::Locked(_))) => true,
            decision => {
                assert_eq!(decision, None, "a lock that is not had decides {decision:?}");
                false
            }
        };
        let first = self.asked[&owner];
        assert!(
            !gave_up || (older && (blocks_older || self.now >= first.after(wait_max))),
            "{owner:?} asked at {first:?}, and gave up at {:?}, told older: {older}",
            self.now
        );
        let is_over = blocks_older || self.now >= since.after(wait_max);
        let must = older && is_over && !self.pivot_is_released();
        assert!(gave_up || !must, "{owner:?} waits since {since:?} at {:?}", self.now);
    }

    pub(crate) fn pivot_is_released(&self) -> bool {
        self.order.pivot.is_some_and(|pivot| self.tx.branches()[pivot].progress.released)
    }

    /// The branch waited for its time, and may have missed it in a stop.
    fn may_be_late(&self, at: usize) -> bool {
        let branch = &self.tx.branches()[at];
        let step = &branch.spec.step;
        let waited = step.delay.is_some() || step.start_at.is_some();
        waited && branch.progress.prepare_attempts.count == 0
    }

    fn check_branch(&self, at: usize, wake: Option<Timestamp>) {
        let branch = &self.tx.branches()[at];
        let phase = self.tx.phase();
        let votes = branch.enlistment == Enlistment::Coordinator && branch.progress.vote.is_none();
        let operation = match phase.decision() {
            Some(decision) if branch.is_owed() => Operation::PhaseTwo(decision.operation()),
            Some(Decision::Commit) if votes && branch.progress.ended_at.is_none() => {
                Operation::Prepare
            }
            None if votes && phase == Phase::Active => Operation::Prepare,
            _ => return,
        };
        if self.is_under_way(at, operation) {
            return;
        }
        let within = |limit: Timestamp| {
            assert!(
                wake.is_some_and(|wake| wake <= limit),
                "{operation:?} of {at} is owed and not under way: wakes at {wake:?}, not by {limit:?}"
            );
        };
        match operation {
            Operation::Prepare => match self.ready_at(at) {
                Ready::Waits => {}
                Ready::Locks(owner) if self.lock_is_under_way(owner) => {}
                Ready::Locks(_) => within(self.now.after(LOCK_PAUSE_MAX)),
                // What was late when a clock was ahead is spread, and does not start at once.
                Ready::At(ready) if self.may_be_late(at) => {
                    within(ready.max(self.now.after(SPREAD_MAX)));
                }
                Ready::At(ready) if ready > self.now => within(ready),
                Ready::At(_) => within(self.now.after(PAUSE_MAX)),
            },
            Operation::PhaseTwo(PhaseTwoOperation::Cancel) if self.is_held_by_a_dependant(at) => {}
            Operation::PhaseTwo(_) => within(self.now.after(PAUSE_MAX)),
        }
    }

    fn is_held_by_a_dependant(&self, at: usize) -> bool {
        let open = |branch: &Branch| branch.progress.ended_at.is_none();
        let branches = self.tx.branches().iter().enumerate();
        branches.filter(|(after, _)| self.order.depends[*after][at]).any(|(_, branch)| open(branch))
    }

    fn ready_at(&self, at: usize) -> Ready {
        let mut ready = self.started_at();
        // Through a branch that its initiator calls, or that an operator ended, what stands before that
        // one is waited for.
        let is_passed = |at: usize| {
            let branch = &self.tx.branches()[at];
            let progress = &branch.progress;
            let by_word = progress.ended_at.is_some() && progress.vote.is_none();
            branch.enlistment == Enlistment::Initiator || by_word
        };
        let passes = self.order.named[at].iter().any(|before| is_passed(*before));
        let waited_for = |before: &usize| {
            let named = self.order.named[at].contains(before);
            let all = passes || self.order.pivot == Some(at);
            !is_passed(*before) && (named || (all && self.order.depends[at][*before]))
        };
        for before in (0..self.tx.branches().len()).filter(waited_for) {
            let progress = &self.tx.branches()[before].progress;
            if !progress.vote.is_some_and(Vote::is_yes) {
                return Ready::Waits;
            }
            ready = ready.max(progress.voted_at.unwrap_or(ready));
        }
        if self.tx.phase() == Phase::Active {
            if !self.tx.has_its_locks() {
                return Ready::Locks(None);
            }
            let locks_wait = !self.tx.branches()[at].has_its_locks();
            let step = &self.specs[at].step;
            let start = step.delay.map_or(ready, |delay| ready.after(delay));
            let start = step.start_at.map_or(start, |at| start.max(at));
            if locks_wait && start <= self.now {
                return Ready::Locks(Some(at));
            }
            return Ready::At(start);
        }
        let step = &self.specs[at].step;
        let start = step.delay.map_or(ready, |delay| ready.after(delay));
        Ready::At(step.start_at.map_or(start, |at| start.max(at)))
    }

    /// A transaction that is said to sleep has nothing under way, and may be dropped from memory.
    pub(crate) fn check_sleep(&self) {
        let durable = &self.journal.durable.0;
        let stored = durable.state.wake_at.filter(|_| number(durable.version) > self.claimed);
        if stored.is_none_or(|wake| wake <= self.now) {
            return;
        }
        let awaited = self.awaited_packets();
        assert!(awaited.is_empty(), "it sleeps until {stored:?}, and {awaited:?} are under way");
    }

    /// After the end, with everything delivered that was ever sent.
    pub(crate) fn check_end(&self) {
        let decision = self.durable_phase().decision();
        for at in 0..self.tx.branches().len() {
            let row = &self.participants.rows[at];
            if row.by_word {
                continue;
            }
            use crate::participants::Effect;
            match (decision, row.effect) {
                (Some(Decision::Commit), effect) => {
                    let done = match (row.mode, row.vote) {
                        (_, Some(Vote::ReadOnly)) => effect == Effect::None,
                        (Some(Mode::Saga), _) => effect == Effect::Held,
                        _ => effect == Effect::Committed,
                    };
                    assert!(done, "after COMMIT {at} is {effect:?}");
                }
                (Some(Decision::Abort(_)), Effect::Held) => {
                    assert!(row.kept, "after ABORT {at} still holds its effect");
                }
                (Some(Decision::Abort(_)), Effect::None | Effect::Undone) => {}
                (decision, effect) => panic!("{at} is {effect:?} after {decision:?}"),
            }
        }
    }

    /// Tells whether nothing stands in the way of a COMMIT but calls that are not answered.
    pub(crate) fn must_commit(&self) -> bool {
        let patient = self.specs.iter().all(|spec| spec.step.retry.is_none());
        let refused = self.participants.rows.iter().any(|row| row.vote == Some(Vote::Refused));
        let waits = |spec: &unanimo_core::BranchSpec| {
            spec.step.delay.unwrap_or_default()
                + spec.step.start_at.map_or(Duration::ZERO, |at| self.now.until(at))
        };
        let longest: Duration = self.specs.iter().map(waits).sum();
        let undecided = self.tx.phase() == Phase::Active && self.plan.shape == Shape::Declarative;
        let in_time = self.now.after(longest).after(Duration::from_secs(5)) < self.deadline();
        undecided && patient && !refused && in_time && !self.locks_wait()
    }

    fn locks_wait(&self) -> bool {
        let own = &self.tx.identity().locks;
        !own.is_empty() || self.specs.iter().any(|spec| !spec.step.locks.is_empty())
    }
}

enum Ready {
    /// For a branch that it depends on.
    Waits,
    Locks(Option<usize>),
    At(Timestamp),
}
