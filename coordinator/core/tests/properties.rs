//! Promises S1, S2 and S4 under arbitrary orders and duplicates of inputs, crashes included, and
//! that every transaction can still end.
//!
//! The checker ([`Witness`]) looks from outside: it knows which answers were given and which calls
//! were asked for, and shares no code with the state machine.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "common/history.rs"]
mod history;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use common::{Durable, definition, request};
use history::History;
use proptest::prelude::*;
use unanimo_core::{
    BranchId, BranchNumber, Call, Decision, Drive, Effects, Enlistment, Gid, HeuristicKind,
    Incarnation, Input, Mode, Operation, Outcome, Payload, Phase, PhaseTwo, PhaseTwoAnswer,
    PhaseTwoOperation, Policy, PrepareAnswer, RecordPolicy, Refusal, Timestamp, Transaction, TxId,
    Vote,
};

const BRANCHES: [&str; 3] = ["a", "b", "c"];

/// Moves of the generator; numbers are taken modulo the number of candidates.
#[derive(Clone, Debug)]
enum Move {
    Input(Box<Input>),
    /// Answer a call that was really sent, of any attempt, perhaps again.
    Prepare(usize, PrepareAnswer),
    PhaseTwo(usize, PhaseTwoAnswer),
    Pass(u64),
    /// The process dies. What nobody awaited is lost, if the journal had not come to it.
    Crash {
        loses: bool,
    },
}

fn branch_number() -> impl Strategy<Value = BranchNumber> {
    (0..4_usize).prop_map(BranchNumber::from_index)
}

fn prepare_answer() -> impl Strategy<Value = PrepareAnswer> {
    prop_oneof![
        6 => (0..3_usize).prop_map(|n| PrepareAnswer::Prepared(Bytes::from(vec![1; n]).into())),
        1 => Just(PrepareAnswer::ReadOnly),
        1 => Just(PrepareAnswer::Refused(Refusal::default())),
        1 => Just(PrepareAnswer::Working { retry_after: Duration::from_millis(20) }),
        2 => Just(PrepareAnswer::Failed("down".into())),
    ]
}

fn heuristic_kind() -> impl Strategy<Value = HeuristicKind> {
    prop_oneof![
        Just(HeuristicKind::Commit),
        Just(HeuristicKind::Rollback),
        Just(HeuristicKind::Hazard)
    ]
}

fn phase_two_answer() -> impl Strategy<Value = PhaseTwoAnswer> {
    prop_oneof![
        5 => Just(PhaseTwoAnswer::Done),
        1 => heuristic_kind().prop_map(|kind| PhaseTwoAnswer::Heuristic { kind, note: "n".into() }),
        1 => Just(PhaseTwoAnswer::Working { retry_after: Duration::ZERO }),
        2 => Just(PhaseTwoAnswer::Failed("down".into())),
    ]
}

fn branch_id() -> impl Strategy<Value = BranchId> {
    (0..BRANCHES.len()).prop_map(|n| BranchId::new(BRANCHES[n]).unwrap())
}

fn vote() -> impl Strategy<Value = Option<Vote>> {
    prop_oneof![
        4 => Just(Some(Vote::Prepared)),
        1 => Just(Some(Vote::ReadOnly)),
        1 => Just(Some(Vote::Refused)),
        1 => Just(None),
    ]
}

