//! Plays a plan's moves, heals all faults, and brings the transaction to its end.

use std::time::Duration;

use unanimo_core::{
    BranchId, BranchRequest, Enlistment, HeuristicKind, Input, LockAnswer, LockRequest, Operation,
    Phase, PhaseTwoOperation, StepSpec, Vote,
};

use crate::life::Life;
use crate::participants::Prepare;
use crate::plan::{Fate, LockFate, Move, Shape};

/// More rounds than a chain of 12 steps, asked for their votes and undone, can need.
pub(crate) const ROUNDS_MAX: usize = 200;

impl Life {
    pub(crate) fn play(&mut self, a_move: Move) {
        match a_move {
            Move::Deliver { at, any, fate } => {
                let packets =
                    if any { (0..self.wire.len()).collect() } else { self.awaited_packets() };
                if let Some(packet) = pick(&packets, at) {
                    self.deliver(packet, fate);
                }
            }
            Move::AnswerLocks(at, fate) => {
                if let Some(request) = pick(&self.awaited_locks(), at) {
                    self.answer_locks(request, fate);
                }
            }
            Move::Write(count) => self.write(count),
            Move::Pass(ms) => {
                self.now = self.now.after(Duration::from_millis(ms));
                self.apply(Input::Tick);
            }
            Move::Wake => self.wake(),
            Move::Crash { written, sent, down_ms } => self.crash(written, sent, down_ms),
            Move::Rollback => {
                self.rollback_asked = true;
                self.apply(Input::RollbackAsked);
            }
            Move::Enlist { by_initiator } => self.enlist(by_initiator),
            Move::Call { at, fate } => self.initiator_calls(at, fate),
            Move::Commit { left_out } => self.ask_commit(left_out),
            Move::Parent { commit } => self.parent_decides(commit),
            Move::Retry { at, by_operator } => {
                let number = at.map(|at| self.number(at));
                let operator = by_operator.then(|| "op".to_owned());
                self.apply(Input::Retry { number, operator });
            }
            Move::Resolve { at, kind, with_output } => self.resolve(at, kind, with_output),
            Move::AnswerForPivot { kind, with_output } => {
                if let Some(pivot) = self.order.pivot {
                    self.resolve(pivot, kind, with_output);
                }
            }
            Move::Forget => {
                self.apply(Input::Forget { operator: "op".into(), note: "seen".into() });
            }
        }
        self.check_durable();
    }

    fn number(&self, at: usize) -> unanimo_core::BranchNumber {
        unanimo_core::BranchNumber::from_index(at % self.specs.len())
    }

    /// An operator ends a branch by word, or answers for the pivot: then the word decides, and a pivot that is
    /// said to be rolled back is no branch that ended by word.
    fn resolve(&mut self, at: usize, kind: HeuristicKind, with_output: bool) {
        let number = self.number(at);
        let at = number.index();
        let output = with_output.then(|| self.participants.output(at));
        let pivot = self.order.pivot == Some(at);
        let answers = pivot && self.pivot_sent && self.tx.phase() == Phase::Active;
        let is_read = (0..self.specs.len()).any(|other| self.reads(other, at));
        let (operator, note) = ("op".to_owned(), "by hand".to_owned());
        let row = &self.participants.rows[at];
        let (by_word, said) = (row.by_word, row.said.clone());
        let row = &mut self.participants.rows[at];
        row.by_word |= !(answers && kind == HeuristicKind::Rollback);
        row.said.push(kind);
        let accepted = self.apply(Input::Resolve { number, kind, output, operator, note });
        if !accepted {
            let row = &mut self.participants.rows[at];
            (row.by_word, row.said) = (by_word, said);
        }
        if answers {
            let commit = kind == HeuristicKind::Commit;
            let rollback = kind == HeuristicKind::Rollback;
            let good = rollback && !with_output || commit && (with_output || !is_read);
            assert_eq!(accepted, good, "the pivot is said to be {kind:?}, output: {with_output}");
            assert!(!accepted || self.tx.phase().decision().is_some(), "a word did not decide");
        }
    }

