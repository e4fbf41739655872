//! A branch's row, and what each operation answers when it finds it.

use unanimo_proto::v1::HeuristicKind;

use crate::features::{
    ACTION_NOT_OFFERED, FEATURE_UNSUPPORTED, MODE_NOT_OFFERED, PAYLOAD_UNREADABLE,
};
use crate::payload::Payload;
use crate::refusal::Refusal;
use crate::resource::{Fault, PhaseTwoAnswer, PhaseTwoOperation, Voted};

/// State of a branch, by its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    Prepared,
    ReadOnly,
    Refused,
    Committed,
    Cancelled,
    Lost,
}

impl State {
    const NAMES: [(Self, &str); 7] = [
        (Self::Running, "running"),
        (Self::Prepared, "prepared"),
        (Self::ReadOnly, "read_only"),
        (Self::Refused, "refused"),
        (Self::Committed, "committed"),
        (Self::Cancelled, "cancelled"),
        (Self::Lost, "lost"),
    ];

    pub(crate) fn as_str(self) -> &'static str {
        Self::NAMES[self as usize].1
    }

    /// Tells whether it is an answer to Prepare.
    pub(super) fn is_vote(self) -> bool {
        matches!(self, Self::Prepared | Self::ReadOnly | Self::Refused)
    }

    fn parse(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|known| known.1 == name).map(|known| known.0)
    }
}

/// A branch's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) state: State,
    pub(crate) output: Payload,
    pub(crate) refusal: Refusal,
}

/// A row's columns: state, output, output_type, reason, message.
pub(crate) type Columns = (String, Vec<u8>, String, String, String);

impl Row {
    pub(crate) fn new(state: State) -> Self {
        Self { state, output: Payload::default(), refusal: Refusal::new("", "") }
    }

    pub(crate) fn refused(refusal: Refusal) -> Self {
        Self { refusal, ..Self::new(State::Refused) }
    }

    /// The row of a branch whose handler has lost its transaction.
    pub(super) fn of_loss(text: String) -> Self {
        Self { refusal: Refusal::new(TRANSACTION_LOST, text), ..Self::new(State::Running) }
    }

    /// Tells whether it is such a row: Commit and Cancel answer with a hazard for that very reason.
    pub(super) fn tells_loss(&self) -> bool {
        self.state == State::Running && self.refusal.reason == TRANSACTION_LOST
    }

    pub(crate) fn from_columns(columns: Columns) -> Result<Self, Fault> {
        let (state, output, output_type, reason, message) = columns;
        let state = State::parse(&state).ok_or_else(|| {
            Fault::SetUp(format!(
                "unanimo_barrier has the state {state}, which this version does not know"
            ))
        })?;
        let output = Payload::new(output, output_type);
        Ok(Self { state, output, refusal: Refusal { reason, message } })
    }

    /// Tells whether a replica has voted no without knowing what the work is. It has undone nothing outside of the
    /// database then, and another one, of a version that knows the work, may have done some.
    pub(super) fn is_not_understood(&self) -> bool {
        self.state == State::Refused && NOT_UNDERSTOOD.contains(&self.refusal.reason.as_str())
    }

    /// Returns the answer of a Prepare that finds this row.
    pub(crate) fn vote(self) -> Result<Voted, Fault> {
        Ok(match self.state {
            State::Running => return Err(ended_by_handler()),
            State::Prepared | State::Committed => Voted::Prepared(self.output),
            State::ReadOnly => Voted::ReadOnly,
            State::Refused => Voted::Refused(self.refusal),
            State::Cancelled | State::Lost => {
                let message = "phase two of this branch came before its Prepare, or is over";
                Voted::Refused(Refusal::new("ALREADY_ENDED", message))
            }
        })
    }

