//! Column `kind` of the log: what statements have to know of a row without reading its body.

use super::super::PhaseName;
use super::StateColumns;

/// Bits of the phase. From 5 on it is an end.
const PHASE: i16 = 0x0f;
/// It sleeps.
const ASLEEP: i16 = 0x10;
/// It is a saga.
const SAGA: i16 = 0x20;
/// It ended against its decision, and nobody has cleared that: its details stay.
const HELD: i16 = 0x40;
/// It has ended, or something holds it up: it may be news. In statements it is 128.
pub(super) const NEWS: i16 = 0x80;

/// Reasons for which a person has to look at a transaction, in column `reasons` of `parked`.
const STALLED: i16 = 1;
const UNANSWERED: i16 = 2;
const REFUSED: i16 = 4;
const TOO_LARGE: i16 = 8;
const HEURISTIC: i16 = 16;

/// Owner, in `parked`, of what has ended and needs a person: nobody who looks for what is open comes to it. Incarnations
/// begin at 1, and 0 is the owner of what could not be read.
pub(in crate::store) const NOBODY: i64 = -1;

/// Returns the number of a phase's word; that of the active phase for a word that is none.
fn phase_number(phase: &str) -> i16 {
    let found = PhaseName::ALL.iter().zip(0_i16..).find(|(name, _)| name.as_str() == phase);
    found.map_or(1, |(_, number)| number)
}

/// Returns the phase of a kind.
pub(in crate::store) fn phase_of(kind: i16) -> PhaseName {
    let index = usize::try_from(kind & PHASE).unwrap_or(1);
    PhaseName::ALL.get(index).copied().unwrap_or(PhaseName::Active)
}

/// Tells whether a kind is of what ended against its decision, and nobody has cleared that.
pub(in crate::store) fn is_held(kind: i16) -> bool {
    kind & HELD != 0
}

/// Tells whether a kind is of what may be news.
pub(in crate::store) fn is_news(kind: i16) -> bool {
    kind & NEWS != 0
}

impl StateColumns {
    /// Returns the kind of a row with this state.
    pub(in crate::store) fn kind(&self, is_saga: bool) -> i16 {
        let is_held = self.heuristic != "none" && !self.forgotten;
        let mark = |is: bool, bit| if is { bit } else { 0 };
        phase_number(&self.phase)
            | mark(self.wake_ms.is_some(), ASLEEP)
            | mark(is_saga, SAGA)
            | mark(is_held, HELD)
    }

    /// Returns the reasons for which a person has to look at it; 0 if nobody has to.
    pub(in crate::store) fn reasons(&self) -> i16 {
        if !self.attention {
            return 0;
        }
        let is_open = self.ended_ms.is_none();
        let refused = is_open && self.alarms.refused;
        let too_large = is_open && self.alarms.too_large;
        let mark = |is: bool, bit| if is { bit } else { 0 };
        mark(is_open && (self.stalled || refused || too_large), STALLED)
            | mark(self.stalled && self.decided_ms.is_none(), UNANSWERED)
            | mark(refused, REFUSED)
            | mark(too_large, TOO_LARGE)
            | mark(self.heuristic != "none", HEURISTIC)
    }
}

/// Numbers of transactions that need a person.
pub(in crate::store) const COUNT_ATTENTION: &str = "
SELECT count(*) FILTER (WHERE reasons & 1 <> 0) AS stalled,
    count(*) FILTER (WHERE reasons & 2 <> 0) AS unanswered,
    count(*) FILTER (WHERE reasons & 4 <> 0) AS refused,
    count(*) FILTER (WHERE reasons & 8 <> 0) AS too_large,
    count(*) FILTER (WHERE reasons & 16 <> 0) AS heuristic,
    (SELECT count(*) FROM aside) AS unreadable
FROM parked WHERE reasons <> 0";