/// Inputs of every kind, most of them of no sense.
fn input() -> impl Strategy<Value = Input> {
    let operation = prop_oneof![Just(PhaseTwoOperation::Commit), Just(PhaseTwoOperation::Cancel)];
    let enlistment = prop_oneof![Just(Enlistment::Coordinator), Just(Enlistment::Initiator)];
    prop_oneof![
        3 => (0..BRANCHES.len(), enlistment)
            .prop_map(|(n, enlistment)| Input::Enlist { branch: request(BRANCHES[n]), enlistment }),
        2 => proptest::collection::vec((branch_id(), vote()), 0..4)
            .prop_map(|listed| Input::CommitAsked { listed }),
        1 => Just(Input::RollbackAsked),
        2 => (branch_number(), 0..4_u32, prepare_answer())
            .prop_map(|(number, attempt, answer)| Input::PrepareAnswered { number, attempt, answer }),
        2 => (branch_number(), operation, 0..4_u32, phase_two_answer())
            .prop_map(|(number, operation, attempt, answer)| {
                Input::PhaseTwoAnswered { number, operation, attempt, answer }
            }),
        1 => Just(Input::Tick),
        1 => proptest::option::of(branch_number())
            .prop_map(|number| Input::Retry { number, operator: None }),
        1 => (branch_number(), heuristic_kind()).prop_map(|(number, kind)| Input::Resolve {
            number, kind, output: None, operator: "op".into(), note: "n".into(),
        }),
        1 => Just(Input::Forget { operator: "op".into(), note: "n".into() }),
    ]
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    proptest::collection::vec(
        prop_oneof![
            3 => input().prop_map(|input| Move::Input(Box::new(input))),
            5 => (0..64_usize, prepare_answer()).prop_map(|(n, a)| Move::Prepare(n, a)),
            4 => (0..64_usize, phase_two_answer()).prop_map(|(n, a)| Move::PhaseTwo(n, a)),
            2 => (1..40_000_u64).prop_map(Move::Pass),
            1 => any::<bool>().prop_map(|loses| Move::Crash { loses }),
        ],
        0..40,
    )
}

/// Votes and decisions that an observer outside has seen.
#[derive(Default)]
struct Witness {
    sent: Vec<(BranchNumber, Operation, u32)>,
    phase_twos: BTreeSet<&'static str>,
    yes: BTreeMap<BranchNumber, BTreeSet<&'static str>>,
    outcome: Option<Outcome>,
    ended: bool,
}

impl Witness {
    /// S1: one transaction, one kind of phase two.
    fn saw_calls(&mut self, effects: &Effects) {
        for Call { number, operation, attempt } in effects.calls.iter().copied() {
            self.sent.push((number, operation, attempt));
            if operation != Operation::Prepare {
                self.phase_twos.insert(operation.as_str());
            }
            assert!(self.phase_twos.len() <= 1, "S1: both commit and cancel were sent");
        }
    }

    /// S2: no COMMIT without a yes of each branch; S4: what is final stays.
    fn saw_state(&mut self, tx: &Transaction) {
        let outcome = tx.outcome();
        if outcome == Outcome::Committed {
            for branch in tx.branches() {
                assert!(
                    self.yes.contains_key(&branch.number),
                    "S2: {} never said yes",
                    branch.number
                );
            }
        }
        if let Some(earlier) = self.outcome {
            assert_eq!(earlier, outcome, "S4: the decision changed");
        }
        if outcome != Outcome::NotDecided {
            self.outcome = Some(outcome);
        }
        let ended = tx.phase().ended_at().is_some();
        assert!(ended || !self.ended, "S4: an ended transaction came back");
        self.ended |= ended;
    }

    fn heard_vote(&mut self, tx: &Transaction, number: BranchNumber, answer: &PrepareAnswer) {
        let read_only = tx.identity().mode() == Some(Mode::TwoPhaseCommit);
        match answer {
            PrepareAnswer::Prepared(_) => self.yes.entry(number).or_default().insert("prepared"),
            PrepareAnswer::ReadOnly if read_only => {
                self.yes.entry(number).or_default().insert("read_only")
            }
            _ => return,
        };
    }
}

/// A transaction, its store and its witness.
struct World {
    tx: Transaction,
    durable: Durable,
    /// The rest after a crash that loses all that nobody awaited.
    awaited: (Durable, History),
    history: History,
    witness: Witness,
    now: Timestamp,
    policy: Policy,
    lives: i64,
}

impl World {
    fn begin(mode: Mode, drive: Drive) -> Self {
        let policy = Policy { record: RecordPolicy::All, ..Policy::default() };
        let now = Timestamp(5_000);
        let branches = if drive == Drive::Declarative { &BRANCHES[..] } else { &[] };
        let id = TxId(uuid::Uuid::from_u128(99));
        let (tx, effects) = Transaction::begin(id, definition(mode, drive, branches), now, &policy);
        Self::of(tx, &effects, now, policy)
    }