    /// Returns the answer of a Commit or Cancel that finds this row, if the handler need not run.
    pub(crate) fn end(&self, operation: PhaseTwoOperation) -> Option<PhaseTwoAnswer> {
        let heuristic = |kind, note: &str| Some(PhaseTwoAnswer::Heuristic(kind, note.to_owned()));
        match (self.state, operation) {
            (State::Prepared, _) => None,
            (State::ReadOnly, _)
            | (State::Committed, PhaseTwoOperation::Commit)
            | (State::Cancelled | State::Refused, PhaseTwoOperation::Cancel) => {
                Some(PhaseTwoAnswer::Done)
            }
            (State::Committed, PhaseTwoOperation::Cancel) => {
                heuristic(HeuristicKind::Commit, "Cancel found the branch committed")
            }
            (State::Cancelled | State::Refused, PhaseTwoOperation::Commit) => {
                heuristic(HeuristicKind::Rollback, "Commit found the branch undone")
            }
            (State::Lost, _) => heuristic(HeuristicKind::Hazard, NOTHING_TO_COMMIT),
            (State::Running, _) => heuristic(
                HeuristicKind::Hazard,
                "the branch's handler ended its local transaction by itself",
            ),
        }
    }
}

/// Reason in the row of a branch whose handler has lost its transaction.
const TRANSACTION_LOST: &str = "TRANSACTION_LOST";

/// Reasons of a vote no of who does not know the work.
const NOT_UNDERSTOOD: [&str; 4] =
    [ACTION_NOT_OFFERED, FEATURE_UNSUPPORTED, MODE_NOT_OFFERED, PAYLOAD_UNREADABLE];

/// Note of a Commit that found no trace of its branch.
pub(super) const NOTHING_TO_COMMIT: &str = "Commit found no trace of a branch that voted yes: its prepared transaction was rolled back by hand or by \
     a script, the participant's database was restored, or this is another database";

fn ended_by_handler() -> Fault {
    Fault::Lost(
        "it ended the local transaction that it was given, and what it left behind is not known",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duplicate_gets_the_stored_answer_and_a_late_prepare_never_a_yes() {
        let vote = |state| Row::new(state).vote();
        assert_eq!(vote(State::Prepared).expect("a vote"), Voted::Prepared(Payload::default()));
        assert_eq!(vote(State::ReadOnly).expect("a vote"), Voted::ReadOnly);
        for state in [State::Refused, State::Cancelled, State::Lost] {
            assert!(matches!(vote(state), Ok(Voted::Refused(_))), "S8: {state:?}");
        }
        assert!(matches!(vote(State::Running), Err(Fault::Lost(_))));
    }

    #[test]
    fn phase_two_is_done_only_where_it_agrees() {
        use HeuristicKind::{Commit, Hazard, Rollback};
        for (state, commit, cancel) in [
            (State::ReadOnly, None, None),
            (State::Committed, None, Some(Commit)),
            (State::Cancelled, Some(Rollback), None),
            (State::Refused, Some(Rollback), None),
            (State::Lost, Some(Hazard), Some(Hazard)),
            (State::Running, Some(Hazard), Some(Hazard)),
        ] {
            let row = Row::new(state);
            for (operation, expected) in
                [(PhaseTwoOperation::Commit, commit), (PhaseTwoOperation::Cancel, cancel)]
            {
                let kind = match row.end(operation).expect("an end") {
                    PhaseTwoAnswer::Heuristic(kind, _) => Some(kind),
                    PhaseTwoAnswer::Done => None,
                    PhaseTwoAnswer::Working(_) => panic!("{state:?}"),
                };
                assert_eq!(kind, expected, "S11: {state:?} {operation:?}");
            }
        }
        assert_eq!(Row::new(State::Prepared).end(PhaseTwoOperation::Commit), None);
    }

    #[test]
    fn a_no_without_knowledge_of_the_work_is_told_from_others() {
        for (reason, expected) in [
            ("ACTION_NOT_OFFERED", true),
            ("FEATURE_UNSUPPORTED", true),
            ("MODE_NOT_OFFERED", true),
            ("PAYLOAD_UNREADABLE", true),
            ("TOO_LATE", false),
            ("NO_MONEY", false),
        ] {
            let row = Row::refused(Refusal::new(reason, ""));
            assert_eq!(row.is_not_understood(), expected, "{reason}");
            assert!(!Row { state: State::Cancelled, ..row }.is_not_understood());
        }
    }

    #[test]
    fn states_have_their_names() {
        for (state, name) in State::NAMES {
            assert_eq!(state.as_str(), name);
            assert_eq!(State::parse(name), Some(state));
        }
    }
}
