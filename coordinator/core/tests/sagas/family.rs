//! Families: sagas with steps that are transactions of their own, which are as the coordinator has them. A child
//! begins with its branch's Prepare, answers it once it is in doubt or has undone everything, and ends with its
//! parent's decision. All of them are played against each other, and crash together or one by one.
//!
//! Each member is checked as a transaction without relatives is. Besides:
//!
//! - A child is committed only after its parent, and never when its parent aborts.
//! - A parent has ended only if each of its children has, in the same way.
//! - What a child depends on is undone after the child, and what depends on the child before it.

use std::collections::BTreeMap;

use proptest::prelude::*;
use unanimo_core::{
    Decision, Input, Operation, Phase, PhaseTwoAnswer, PhaseTwoOperation, PrepareAnswer, Refusal,
};

use crate::life::{Life, Packet};
use crate::participants::Effect;
use crate::plan::{BEGIN, Fate, Move, Plan, a_move, family};
use crate::play::{ROUNDS_MAX, pick};

/// Pause before a parent asks its child again.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Rounds of a family, each of which lets everybody do something.
const FAMILY_ROUNDS_MAX: usize = 20 * ROUNDS_MAX;

/// Transaction of a family.
struct Member {
    plan: Plan,
    /// `None` before it begins.
    life: Option<Life>,
    /// Its parent, and the branch that it is there.
    above: Option<(usize, usize)>,
    /// Its children, by branch.
    below: BTreeMap<usize, usize>,
    /// A Cancel came first: it never begins.
    is_tombstone: bool,
}

/// A transaction at the top, and everything below it.
pub(crate) struct Family {
    members: Vec<Member>,
    pub(crate) seen: Seen,
}

/// Situations that were reached. A generator that reaches nothing proves nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    committed: u64,
    grandchild_committed: u64,
    aborted: u64,
    voted_and_undone: u64,
    refused: u64,
    ended_late: u64,
    tombstones: u64,
    crashed_between: u64,
    committed_by_pivot: u64,
    /// A crash took one transaction, and not its relatives.
    crashed_alone: u64,
}

/// Place of a child: its parent, and the step that it is there.
type Place = (usize, usize);

/// Families, the places of the children in them, and moves of each member.
pub(crate) fn families() -> impl Strategy<Value = (Vec<Plan>, Vec<Place>, Vec<(usize, Move)>)> {
    let places = proptest::collection::vec((0..64_usize, 0..64_usize), 3);
    let moves = proptest::collection::vec((0..64_usize, any::<u64>().prop_map(a_move)), 0..150);
    (family(), places, moves)
}

impl Family {
    /// Puts each member but the first below one before it, and begins the first.
    pub(crate) fn begin(mut plans: Vec<Plan>, places: &[Place]) -> Self {
        let mut relations = Vec::new();
        for at in 1..plans.len() {
            let (above, branch) = places[at - 1];
            let above = above % at;
            if let Some(branch) = plans[above].adopt(branch) {
                relations.push((above, branch, at));
            }
        }
        let member = |plan| Member {
            plan,
            life: None,
            above: None,
            below: BTreeMap::new(),
            is_tombstone: false,
        };
        let mut members: Vec<Member> = plans.into_iter().map(member).collect();
        for (above, branch, at) in relations {
            members[above].below.insert(branch, at);
            members[at].above = Some((above, branch));
        }
        let plan = members[0].plan.clone();
        members[0].life = Some(Life::begin(plan, 0, BEGIN));
        Self { members, seen: Seen::default() }
    }