    fn wake(&mut self) {
        if let Some(wake) = self.tx.wake_at(&self.policy) {
            self.now = self.now.max(wake);
            self.apply(Input::Tick);
        }
    }

    pub(crate) fn deliver(&mut self, packet: usize, fate: Fate) {
        let packet = self.wire[packet].clone();
        let number = unanimo_core::BranchNumber::from_index(packet.prepare.at);
        let attempt = packet.attempt;
        let input = match packet.operation {
            Operation::Prepare => {
                let answer = self.participants.prepare(&packet.prepare, fate, self.now);
                Input::PrepareAnswered { number, attempt, answer }
            }
            Operation::PhaseTwo(operation) => {
                let answer = self.participants.phase_two(&packet.prepare, operation, fate);
                Input::PhaseTwoAnswered { number, operation, attempt, answer }
            }
        };
        self.apply(input);
    }

    fn answer_locks(&mut self, request: usize, fate: LockFate) {
        let (_, request) = self.lock_wire.remove(request);
        let owner = request.number.map(|number| number.index());
        let ended = self.durable_phase().ended_at().is_some();
        let held = self.locked.contains(&owner);
        let answer = match fate {
            _ if ended => LockAnswer::Failed("the transaction has ended".into()),
            LockFate::Held { older } if !held => {
                let lock = self.locks_of(owner)[0].name.clone();
                let holder = unanimo_core::Gid::new("h").unwrap();
                LockAnswer::Held { lock, holder, older, waits: false, blocks_older: false }
            }
            LockFate::Failed { taken } => {
                if taken && !held {
                    self.locked.push(owner);
                }
                LockAnswer::Failed("lost".into())
            }
            LockFate::Granted | LockFate::Held { .. } => LockAnswer::Granted,
        };
        self.locks_answered(request, answer);
    }

    /// Applies the answer of a request for locks.
    pub(crate) fn locks_answered(&mut self, request: LockRequest, answer: LockAnswer) {
        let LockRequest { number, attempt } = request;
        let owner = number.map(|number| number.index());
        let waited = self.tx.phase() == Phase::Active;
        let told = match &answer {
            LockAnswer::Held { lock, older, blocks_older, .. } => {
                Some((lock.clone(), [*older, *blocks_older]))
            }
            LockAnswer::Granted | LockAnswer::Failed(_) => None,
        };
        if answer == LockAnswer::Granted {
            self.waits.remove(&owner);
            if !self.locked.contains(&owner) {
                self.locked.push(owner);
            }
        }
        self.apply(Input::LocksAnswered { number, attempt, answer });
        if let Some((lock, told)) = told.filter(|_| waited) {
            self.check_wait(owner, &lock, told);
        }
    }

    fn enlist(&mut self, by_initiator: bool) {
        let at = self.tx.branches().len();
        if self.plan.shape != Shape::Interactive || at >= self.specs.len() {
            return;
        }
        let mut spec = self.specs[at].clone();
        let enlistment = if by_initiator {
            let depends_on = spec.step.depends_on;
            let compensation = spec.step.compensation;
            spec.step = StepSpec { depends_on, compensation, ..StepSpec::default() };
            Enlistment::Initiator
        } else {
            Enlistment::Coordinator
        };
        let lacks = |input: &unanimo_core::StepInput| {
            let of = self.tx.branch_by_id(&input.branch_id).expect("it came before");
            of.enlistment == Enlistment::Initiator || of.progress.output_dropped
        };
        let is_late = spec.step.start_at.is_some_and(|at| at >= self.tx.deadline());
        let reads_as_child = spec.is_child() && !spec.step.inputs.is_empty();
        if is_late || reads_as_child || spec.step.inputs.iter().any(lacks) {
            let branch = BranchRequest::from(spec.clone());
            assert!(
                !self.apply(Input::Enlist { branch, enlistment }),
                "a step that could not be done"
            );
            (spec.step.inputs, spec.step.start_at) = (Vec::new(), None);
        }
        // An initiator whose request was lost in a crash may say another thing the next time.
        let specs = &mut self.specs;
        specs[at] = spec.clone();
        self.participants.rows[at].by_initiator = by_initiator;
        let accepted = self.apply(Input::Enlist { branch: BranchRequest::from(spec), enlistment });
        let open = self.tx.phase() == Phase::Active;
        assert!(accepted || !open || self.commit_asked, "a good branch was rejected");
    }

