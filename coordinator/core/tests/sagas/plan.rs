//! Plans: a random transaction, and what happens to it. Numbers are taken modulo the number of
//! candidates, so that every plan can be played and shrinks well.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use unanimo_core::{
    ActionName, BranchId, BranchNumber, BranchSpec, Compensation, Definition, Drive, Gid,
    HeuristicKind, InputName, Limits, Lock, LockMode, LockName, Mode, Parent, ParticipantName,
    Payload, RetryPolicy, Start, StepInput, StepSpec, Timestamp, TxId,
};

/// When every plan begins.
pub(crate) const BEGIN: Timestamp = Timestamp(1_000_000);

/// Who drives the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Declarative,
    Interactive,
    Child,
}

#[derive(Clone, Debug)]
pub(crate) struct StepPlan {
    mode: u8,
    /// Bit `i`: it depends on the `i`-th step before it.
    depends_on: u16,
    without_undo: bool,
    attempts_max: Option<u32>,
    give_up_ms: Option<u64>,
    delay_ms: Option<u64>,
    start_ms: Option<u64>,
    locks: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) shape: Shape,
    pub(crate) mode: Mode,
    pub(crate) steps: Vec<StepPlan>,
    pub(crate) pivot: Option<usize>,
    /// The list names dependants first.
    pub(crate) reversed: bool,
    pub(crate) locks: bool,
    pub(crate) start_ms: Option<u64>,
    pub(crate) timeout_ms: u64,
    /// The journal writes only when told to.
    pub(crate) slow_journal: bool,
    /// Participants' clocks run behind by this.
    pub(crate) skew_ms: u64,
    /// Nobody says no, and nobody waits for long.
    pub(crate) calm: bool,
    pub(crate) moves: Vec<Move>,
}

/// Result of one delivery of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Done, and answered.
    Done,
    /// Answered with a no, where that is still open.
    Refused,
    ReadOnly,
    Working(u64),
    /// Done, and the answer is lost.
    AnswerLost,
    /// Never arrived.
    CallLost,
    /// Phase two ends otherwise.
    Heuristic(HeuristicKind),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LockFate {
    Granted,
    Held { older: bool },
    Failed { taken: bool },
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Move {
    /// A call that was sent arrives: one that is waited for, or any, of any life, perhaps again.
    Deliver {
        at: usize,
        any: bool,
        fate: Fate,
    },
    AnswerLocks(usize, LockFate),
    /// The journal writes so many transitions.
    Write(usize),
    Pass(u64),
    /// Time passes until the transaction wants a Tick.
    Wake,
    /// The process dies: `written` more transitions are durable, and what they released was sent.
    Crash {
        written: usize,
        sent: bool,
        down_ms: u64,
    },
    Rollback,
    Enlist {
        by_initiator: bool,
    },
    /// The initiator calls a branch that it enlisted.
    Call {
        at: usize,
        fate: Fate,
    },
    Commit {
        left_out: Option<usize>,
    },
    Parent {
        commit: bool,
    },
    Retry {
        at: Option<usize>,
        by_operator: bool,
    },
    Resolve(usize, HeuristicKind),
    Forget,
}

fn step() -> impl Strategy<Value = StepPlan> {
    let rare = |strategy: std::ops::Range<u64>| proptest::option::weighted(0.12, strategy);
    (
        prop_oneof![6 => Just(2_u8), 2 => Just(1), 1 => Just(0)],
        any::<u16>().prop_map(|bits| bits & (bits >> 3)),
        prop::bool::weighted(0.15),
        proptest::option::weighted(0.12, 1..5_u32),
        rare(1..5_000),
        rare(1..20_000),
        rare(0..30_000),
        prop::bool::weighted(0.12),
    )
        .prop_map(
            |(
                mode,
                depends_on,
                without_undo,
                attempts_max,
                give_up_ms,
                delay_ms,
                start_ms,
                locks,
            )| {
                StepPlan {
                    mode,
                    depends_on,
                    without_undo,
                    attempts_max,
                    give_up_ms,
                    delay_ms,
                    start_ms,
                    locks,
                }
            },
        )
}

fn heuristic() -> impl Strategy<Value = HeuristicKind> {
    prop_oneof![
        Just(HeuristicKind::Commit),
        Just(HeuristicKind::Rollback),
        Just(HeuristicKind::Hazard)
    ]
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        30 => Just(Fate::Done),
        1 => Just(Fate::Refused),
        2 => Just(Fate::ReadOnly),
        2 => (0..2_000_u64).prop_map(Fate::Working),
        3 => Just(Fate::AnswerLost),
        3 => Just(Fate::CallLost),
        1 => heuristic().prop_map(Fate::Heuristic),
    ]
}