    /// Plays a move of a member that has begun. What operators and participants say against a decision is played
    /// without relatives.
    pub(crate) fn play(&mut self, which: usize, a_move: Move) {
        let which = which % self.members.len();
        let member = &mut self.members[which];
        let Some(life) = member.life.as_mut().filter(|_| member.plan.plays(&a_move)) else {
            return;
        };
        match a_move {
            Move::Parent { .. }
            | Move::Resolve { .. }
            | Move::AnswerForPivot { .. }
            | Move::Forget
            | Move::Deliver { fate: Fate::Heuristic(_), .. } => return,
            Move::Deliver { at, any, fate } => {
                let of_life = |packet: &usize| {
                    let packet = &life.wire[*packet];
                    // A process that is fenced begins no child, and ends none.
                    packet.life == life.life || !member.below.contains_key(&packet.prepare.at)
                };
                let packets = match any {
                    true => (0..life.wire.len()).filter(of_life).collect(),
                    false => life.awaited_packets(),
                };
                if let Some(packet) = pick(&packets, at) {
                    self.deliver(which, packet, fate);
                }
            }
            Move::Enlist { by_initiator } => {
                let at = life.tx.branches().len();
                let by_initiator = by_initiator && !member.below.contains_key(&at);
                life.play(Move::Enlist { by_initiator });
            }
            Move::Crash { written, sent, down_ms } => {
                let alone = down_ms.is_multiple_of(3);
                self.crash(alone.then_some(which), written, sent, down_ms);
            }
            a_move => life.play(a_move),
        }
        self.one_clock();
        self.check();
    }

    /// The process dies, or only what one of several processes had of it.
    fn crash(&mut self, which: Option<usize>, written: usize, sent: bool, down_ms: u64) {
        self.seen.crashed_between += u64::from(self.has_untold_votes());
        self.seen.crashed_alone += u64::from(which.is_some());
        for at in 0..self.members.len() {
            if which.is_none_or(|which| which == at)
                && let Some(life) = &mut self.members[at].life
            {
                life.crash(written, sent, down_ms);
            }
        }
    }

    /// Tells whether a child has voted or ended, and its parent does not know it.
    fn has_untold_votes(&self) -> bool {
        self.members.iter().any(|member| {
            let Some((above, branch)) = member.above else { return false };
            let Some(life) = &member.life else { return false };
            let parent = self.members[above].life.as_ref().expect("a child has a parent");
            let vote = parent.journal.durable.0.state.branches[branch].vote;
            vote.is_none() && vote_of(life).is_some()
        })
    }

    fn deliver(&mut self, which: usize, packet: usize, fate: Fate) {
        let sent = self.life(which).wire[packet].clone();
        let Some(child) = self.members[which].below.get(&sent.prepare.at).copied() else {
            return self.life(which).deliver(packet, fate);
        };
        let lost = "lost".to_owned();
        let (number, attempt) =
            (unanimo_core::BranchNumber::from_index(sent.prepare.at), sent.attempt);
        let input = match sent.operation {
            Operation::Prepare => {
                let answer = match fate {
                    Fate::CallLost => PrepareAnswer::Failed(lost),
                    fate => match (fate, self.prepare(which, child, &sent)) {
                        (Fate::AnswerLost, _) => PrepareAnswer::Failed(lost),
                        (_, answer) => answer,
                    },
                };
                Input::PrepareAnswered { number, attempt, answer }
            }
            Operation::PhaseTwo(operation) => {
                let answer = match fate {
                    Fate::CallLost => PhaseTwoAnswer::Failed(lost),
                    fate => match (fate, self.phase_two(which, child, &sent, operation)) {
                        (Fate::AnswerLost, _) => PhaseTwoAnswer::Failed(lost),
                        (_, true) => PhaseTwoAnswer::Done,
                        (_, false) => PhaseTwoAnswer::Working { retry_after: PAUSE },
                    },
                };
                Input::PhaseTwoAnswered { number, operation, attempt, answer }
            }
        };
        self.life(which).apply(input);
        self.life(which).check_durable();
    }

