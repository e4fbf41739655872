//! The participants: a barrier as DESIGN describes it, one row a branch, and what became of the
//! effects. The promises are checked against this record alone.

use unanimo_core::{
    COORDINATOR, Compensation, HeuristicKind, Mode, Payload, PhaseTwoAnswer, PhaseTwoOperation,
    PrepareAnswer, Refusal, Timestamp, Vote,
};

use crate::plan::{Fate, Order};

/// Effect of a branch at its participant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Effect {
    #[default]
    None,
    Held,
    Committed,
    Undone,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub(crate) vote: Option<Vote>,
    pub(crate) voted_at: Timestamp,
    pub(crate) effect: Effect,
    pub(crate) cancelled: bool,
    pub(crate) committed: bool,
    /// The participant, or an operator, ended it otherwise: nothing more can be said of it.
    pub(crate) by_word: bool,
    /// Words of operators about it.
    pub(crate) said: Vec<HeuristicKind>,
    pub(crate) mode: Option<Mode>,
    pub(crate) kept: bool,
    pub(crate) by_initiator: bool,
    /// It is a transaction of its own.
    pub(crate) is_child: bool,
    /// Latest of the times after which a Prepare must be refused; `None` if some had none.
    refused_from: Option<Timestamp>,
    prepare_came: bool,
}

impl Row {
    pub(crate) fn said_yes(&self) -> bool {
        self.vote.is_some_and(Vote::is_yes)
    }
}

/// A Prepare as it goes over the wire.
#[derive(Clone, Debug)]
pub(crate) struct Prepare {
    pub(crate) at: usize,
    pub(crate) prepare_until: Option<Timestamp>,
    pub(crate) must_succeed: bool,
    pub(crate) inputs: Vec<(String, Payload)>,
}

#[derive(Debug)]
pub(crate) struct Participants {
    pub(crate) rows: Vec<Row>,
    pub(crate) order: Order,
    pub(crate) skew_ms: u64,
}

impl Participants {
    pub(crate) fn new(specs: &[unanimo_core::BranchSpec], order: Order, skew_ms: u64) -> Self {
        let row = |spec: &unanimo_core::BranchSpec| Row {
            mode: Some(spec.mode),
            kept: spec.step.compensation == Compensation::Kept,
            is_child: spec.participant.as_str() == COORDINATOR,
            ..Row::default()
        };
        Self { rows: specs.iter().map(row).collect(), order, skew_ms }
    }

    /// Output that every execution of the branch has.
    pub(crate) fn output(&self, at: usize) -> Payload {
        if self.rows[at].is_child || self.rows[at].mode == Some(Mode::TwoPhaseCommit) {
            return Payload::default();
        }
        Payload::from(bytes::Bytes::from(format!("output of {at}")))
    }

    pub(crate) fn prepare(&mut self, call: &Prepare, fate: Fate, now: Timestamp) -> PrepareAnswer {
        if fate == Fate::CallLost {
            return PrepareAnswer::Failed("lost".into());
        }
        let at = call.at;
        let clock = Timestamp(now.0 - self.skew_ms);
        self.note_limit(call);
        let answer = match self.rows[at].vote {
            Some(vote) => vote,
            None if call.prepare_until.is_some_and(|until| clock > until) => {
                self.vote(at, Vote::Refused, now)
            }
            None => match fate {
                Fate::Working(ms) => {
                    let retry_after = std::time::Duration::from_millis(ms);
                    return PrepareAnswer::Working { retry_after };
                }
                // Not stored.
                Fate::Refused | Fate::ReadOnly if call.must_succeed => Vote::Refused,
                Fate::Refused => self.vote(at, Vote::Refused, now),
                Fate::ReadOnly if self.rows[at].mode == Some(Mode::TwoPhaseCommit) => {
                    self.vote(at, Vote::ReadOnly, now)
                }
                _ => {
                    self.check_effect(call);
                    self.rows[at].effect = Effect::Held;
                    self.vote(at, Vote::Prepared, now)
                }
            },
        };
        match (fate, answer) {
            (Fate::AnswerLost, _) => PrepareAnswer::Failed("lost".into()),
            (_, Vote::Prepared) => PrepareAnswer::Prepared(self.output(at)),
            (_, Vote::ReadOnly) => PrepareAnswer::ReadOnly,
            (_, Vote::Refused) => PrepareAnswer::Refused(Refusal::default()),
        }
    }

    fn note_limit(&mut self, call: &Prepare) {
        let row = &mut self.rows[call.at];
        row.refused_from = match (row.prepare_came, row.refused_from, call.prepare_until) {
            (false, _, until) => until,
            (true, Some(before), Some(until)) => Some(before.max(until)),
            (true, _, _) => None,
        };
        row.prepare_came = true;
    }

    fn vote(&mut self, at: usize, vote: Vote, now: Timestamp) -> Vote {
        self.rows[at].vote = Some(vote);
        self.rows[at].voted_at = now;
        vote
    }

    /// An effect comes into being: whatever it depends on has said yes, and none of that is undone.
    fn check_effect(&self, call: &Prepare) {
        let at = call.at;
        for before in (0..self.rows.len()).filter(|before| self.order.depends[at][*before]) {
            let row = &self.rows[before];
            // One that its initiator calls is not waited for.
            let over = row.said_yes() || row.by_initiator || row.by_word;
            // One that an operator has ended is sent no Cancel any more, and may still come.
            let known = self.rows[at].by_initiator || self.rows[at].by_word || over;
            assert!(known, "the effect of {at} came before the vote of {before}");
            // A pivot that an operator has answered for may still be under way, and is cancelled then.
            let said = self.rows[at].said.contains(&HeuristicKind::Rollback);
            assert!(
                !row.cancelled || self.rows[at].kept || self.rows[at].by_word || said,
                "the effect of {at} came after {before} was compensated"
            );
        }
        for (name, output) in &call.inputs {
            let before: usize = name.trim_start_matches("of_").parse().unwrap();
            assert_eq!(*output, self.output(before), "{at} got another output of {before}");
        }
    }