fn a_move() -> impl Strategy<Value = Move> {
    let lock_fate = prop_oneof![
        4 => Just(LockFate::Granted),
        2 => any::<bool>().prop_map(|older| LockFate::Held { older }),
        1 => any::<bool>().prop_map(|taken| LockFate::Failed { taken }),
    ];
    prop_oneof![
        40 => (0..64_usize, fate()).prop_map(|(at, fate)| Move::Deliver { at, any: false, fate }),
        8 => (0..64_usize, fate()).prop_map(|(at, fate)| Move::Deliver { at, any: true, fate }),
        8 => (0..64_usize, lock_fate).prop_map(|(at, fate)| Move::AnswerLocks(at, fate)),
        8 => (1..6_usize).prop_map(Move::Write),
        2 => (1..4_000_u64).prop_map(Move::Pass),
        1 => (1..100_000_u64).prop_map(Move::Pass),
        8 => Just(Move::Wake),
        3 => (0..5_usize, any::<bool>(), 0..3_000_u64)
            .prop_map(|(written, sent, down_ms)| Move::Crash { written, sent, down_ms }),
        1 => Just(Move::Rollback),
        10 => prop::bool::weighted(0.3).prop_map(|by_initiator| Move::Enlist { by_initiator }),
        4 => (0..64_usize, fate()).prop_map(|(at, fate)| Move::Call { at, fate }),
        2 => proptest::option::weighted(0.1, 0..64_usize)
            .prop_map(|left_out| Move::Commit { left_out }),
        2 => prop::bool::weighted(0.6).prop_map(|commit| Move::Parent { commit }),
        1 => (proptest::option::of(0..64_usize), any::<bool>())
            .prop_map(|(at, by_operator)| Move::Retry { at, by_operator }),
        1 => (0..64_usize, heuristic()).prop_map(|(at, kind)| Move::Resolve(at, kind)),
        1 => Just(Move::Forget),
    ]
}

pub(crate) fn plan() -> impl Strategy<Value = Plan> {
    let shape = prop_oneof![
        5 => Just(Shape::Declarative),
        2 => Just(Shape::Interactive),
        2 => Just(Shape::Child)
    ];
    let mode = prop_oneof![
        12 => Just(Mode::Saga),
        1 => Just(Mode::Tcc),
        1 => Just(Mode::TwoPhaseCommit)
    ];
    let steps = proptest::collection::vec(step(), 1..=12);
    let pivot = proptest::option::weighted(0.5, 0..64_usize);
    let times = (proptest::option::weighted(0.15, 1..60_000_u64), 20_001..90_000_u64, 0..5_000_u64);
    let flags = (any::<bool>(), prop::bool::weighted(0.25), any::<bool>(), any::<bool>());
    let moves = proptest::collection::vec(a_move(), 0..70);
    (shape, mode, steps, pivot, times, flags, moves).prop_map(
        |(shape, mode, steps, pivot, times, flags, moves)| {
            let (start_ms, timeout_ms, skew_ms) = times;
            let (reversed, locks, slow_journal, calm) = flags;
            let pivot = pivot.map(|at| at % steps.len());
            let pivot = pivot.filter(|_| shape == Shape::Declarative && mode == Mode::Saga);
            let start_ms = start_ms.filter(|_| shape == Shape::Declarative);
            let locks = locks && shape == Shape::Declarative;
            let reversed = reversed && shape != Shape::Interactive;
            Plan {
                shape,
                mode,
                steps,
                pivot,
                reversed,
                locks,
                start_ms,
                timeout_ms,
                slow_journal,
                skew_ms,
                calm,
                moves,
            }
        },
    )
}

/// Order of the steps as the plan means it, by place in the list.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// `depends[a][b]`: `a` depends on `b`, directly or not, or because `a` is the pivot.
    pub(crate) depends: Vec<Vec<bool>>,
    /// Those that each names itself.
    pub(crate) named: Vec<Vec<usize>>,
    pub(crate) pivot: Option<usize>,
}

impl Order {
    pub(crate) fn is_after_pivot(&self, at: usize) -> bool {
        self.pivot.is_some_and(|pivot| self.depends[at][pivot])
    }

    pub(crate) fn may_be_undone(&self, at: usize) -> bool {
        self.pivot != Some(at) && !self.is_after_pivot(at)
    }

    fn of(plan: &Plan) -> Self {
        let count = plan.steps.len();
        let place = |at: usize| if plan.reversed { count - 1 - at } else { at };
        let mut depends = vec![vec![false; count]; count];
        let mut named = vec![Vec::new(); count];
        if plan.mode == Mode::Saga {
            for (at, step) in plan.steps.iter().enumerate() {
                for before in
                    (0..at).filter(|before| step.depends_on & (1 << (at - before - 1)) != 0)
                {
                    depends[place(at)][place(before)] = true;
                    named[place(at)].push(place(before));
                }
            }
        }
        let mut order = Self { depends, named, pivot: plan.pivot.map(place) };
        order.close();
        if let Some(pivot) = order.pivot {
            for at in 0..count {
                order.depends[pivot][at] |= at != pivot && !order.depends[at][pivot];
            }
            order.close();
        }
        order
    }