    /// The child begins, or is found. Its answer is that of what is durable.
    fn prepare(&mut self, which: usize, child: usize, sent: &Packet) -> PrepareAnswer {
        let at = sent.prepare.at;
        if self.members[child].is_tombstone {
            return PrepareAnswer::Refused(Refusal::default());
        }
        let now = self.life(which).now;
        if self.members[child].life.is_none() {
            self.life(which).participants.child_begins(&sent.prepare);
            let plan = self.members[child].plan.clone();
            self.members[child].life = Some(Life::begin(plan, child as u128, now));
        }
        match vote_of(self.life(child)) {
            Some(yes) => {
                self.life(which).participants.child_votes(at, yes, now);
                match yes {
                    true => PrepareAnswer::Prepared(Default::default()),
                    false => PrepareAnswer::Refused(Refusal::default()),
                }
            }
            None => {
                let life = self.life(child);
                let until = life.tx.sleeps_until().filter(|until| *until > now);
                match until.filter(|_| life.journal.unwritten.is_empty()) {
                    Some(until) => PrepareAnswer::Asleep { until },
                    None => PrepareAnswer::Working { retry_after: PAUSE },
                }
            }
        }
    }

    /// The decision reaches the child; tells whether it has ended.
    fn phase_two(
        &mut self,
        which: usize,
        child: usize,
        sent: &Packet,
        operation: PhaseTwoOperation,
    ) -> bool {
        let at = sent.prepare.at;
        let member = &mut self.members[child];
        let ended = match &mut member.life {
            None => {
                assert_eq!(operation, PhaseTwoOperation::Cancel, "S2: COMMIT without a vote");
                self.seen.tombstones += u64::from(!member.is_tombstone);
                member.is_tombstone = true;
                true
            }
            Some(life) => {
                let voted = vote_of(life).is_some();
                let heard = life.parent.replace(operation);
                assert!(heard.is_none_or(|heard| heard == operation), "S4: {heard:?}");
                let cancels = operation == PhaseTwoOperation::Cancel;
                self.seen.ended_late += u64::from(heard.is_none() && cancels && !voted);
                self.seen.voted_and_undone +=
                    u64::from(heard.is_none() && cancels && vote_of(life) == Some(true));
                let accepted = life.apply(Input::ParentDecided { operation });
                assert!(accepted, "S2: {operation:?} of a child that has not voted");
                life.check_durable();
                life.durable_phase().ended_at().is_some()
            }
        };
        self.life(which).participants.child_hears(at, operation, ended);
        ended
    }

    fn life(&mut self, which: usize) -> &mut Life {
        self.members[which].life.as_mut().expect("it has begun")
    }

    /// Time is the same for all of them, and passes for nobody alone.
    fn one_clock(&mut self) {
        let lives = || self.members.iter().filter_map(|member| member.life.as_ref());
        let now = lives().map(|life| life.now).max().expect("the first has begun");
        for life in self.members.iter_mut().filter_map(|member| member.life.as_mut()) {
            life.now = now;
            if life.tx.wake_at(&life.policy).is_some_and(|at| at <= now) {
                life.apply(Input::Tick);
                life.check_durable();
            }
        }
    }

    fn check(&self) {
        for member in &self.members {
            let (Some((above, branch)), Some(life)) = (member.above, &member.life) else {
                continue;
            };
            let parent = self.members[above].life.as_ref().expect("a child has a parent");
            let (phase, its) = (life.durable_phase(), parent.durable_phase());
            let committed = phase.decision() == Some(Decision::Commit);
            let parents = its.decision().map(|decision| decision == Decision::Commit);
            assert!(
                !committed || parents == Some(true),
                "S1: the child of {branch} committed alone"
            );
            let aborts = matches!(phase.decision(), Some(Decision::Abort(_)));
            assert!(!aborts || parents != Some(true), "S1: the child of {branch} aborted alone");
            if its.ended_at().is_some() {
                assert!(
                    phase.ended_at().is_some(),
                    "{its:?} before its child of {branch}: {phase:?}"
                );
            }
        }
    }

