//! Plans: a random transaction, and what happens to it. Numbers are taken modulo the number of
//! candidates, so that every plan can be played and shrinks well.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use unanimo_core::{
    ActionName, BranchId, BranchNumber, BranchSpec, COORDINATOR, Compensation, Definition, Drive,
    Gid, HeuristicKind, InputName, Limits, Lock, LockMode, LockName, Mode, Parent, ParticipantName,
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
    locks: LockPlan,
    /// It is a transaction of its own.
    pub(crate) is_child: bool,
}

/// Locks that are asked for together: two bits for each of [`LOCKS`], 1 is shared and 2 exclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LockPlan(u64);

/// Names of locks, and how long each is waited for, in milliseconds.
const LOCKS: [(&str, u64); 3] = [("l0", 300), ("l1", 700), ("l2", 5_000)];

impl LockPlan {
    fn locks(self) -> Vec<Lock> {
        let lock = |(at, (name, wait_ms)): (usize, &(&str, u64))| {
            let mode = match (self.0 >> (2 * at)) & 3 {
                1 => LockMode::Shared,
                2 => LockMode::Exclusive,
                _ => return None,
            };
            let name = LockName::new(name).unwrap();
            Some(Lock { name, mode, wait_max: Duration::from_millis(*wait_ms) })
        };
        LOCKS.iter().enumerate().filter_map(lock).collect()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) shape: Shape,
    pub(crate) mode: Mode,
    pub(crate) steps: Vec<StepPlan>,
    pub(crate) pivot: Option<usize>,
    /// The list names dependants first.
    pub(crate) reversed: bool,
    pub(crate) locks: LockPlan,
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
    Resolve {
        at: usize,
        kind: HeuristicKind,
        with_output: bool,
    },
    /// An operator answers in the place of the pivot.
    AnswerForPivot {
        kind: HeuristicKind,
        with_output: bool,
    },
    Forget,
}

/// Random bits, taken in small portions. Plans of some hundred parts are generated several times faster
/// from numbers than from a strategy for each part, and shrink as well: what is small comes first.
struct Bits(u64);

impl Bits {
    /// A number below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        let number = self.0 % bound;
        self.0 /= bound;
        number
    }

    fn index(&mut self) -> usize {
        usize::try_from(self.below(64)).expect("a small number")
    }

    /// True once in `times`.
    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == times - 1
    }

    /// A number below `bound`, once in `times`.
    fn rarely(&mut self, times: u64, bound: u64) -> Option<u64> {
        self.once_in(times).then(|| self.below(bound))
    }
}

/// One step in `locks` takes locks.
fn step((bits, depends_on): (u64, u16), locks: u64) -> StepPlan {
    let mut bits = Bits(bits);
    StepPlan {
        mode: [2, 2, 2, 2, 2, 1, 1, 0][bits.index() % 8],
        depends_on: depends_on & (depends_on >> 3),
        without_undo: bits.once_in(7),
        locks: LockPlan(bits.rarely(locks, 64).unwrap_or_default()),
        attempts_max: bits.rarely(8, 4).map(|n| 1 + u32::try_from(n).expect("a small number")),
        give_up_ms: bits.rarely(8, 5_000).map(|ms| ms + 1),
        delay_ms: bits.rarely(8, 20_000).map(|ms| ms + 1),
        start_ms: bits.rarely(8, 30_000),
        is_child: false,
    }
}

fn heuristic(bits: &mut Bits) -> HeuristicKind {
    [HeuristicKind::Commit, HeuristicKind::Rollback, HeuristicKind::Hazard][bits.index() % 3]
}

fn fate(bits: &mut Bits) -> Fate {
    match bits.below(42) {
        0..30 => Fate::Done,
        30..33 => Fate::AnswerLost,
        33..36 => Fate::CallLost,
        36..38 => Fate::Working(bits.below(2_000)),
        38..40 => Fate::ReadOnly,
        40 => Fate::Refused,
        _ => Fate::Heuristic(heuristic(bits)),
    }
}

fn lock_fate(bits: &mut Bits) -> LockFate {
    match bits.below(7) {
        0..4 => LockFate::Granted,
        4..6 => LockFate::Held { older: bits.once_in(2) },
        _ => LockFate::Failed { taken: bits.once_in(2) },
    }
}