    fn tombstone() -> Self {
        let (policy, now) = (Policy::default(), Timestamp(5_000));
        let (id, gid) = (TxId(uuid::Uuid::from_u128(99)), Gid::new("g").unwrap());
        let (tx, effects) = Transaction::tombstone(id, gid, String::new(), now, &policy);
        Self::of(tx, &effects, now, policy)
    }

    fn of(tx: Transaction, begun: &Effects, now: Timestamp, policy: Policy) -> Self {
        let mut witness = Witness::default();
        witness.saw_calls(begun);
        let mut history = History::default();
        history.write(begun);
        let durable = Durable::begun(begun);
        let awaited = (durable.clone(), history.clone());
        Self { tx, durable, awaited, history, witness, now, policy, lives: 1 }
    }

    fn apply(&mut self, input: Input) {
        let before = self.tx.record();
        let listed = match &input {
            Input::PrepareAnswered { number, answer, .. } => {
                self.witness.heard_vote(&self.tx, *number, answer);
                Vec::new()
            }
            Input::CommitAsked { listed } => listed.clone(),
            _ => Vec::new(),
        };
        match self.tx.apply(input, self.now, &self.policy) {
            Ok(effects) => {
                for (id, vote) in listed {
                    let branch = self.tx.branch_by_id(&id).expect("accepted ids are known");
                    if vote.is_some_and(Vote::is_yes) && branch.enlistment == Enlistment::Initiator
                    {
                        self.witness.yes.entry(branch.number).or_default().insert("listed");
                    }
                }
                self.durable.write(&effects);
                self.history.write(&effects);
                if effects.transition.as_ref().is_some_and(|transition| transition.awaited) {
                    self.awaited = (self.durable.clone(), self.history.clone());
                }
                let unwritten = effects.transition.is_none();
                self.check_durable(unwritten);
                self.witness.saw_calls(&effects);
            }
            Err(_) => assert_eq!(before, self.tx.record(), "a rejected input changed something"),
        }
        self.witness.saw_state(&self.tx);
        self.check_alive();
    }

    /// S2, S3: whatever a crash loses, the phase in memory and the votes that it rests on stay.
    fn check_durable(&self, unwritten: bool) {
        assert_eq!(self.awaited.0.0.state.phase, self.tx.phase(), "S3: nobody waits for a phase");
        if !unwritten {
            assert_eq!(self.durable.0, self.tx.record(), "a transition that lacks something");
        }
        if self.tx.outcome() == Outcome::Committed {
            let votes = self.awaited.0.0.state.branches.iter().map(|progress| progress.vote);
            assert!(votes.into_iter().all(|vote| vote.is_some_and(Vote::is_yes)), "S2: lost votes");
        }
    }

    /// Whatever is owed is under way, or will be before the longest pause is over. The deadline alone
    /// is no such time.
    fn check_alive(&self) {
        let wake = self.tx.wake_at(&self.policy);
        let phase = self.tx.phase();
        assert_eq!(phase == Phase::Active, wake.is_some() && phase.decision().is_none());
        for branch in self.tx.branches() {
            let operation = match phase.decision() {
                None if branch.enlistment == Enlistment::Initiator => continue,
                None if branch.progress.vote.is_some() => continue,
                None => Operation::Prepare,
                Some(decision) if branch.is_owed() => Operation::PhaseTwo(decision.operation()),
                Some(_) => continue,
            };
            let sent = self.witness.sent.iter().rev();
            let under_way = sent
                .filter(|(number, op, _)| *number == branch.number && *op == operation)
                .any(|(_, _, attempt)| branch.awaits(operation, *attempt));
            let backoff = match operation {
                Operation::Prepare => self.policy.prepare_backoff,
                Operation::PhaseTwo(_) => self.policy.phase_two_backoff,
            };
            let in_time = wake.is_some_and(|wake| wake <= self.now.after(backoff.cap));
            assert!(under_way || in_time, "branch {} is owed and forgotten", branch.number);
        }
    }