    /// Faults are healed: all is written and answered, and time passes.
    pub(crate) fn heal(&mut self) {
        for _ in 0..FAMILY_ROUNDS_MAX {
            let mut moved = false;
            for which in 0..self.members.len() {
                while let Some(life) = &mut self.members[which].life {
                    life.write(usize::MAX);
                    if let Some(packet) = life.awaited_packets().first().copied() {
                        self.deliver(which, packet, Fate::Done);
                    } else if !life.awaited_locks().is_empty() {
                        life.play(Move::AnswerLocks(0, crate::plan::LockFate::Granted));
                    } else {
                        break;
                    }
                    moved = true;
                }
            }
            self.check();
            if moved {
                continue;
            }
            let lives = self.members.iter().filter_map(|member| member.life.as_ref());
            let Some(wake) = lives.filter_map(|life| life.tx.wake_at(&life.policy)).min() else {
                break;
            };
            let top = self.life(0);
            top.now = top.now.max(wake);
            self.one_clock();
        }
        for life in self.members.iter().filter_map(|member| member.life.as_ref()) {
            let phase = life.durable_phase();
            assert!(phase.ended_at().is_some(), "L1: never ended: {:?}", life.tx);
        }
    }

    pub(crate) fn check_end(&mut self) {
        let top = self.members[0].life.as_ref().expect("it has begun");
        let committed = top.committed();
        let has_children = self.members.iter().any(|member| member.above.is_some());
        let seen = &mut self.seen;
        seen.aborted += u64::from(!committed && has_children);
        seen.committed += u64::from(committed && has_children);
        seen.committed_by_pivot +=
            u64::from(committed && has_children && top.order.pivot.is_some());
        for member in &self.members {
            let Some(life) = &member.life else { continue };
            life.check_end();
            let Some((above, branch)) = member.above else { continue };
            let parent = self.members[above].life.as_ref().expect("a child has a parent");
            assert_eq!(life.committed(), parent.committed(), "S1: the child of {branch}");
            let of_parent = &parent.participants.rows[branch];
            let is_left = matches!(of_parent.effect, Effect::Held | Effect::Committed);
            assert_eq!(is_left, life.committed(), "the child of {branch}");
            seen.refused += u64::from(of_parent.vote == Some(unanimo_core::Vote::Refused));
            seen.grandchild_committed += u64::from(life.committed() && above > 0);
        }
    }
}

/// Answer of a child to its parent, of what is durable: yes once it is in doubt, and no once it has ended.
fn vote_of(life: &Life) -> Option<bool> {
    match life.durable_phase() {
        Phase::Scheduled | Phase::Active => None,
        Phase::InDoubt { .. } => Some(true),
        Phase::Decided { decision, .. } => (decision == Decision::Commit).then_some(true),
        Phase::Ended { decision, .. } => Some(decision == Decision::Commit),
    }
}

impl Seen {
    pub(crate) fn add(&mut self, other: &Self) {
        let mut other = other.clone();
        for ((_, count), (_, more)) in self.all().into_iter().zip(other.all()) {
            *count += *more;
        }
    }

    fn all(&mut self) -> [(&'static str, &mut u64); 10] {
        [
            ("committed", &mut self.committed),
            ("committed with a child of a child", &mut self.grandchild_committed),
            ("aborted", &mut self.aborted),
            ("undone after the child's vote", &mut self.voted_and_undone),
            ("refused by a child", &mut self.refused),
            ("aborted while the child was at work", &mut self.ended_late),
            ("aborted before the child began", &mut self.tombstones),
            ("in a crash before a vote was told", &mut self.crashed_between),
            ("committed by a pivot", &mut self.committed_by_pivot),
            ("in a crash of one alone", &mut self.crashed_alone),
        ]
    }

    pub(crate) fn check(mut self, cases: u64) {
        for (name, count) in self.all() {
            assert!(*count * 50 >= cases, "in {cases} plans only {count} were {name}");
        }
    }
}