pub(crate) fn a_move(bits: u64) -> Move {
    let mut bits = Bits(bits);
    let bits = &mut bits;
    match bits.below(111) {
        0..40 => Move::Deliver { at: bits.index(), any: false, fate: fate(bits) },
        40..48 => Move::Deliver { at: bits.index(), any: true, fate: fate(bits) },
        48..56 => Move::AnswerLocks(bits.index(), lock_fate(bits)),
        56..64 => Move::Write(1 + bits.index() % 5),
        64..72 => Move::Wake,
        72..74 => Move::Pass(1 + bits.below(4_000)),
        74 => Move::Pass(1 + bits.below(100_000)),
        75..85 => Move::Enlist { by_initiator: bits.once_in(3) },
        85..89 => Move::Call { at: bits.index(), fate: fate(bits) },
        89..92 => Move::Commit { left_out: bits.once_in(8).then(|| bits.index()) },
        92..95 => Move::Parent { commit: !bits.once_in(3) },
        95..100 => Move::Crash {
            written: bits.index() % 5,
            sent: bits.once_in(2),
            down_ms: bits.below(3_000),
        },
        100..102 => {
            Move::Retry { at: bits.once_in(2).then(|| bits.index()), by_operator: bits.once_in(2) }
        }
        102..104 => {
            Move::Resolve { at: bits.index(), kind: heuristic(bits), with_output: bits.once_in(2) }
        }
        104 => Move::Forget,
        107..111 => {
            let kind = [HeuristicKind::Commit, HeuristicKind::Rollback, HeuristicKind::Hazard]
                [usize::try_from(bits.below(5)).expect("a small number") / 2];
            Move::AnswerForPivot { kind, with_output: bits.once_in(2) }
        }
        _ => Move::Rollback,
    }
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
    let step = |bits| step(bits, 10);
    let steps = proptest::collection::vec((any::<u64>(), any::<u16>()).prop_map(step), 1..=12);
    let pivot = proptest::option::weighted(0.5, 0..64_usize);
    let times = (proptest::option::weighted(0.15, 1..60_000_u64), 20_001..90_000_u64, 0..5_000_u64);
    let locks = proptest::option::weighted(0.12, 1..64_u64);
    let flags = (any::<bool>(), locks, any::<bool>(), any::<bool>());
    let moves = proptest::collection::vec(any::<u64>().prop_map(a_move), 0..70);
    (shape, mode, steps, pivot, times, flags, moves).prop_map(
        |(shape, mode, mut steps, pivot, times, flags, moves)| {
            let (start_ms, timeout_ms, skew_ms) = times;
            shorten_delays(&mut steps, timeout_ms);
            let (reversed, locks, slow_journal, calm) = flags;
            let pivot = pivot.map(|at| at % steps.len());
            let pivot = pivot.filter(|_| shape == Shape::Declarative && mode == Mode::Saga);
            let start_ms = start_ms.filter(|_| shape == Shape::Declarative);
            let locks = locks.filter(|_| shape == Shape::Declarative);
            let locks = LockPlan(locks.unwrap_or_default());
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

/// Delays in a row that last until the deadline are refused.
fn shorten_delays(steps: &mut [StepPlan], timeout_ms: u64) {
    let count = steps.len() as u64;
    if steps.iter().filter_map(|step| step.delay_ms).sum::<u64>() >= timeout_ms {
        let delays = steps.iter_mut().filter_map(|step| step.delay_ms.as_mut());
        delays.for_each(|delay| *delay = (*delay / count).max(1));
    }
}

/// Members of a family: the first is at the top, and each of the others will be a step of one before it.
pub(crate) fn family() -> impl Strategy<Value = Vec<Plan>> {
    let members = proptest::collection::vec((plan(), 1..=5_usize), 2..=4);
    members.prop_map(|members| {
        let calm = members[0].0.calm;
        let member = |(at, (mut plan, steps)): (usize, (Plan, usize))| {
            plan.calm = calm;
            plan.moves.clear();
            plan.steps.truncate(steps);
            plan.pivot = plan.pivot.filter(|pivot| *pivot < plan.steps.len());
            match (at, plan.shape) {
                (0, shape) => {
                    plan.mode = Mode::Saga;
                    plan.shape = if shape == Shape::Child { Shape::Declarative } else { shape };
                }
                _ => {
                    plan.shape = Shape::Child;
                    (plan.pivot, plan.start_ms) = (None, None);
                }
            }
            plan
        };
        members.into_iter().enumerate().map(member).collect()
    })
}

/// A saga among others that take the same locks.
pub(crate) fn rival() -> impl Strategy<Value = Plan> {
    let step = |bits| step(bits, 2);
    let steps = proptest::collection::vec((any::<u64>(), any::<u16>()).prop_map(step), 1..=4);
    let pivot = proptest::option::weighted(0.3, 0..64_usize);
    let locks = proptest::option::weighted(0.6, 1..64_u64);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (steps, pivot, locks, 20_001..60_000_u64, flags).prop_map(
        |(mut steps, pivot, locks, timeout_ms, (reversed, slow_journal, calm))| {
            shorten_delays(&mut steps, timeout_ms);
            Plan {
                shape: Shape::Declarative,
                mode: Mode::Saga,
                pivot: pivot.map(|at| at % steps.len()),
                steps,
                reversed,
                locks: LockPlan(locks.unwrap_or_default()),
                start_ms: None,
                timeout_ms,
                slow_journal,
                skew_ms: 0,
                calm,
                moves: Vec::new(),
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

impl Plan {
    /// Makes a child of a step that may be one, the `at`th of them, and returns its place; `None` if there is none.
    pub(crate) fn adopt(&mut self, at: usize) -> Option<usize> {
        let order = Order::of(self);
        let count = self.steps.len();
        let place = |index: usize| if self.reversed { count - 1 - index } else { index };
        let fits = |index: &usize| {
            let is_free = !self.steps[*index].is_child && self.mode == Mode::Saga;
            is_free && order.may_be_undone(place(*index))
        };
        let free: Vec<usize> = (0..count).filter(fits).collect();
        let index = *free.get(at % free.len().max(1))?;
        self.steps[index].is_child = true;
        Some(place(index))
    }

    /// Returns the moves that are to be played.
    pub(crate) fn played(&self) -> Vec<Move> {
        self.moves.iter().filter(|a_move| self.plays(a_move)).copied().collect()
    }

    /// Tells whether a move is to be played.
    pub(crate) fn plays(&self, a_move: &Move) -> bool {
        let disturbs = match a_move {
            Move::Rollback
            | Move::Commit { left_out: Some(_) }
            | Move::Parent { commit: false } => true,
            Move::Pass(ms) => *ms > 2_000,
            Move::Deliver { fate, .. } | Move::Call { fate, .. } => *fate == Fate::Refused,
            _ => false,
        };
        !self.calm || !disturbs
    }

    /// Returns the transaction as it is begun, all of its branches, and their order.
    pub(crate) fn definition(&self, gid: &str) -> (Definition, Vec<BranchSpec>, Order) {
        let order = Order::of(self);
        let count = self.steps.len();
        let planned = |at: usize| &self.steps[if self.reversed { count - 1 - at } else { at }];
        let modes: Vec<Mode> = (0..count).map(|at| self.mode_of(planned(at), at, &order)).collect();
        let spec = |at: usize| BranchSpec {
            branch_id: id_of(at),
            participant: ParticipantName::new(if planned(at).is_child {
                COORDINATOR
            } else {
                "bank"
            })
            .unwrap(),
            action: ActionName::new("debit").unwrap(),
            payload: Payload::from(Bytes::from_static(b"10")),
            mode: modes[at],
            step: if self.mode == Mode::Saga {
                let with_output =
                    |at: usize| modes[at] != Mode::TwoPhaseCommit && !planned(at).is_child;
                step_spec(planned(at), at, (modes[at], with_output), &order)
            } else {
                StepSpec::default()
            },
        };
        let specs: Vec<BranchSpec> = (0..count).map(spec).collect();
        let interactive = self.shape == Shape::Interactive;
        let root = TxId(uuid::Uuid::from_u128(1));
        let parent = Parent { tx_id: root, number: BranchNumber::from_index(0), root };
        let definition = Definition {
            gid: Gid::new(gid).unwrap(),
            mode: self.mode,
            drive: if interactive { Drive::Interactive } else { Drive::Declarative },
            branches: if interactive { Vec::new() } else { specs.clone() },
            timeout: Some(Duration::from_millis(self.timeout_ms)),
            start: self
                .start_ms
                .map_or(Start::AtOnce, |ms| Start::After(Duration::from_millis(ms))),
            locks: self.locks.locks(),
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
            _ if step.is_child => Mode::Tcc,
            _ if order.pivot == Some(at) => Mode::Saga,
            0 => Mode::TwoPhaseCommit,
            1 => Mode::Tcc,
            _ => Mode::Saga,
        }
    }
}

fn step_spec(
    step: &StepPlan,
    at: usize,
    (mode, with_output): (Mode, impl Fn(usize) -> bool),
    order: &Order,
) -> StepSpec {
    let undoable = order.may_be_undone(at);
    let compensation = match (step.without_undo && mode == Mode::Saga, undoable) {
        (false, _) => Compensation::Compensate,
        (true, true) => Compensation::Kept,
        (true, false) => Compensation::None,
    };
    let give_up_after = step.give_up_ms.map(Duration::from_millis);
    let retry =
        RetryPolicy { attempts_max: step.attempts_max, give_up_after, ..Default::default() };
    let input = |before: &usize| StepInput {
        name: InputName::new(&format!("of_{before}")).unwrap(),
        branch_id: id_of(*before),
    };
    StepSpec {
        depends_on: order.named[at].iter().map(|before| id_of(*before)).collect(),
        inputs: order.named[at].iter().filter(|before| with_output(**before)).map(input).collect(),
        pivot: order.pivot == Some(at),
        compensation,
        retry: Some(retry).filter(|retry| undoable && *retry != RetryPolicy::default()),
        attempt_timeout: None,
        delay: step.delay_ms.map(Duration::from_millis),
        start_at: step.start_ms.map(|ms| BEGIN.after(Duration::from_millis(ms))),
        locks: if order.is_after_pivot(at) { Vec::new() } else { step.locks.locks() },
    }
}
