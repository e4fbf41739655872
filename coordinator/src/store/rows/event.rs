//! Rows of `events`.

use sqlx::FromRow;
use unanimo_core::{Event, EventKind};

use super::super::Error;
use super::{corrupt, ms_from_column, number_from_column};

/// Events of a transaction, oldest first.
pub(in crate::store) const SELECT_EVENTS: &str = "
SELECT at_ms, kind, branch, detail FROM events WHERE tx_id = $1
ORDER BY version, ordinal";

/// A row of [`SELECT_EVENTS`].
#[derive(Debug, FromRow)]
pub(in crate::store) struct EventRow {
    at_ms: i64,
    kind: String,
    branch: Option<i16>,
    detail: String,
}

impl EventRow {
    pub(in crate::store) fn into_event(self) -> Result<Event, Error> {
        let kind = EventKind::ALL.iter().copied().find(|kind| kind.as_str() == self.kind);
        Ok(Event {
            at: ms_from_column(self.at_ms),
            kind: kind.ok_or_else(|| corrupt("events.kind", &self.kind))?,
            number: self
                .branch
                .map(|number| number_from_column(number, "events.branch"))
                .transpose()?,
            detail: self.detail,
        })
    }
}