    /// The initiator calls a branch that it enlisted, once that was acknowledged.
    fn initiator_calls(&mut self, at: usize, fate: Fate) {
        let own: Vec<usize> = (0..self.journal.durable.0.branches.len())
            .filter(|at| self.participants.rows[*at].by_initiator)
            .collect();
        let Some(at) = pick(&own, at) else { return };
        let branch = &self.tx.branches()[at];
        let prepare = Prepare {
            at,
            prepare_until: self.tx.prepare_until(branch, &self.policy),
            must_succeed: false,
            inputs: Vec::new(),
        };
        self.participants.prepare(&prepare, fate, self.now);
    }

    fn ask_commit(&mut self, left_out: Option<usize>) {
        if self.plan.shape != Shape::Interactive {
            return;
        }
        let count = self.tx.branches().len();
        let left_out = left_out.map(|at| at % count.max(1));
        let listed = |at: usize| {
            let own = self.participants.rows[at].by_initiator;
            let vote = self.participants.rows[at].vote.filter(|_| own);
            (self.specs[at].branch_id.clone(), vote)
        };
        let listed: Vec<(BranchId, Option<Vote>)> =
            (0..count).filter(|at| Some(*at) != left_out).map(listed).collect();
        self.commit_asked |= self.apply(Input::CommitAsked { listed });
    }

    fn parent_decides(&mut self, commit: bool) {
        if !self.is_child() {
            return;
        }
        let voted = matches!(self.durable_phase(), Phase::InDoubt { .. });
        let wish = if commit { PhaseTwoOperation::Commit } else { PhaseTwoOperation::Cancel };
        let operation = *match self.parent {
            None if commit && !voted => return,
            _ => self.parent.get_or_insert(wish),
        };
        self.apply(Input::ParentDecided { operation });
    }

    /// Faults are healed: all is written and answered, and time passes.
    pub(crate) fn heal(&mut self) {
        self.write(usize::MAX);
        let commits = self.must_commit() && !self.rollback_asked;
        for _ in 0..ROUNDS_MAX {
            while let Some(packet) = self.awaited_packets().first().copied() {
                self.deliver(packet, Fate::Done);
                self.write(usize::MAX);
            }
            while let Some(request) = self.awaited_locks().first().copied() {
                self.answer_locks(request, LockFate::Granted);
                self.write(usize::MAX);
            }
            if !self.awaited_packets().is_empty() {
                continue;
            }
            if matches!(self.durable_phase(), Phase::InDoubt { .. }) {
                self.parent_decides(true);
                self.write(usize::MAX);
                continue;
            }
            if self.tx.wake_at(&self.policy).is_none() {
                break;
            }
            self.wake();
            self.write(usize::MAX);
        }
        let phase = self.durable_phase();
        assert!(phase.ended_at().is_some(), "L1: never ended: {:?}", self.tx);
        assert!(
            !commits || self.committed(),
            "nothing stood in its way, and it aborted: {phase:?}"
        );
    }

    /// Whatever was ever sent arrives once more, and participants have deleted what they may.
    pub(crate) fn late_deliveries(&mut self) {
        self.now = self.now.max(self.deadline()).after(Duration::from_secs(60));
        self.participants.purge(self.now);
        for packet in 0..self.wire.len() {
            self.deliver(packet, Fate::Done);
        }
        for at in 0..self.tx.branches().len() {
            self.initiator_calls(at, Fate::Done);
        }
    }
}

pub(crate) fn pick(from: &[usize], at: usize) -> Option<usize> {
    from.get(at % from.len().max(1)).copied()
}
