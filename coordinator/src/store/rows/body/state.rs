//! The state, as a part of a row's body.

use super::super::super::Error;
use super::super::bytes::{Maker, Reader};
use super::super::{StateColumns, TransactionRow, progress};
use super::COMMON;

const PHASES: &[&str] =
    &["scheduled", "active", "in_doubt", "committing", "aborting", "committed", "aborted"];
const CAUSES: &[&str] = &[
    "",
    "refused",
    "deadline",
    "rollback",
    "unlisted",
    "no_vote",
    "gave_up",
    "output_dropped",
    "locked",
    "parent",
];
const HEURISTICS: &[&str] = &["none", "mixed", "hazard"];

/// A state whose branches' progress is JSON, as an earlier version wrote it.
pub(super) const STATE_WITH_JSON: u8 = 2;
pub(super) const STATE: u8 = 6;

pub(in super::super) fn put_state(body: &mut Maker, state: &StateColumns) {
    let flags = u8::from(state.stalled) | u8::from(state.forgotten) << 1;
    body.byte(match &state.progress {
        progress::Column::Json(_) => STATE_WITH_JSON,
        progress::Column::Fields(_) => STATE,
    });
    body.word(PHASES, &state.phase)
        .word(CAUSES, state.abort_cause.as_deref().unwrap_or_default())
        .optional(state.abort_branch.map(i64::from))
        .optional(state.decided_ms)
        .optional(state.ended_ms)
        .word(HEURISTICS, &state.heuristic)
        .byte(flags);
    match &state.progress {
        progress::Column::Json(json) => body.word(COMMON, json),
        progress::Column::Fields(bytes) => body.bytes(bytes),
    };
    body.word(COMMON, &state.more).optional(state.wake_ms);
}

impl TransactionRow {
    pub(super) fn read_state(
        &mut self,
        reader: &mut Reader<'_>,
        is_json: bool,
    ) -> Result<(), Error> {
        self.phase = reader.word(PHASES)?;
        self.abort_cause = Some(reader.word(CAUSES)?).filter(|cause| !cause.is_empty());
        self.abort_branch = match reader.optional()? {
            None => None,
            Some(number) => Some(i16::try_from(number).map_err(|_| reader.corrupt("a branch"))?),
        };
        self.decided_ms = reader.optional()?;
        self.ended_ms = reader.optional()?;
        self.heuristic = reader.word(HEURISTICS)?;
        let flags = reader.byte()?;
        if flags & !(1 | 2) != 0 {
            return Err(reader.corrupt(format!("flags {flags}")));
        }
        (self.stalled, self.forgotten) = (flags & 1 != 0, flags & 2 != 0);
        self.progress = match is_json {
            true => progress::Column::Json(reader.word(COMMON)?),
            false => progress::Column::Fields(reader.bytes()?.to_vec()),
        };
        self.more = reader.word(COMMON)?;
        self.wake_ms = reader.optional()?;
        Ok(())
    }
}