    fn play(&mut self, a_move: Move) {
        match a_move {
            Move::Input(input) => self.apply(*input),
            Move::Prepare(n, answer) => {
                let sent: Vec<_> = self.sent(|operation| operation == Operation::Prepare);
                if let Some((number, _, attempt)) = sent.get(n % sent.len().max(1)).copied() {
                    self.apply(Input::PrepareAnswered { number, attempt, answer });
                }
            }
            Move::PhaseTwo(n, answer) => {
                let sent: Vec<_> = self.sent(|operation| operation != Operation::Prepare);
                if let Some(&(number, Operation::PhaseTwo(operation), attempt)) =
                    sent.get(n % sent.len().max(1))
                {
                    self.apply(Input::PhaseTwoAnswered { number, operation, attempt, answer });
                }
            }
            Move::Pass(ms) => {
                self.now = self.now.after(Duration::from_millis(ms));
                self.apply(Input::Tick);
            }
            Move::Crash { loses } => {
                if loses {
                    (self.durable, self.history) = self.awaited.clone();
                }
                self.tx = self.durable.recover();
                self.awaited = (self.durable.clone(), self.history.clone());
                self.lives += 1;
                self.apply(Input::Recovered { by: Incarnation(self.lives) });
            }
        }
    }

    fn sent(&self, wanted: impl Fn(Operation) -> bool) -> Vec<(BranchNumber, Operation, u32)> {
        self.witness.sent.iter().copied().filter(|(_, operation, _)| wanted(*operation)).collect()
    }

    /// Faults are healed: every call under way is answered, and time passes.
    fn heal(&mut self) {
        for _ in 0..50 {
            for (number, operation, attempt) in self.sent(|_| true) {
                let awaited = self.tx.branch(number).is_some_and(|b| b.awaits(operation, attempt));
                if !awaited {
                    continue;
                }
                self.apply(match operation {
                    Operation::Prepare => Input::PrepareAnswered {
                        number,
                        attempt,
                        answer: PrepareAnswer::Prepared(Payload::default()),
                    },
                    Operation::PhaseTwo(operation) => Input::PhaseTwoAnswered {
                        number,
                        operation,
                        attempt,
                        answer: PhaseTwoAnswer::Done,
                    },
                });
            }
            let Some(wake) = self.tx.wake_at(&self.policy) else {
                break;
            };
            self.now = self.now.max(wake);
            self.apply(Input::Tick);
        }
        assert!(self.tx.phase().ended_at().is_some(), "never ended: {:?}", self.tx);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4_000) })]

    #[test]
    fn s1_s2_s4_hold_and_every_transaction_can_end(
        two_phase in any::<bool>(),
        interactive in any::<bool>(),
        moves in moves(),
    ) {
        let mode = if two_phase { Mode::TwoPhaseCommit } else { Mode::Tcc };
        let drive = if interactive { Drive::Interactive } else { Drive::Declarative };
        let mut world = World::begin(mode, drive);
        for a_move in moves {
            world.play(a_move);
        }
        world.heal();
        world.history.check(&world.durable.0);
        // S7, the coordinator's half: who voted PREPARED has heard of the decision.
        for branch in world.tx.branches() {
            let phase_two = &branch.progress.phase_two;
            let told = matches!(phase_two, PhaseTwo::Done | PhaseTwo::Heuristic { .. });
            prop_assert!(told || branch.progress.vote != Some(Vote::Prepared));
            let aborted = matches!(world.tx.phase().decision(), Some(Decision::Abort(_)));
            prop_assert!(told || !aborted || branch.progress.vote.is_some());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    /// Nothing is ever sent for a tombstone, and nothing changes it.
    #[test]
    fn s1_s4_a_tombstone_stays_as_it_was_made(moves in moves()) {
        let mut world = World::tombstone();
        let made = world.tx.state();
        for a_move in moves {
            world.play(a_move);
            prop_assert_eq!(&world.tx.state(), &made);
            prop_assert!(world.witness.sent.is_empty());
        }
        prop_assert_eq!(world.tx.outcome(), Outcome::Aborted);
    }
}
