//! Rows of `events`.

use sqlx::{FromRow, Row};
use unanimo_core::{Event, EventKind, TxId};

use super::super::{Error, in_full};
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

/// Returns the events that can be read. One that cannot is a line that people miss, and no more.
pub(in crate::store) fn events<R: Row>(tx_id: TxId, rows: &[R]) -> Vec<Event>
where
    for<'r> EventRow: FromRow<'r, R>,
{
    let read = rows.iter().filter_map(|row| {
        let row = EventRow::from_row(row);
        let row = row.map_err(|source| Error::Database { doing: "read a row", source });
        match row.and_then(EventRow::into_event) {
            Ok(event) => Some(event),
            Err(error) => {
                let error = in_full(&error);
                tracing::warn!(%tx_id, error, "an event of the transaction cannot be read");
                None
            }
        }
    });
    read.collect()
}

impl EventRow {
    fn into_event(self) -> Result<Event, Error> {
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