    fn close(&mut self) {
        let count = self.depends.len();
        for middle in 0..count {
            for from in 0..count {
                for to in 0..count {
                    let through = self.depends[from][middle] && self.depends[middle][to];
                    self.depends[from][to] |= through;
                }
            }
        }
    }
}

pub(crate) fn id_of(at: usize) -> BranchId {
    BranchId::new(&format!("s{at}")).unwrap()
}

fn lock(name: &str) -> Lock {
    let name = LockName::new(name).unwrap();
    Lock { name, mode: LockMode::Exclusive, wait_max: Duration::from_millis(700) }
}

impl Plan {
    /// Returns the moves that are to be played.
    pub(crate) fn played(&self) -> Vec<Move> {
        let disturbs = |a_move: &Move| match a_move {
            Move::Rollback
            | Move::Commit { left_out: Some(_) }
            | Move::Parent { commit: false } => true,
            Move::Pass(ms) => *ms > 2_000,
            Move::Deliver { fate, .. } | Move::Call { fate, .. } => *fate == Fate::Refused,
            _ => false,
        };
        self.moves.iter().filter(|a_move| !self.calm || !disturbs(a_move)).copied().collect()
    }

    /// Returns the transaction as it is begun, all of its branches, and their order.
    pub(crate) fn definition(&self) -> (Definition, Vec<BranchSpec>, Order) {
        let order = Order::of(self);
        let count = self.steps.len();
        let planned = |at: usize| &self.steps[if self.reversed { count - 1 - at } else { at }];
        let modes: Vec<Mode> = (0..count).map(|at| self.mode_of(planned(at), at, &order)).collect();
        let spec = |at: usize| BranchSpec {
            branch_id: id_of(at),
            participant: ParticipantName::new("bank").unwrap(),
            action: ActionName::new("debit").unwrap(),
            payload: Payload::from(Bytes::from_static(b"10")),
            mode: modes[at],
            step: if self.mode == Mode::Saga {
                step_spec(planned(at), at, &modes, &order)
            } else {
                StepSpec::default()
            },
        };
        let specs: Vec<BranchSpec> = (0..count).map(spec).collect();
        let interactive = self.shape == Shape::Interactive;
        let root = TxId(uuid::Uuid::from_u128(1));
        let parent = Parent { tx_id: root, number: BranchNumber::from_index(0), root };
        let definition = Definition {
            gid: Gid::new("g").unwrap(),
            mode: self.mode,
            drive: if interactive { Drive::Interactive } else { Drive::Declarative },
            branches: if interactive { Vec::new() } else { specs.clone() },
            timeout: Some(Duration::from_millis(self.timeout_ms)),
            start: self
                .start_ms
                .map_or(Start::AtOnce, |ms| Start::After(Duration::from_millis(ms))),
            locks: if self.locks { vec![lock("all")] } else { Vec::new() },
            parent: (self.shape == Shape::Child).then_some(parent),
            children: Vec::new(),
            metadata: Default::default(),
            trace: Default::default(),
            initiator: String::new(),
        };
        let violations = definition.violations(&Limits::default());
        assert!(violations.is_empty(), "the plan breaks a rule: {violations:?}");
        (definition, specs, order)
    }

    fn mode_of(&self, step: &StepPlan, at: usize, order: &Order) -> Mode {
        match step.mode {
            _ if self.mode != Mode::Saga => self.mode,
            _ if order.pivot == Some(at) => Mode::Saga,
            0 => Mode::TwoPhaseCommit,
            1 => Mode::Tcc,
            _ => Mode::Saga,
        }
    }
}

fn step_spec(step: &StepPlan, at: usize, modes: &[Mode], order: &Order) -> StepSpec {
    let undoable = order.may_be_undone(at);
    let compensation = match (step.without_undo && modes[at] == Mode::Saga, undoable) {
        (false, _) => Compensation::Compensate,
        (true, true) => Compensation::Kept,
        (true, false) => Compensation::None,
    };
    let give_up_after = step.give_up_ms.map(Duration::from_millis);
    let retry =
        RetryPolicy { attempts_max: step.attempts_max, give_up_after, ..Default::default() };
    let with_output = |before: &&usize| modes[**before] != Mode::TwoPhaseCommit;
    let input = |before: &usize| StepInput {
        name: InputName::new(&format!("of_{before}")).unwrap(),
        branch_id: id_of(*before),
    };
    StepSpec {
        depends_on: order.named[at].iter().map(|before| id_of(*before)).collect(),
        inputs: order.named[at].iter().filter(with_output).map(input).collect(),
        pivot: order.pivot == Some(at),
        compensation,
        retry: Some(retry).filter(|retry| undoable && *retry != RetryPolicy::default()),
        attempt_timeout: None,
        delay: step.delay_ms.map(Duration::from_millis),
        start_at: step.start_ms.map(|ms| BEGIN.after(Duration::from_millis(ms))),
        locks: if step.locks && !order.is_after_pivot(at) {
            vec![lock(&format!("of_{at}"))]
        } else {
            Vec::new()
        },
    }
}