    pub(crate) fn phase_two(
        &mut self,
        call: &Prepare,
        operation: PhaseTwoOperation,
        fate: Fate,
    ) -> PhaseTwoAnswer {
        match fate {
            Fate::CallLost => return PhaseTwoAnswer::Failed("lost".into()),
            Fate::Working(ms) => {
                let retry_after = std::time::Duration::from_millis(ms);
                return PhaseTwoAnswer::Working { retry_after };
            }
            _ => {}
        }
        let at = call.at;
        // A tombstone is kept past the bound of the Prepare that it is to refuse; that of a pivot has none.
        if operation == PhaseTwoOperation::Cancel && !self.rows[at].prepare_came {
            self.note_limit(call);
        }
        let as_told = match operation {
            PhaseTwoOperation::Commit => HeuristicKind::Commit,
            PhaseTwoOperation::Cancel => HeuristicKind::Rollback,
        };
        self.rows[at].by_word |= matches!(fate, Fate::Heuristic(kind) if kind != as_told);
        match operation {
            PhaseTwoOperation::Commit => self.commit(at),
            PhaseTwoOperation::Cancel => self.cancel(at),
        }
        match fate {
            Fate::AnswerLost => PhaseTwoAnswer::Failed("lost".into()),
            Fate::Heuristic(kind) => PhaseTwoAnswer::Heuristic { kind, note: "own will".into() },
            _ => PhaseTwoAnswer::Done,
        }
    }

    /// A child begins: from now on it may have effects.
    pub(crate) fn child_begins(&mut self, call: &Prepare) {
        self.check_effect(call);
        self.rows[call.at].effect = Effect::Held;
    }

    /// A child is seen to have voted yes, or to have ended with nothing left.
    pub(crate) fn child_votes(&mut self, at: usize, yes: bool, now: Timestamp) {
        let row = &mut self.rows[at];
        let (vote, effect) = match yes {
            true => (Vote::Prepared, row.effect),
            false => (Vote::Refused, Effect::Undone),
        };
        row.effect = effect;
        if row.vote.is_none() {
            self.vote(at, vote, now);
        }
    }

    /// The decision reaches a child, which has ended or has not.
    pub(crate) fn child_hears(&mut self, at: usize, operation: PhaseTwoOperation, ended: bool) {
        let effect = self.rows[at].effect;
        match operation {
            PhaseTwoOperation::Commit => self.commit(at),
            PhaseTwoOperation::Cancel => self.cancel(at),
        }
        if !ended {
            self.rows[at].effect = effect;
        }
    }

    fn commit(&mut self, at: usize) {
        self.rows.iter().enumerate().for_each(|(other, row)| {
            assert!(!row.cancelled, "S1: {other} was cancelled, and {at} is committed");
        });
        let row = &mut self.rows[at];
        assert_ne!(row.mode, Some(Mode::Saga), "a saga's own step {at} was sent a commit");
        assert_eq!(row.vote, Some(Vote::Prepared), "S2: {at} is committed, and never prepared");
        row.committed = true;
        if row.effect == Effect::Held {
            row.effect = Effect::Committed;
        }
    }

    fn cancel(&mut self, at: usize) {
        self.rows.iter().enumerate().for_each(|(other, row)| {
            assert!(!row.committed, "S1: {other} was committed, and {at} is cancelled");
        });
        assert!(!self.order.is_after_pivot(at), "{at} comes after the pivot, and is cancelled");
        assert!(!self.rows[at].kept, "{at} is kept, and was cancelled");
        if let Some(pivot) = self.order.pivot
            && !self.rows[pivot].said.contains(&HeuristicKind::Rollback)
        {
            let vote = self.rows[pivot].vote;
            assert!(!vote.is_some_and(Vote::is_yes), "the pivot said yes, and {at} is cancelled");
            assert!(at != pivot || vote.is_some(), "the pivot was cancelled unanswered");
        }
        for after in (0..self.rows.len()).filter(|after| self.order.depends[*after][at]) {
            let row = &self.rows[after];
            // Nobody knows when a pivot will be undone that never answers: the others do not wait for it.
            let said = row.said.contains(&HeuristicKind::Rollback);
            let said = said && self.order.pivot == Some(after);
            let gone = row.effect != Effect::Held || row.kept || row.by_word || said;
            assert!(gone, "{at} was compensated before {after}, which depends on it");
        }
        let row = &mut self.rows[at];
        row.cancelled = true;
        if row.effect == Effect::Held {
            row.effect = Effect::Undone;
        }
        // The tombstone.
        row.vote.get_or_insert(Vote::Refused);
    }

    /// Rows that can mean nothing any more are deleted.
    pub(crate) fn purge(&mut self, now: Timestamp) {
        let clock = Timestamp(now.0 - self.skew_ms);
        let purged = |row: &Row| {
            let dead = row.vote == Some(Vote::Refused) || row.effect == Effect::Undone;
            dead && (!row.prepare_came || row.refused_from.is_some_and(|until| clock > until))
        };
        for row in self.rows.iter_mut().filter(|row| purged(row)) {
            row.vote = None;
            row.effect = Effect::None;
        }
    }
}
