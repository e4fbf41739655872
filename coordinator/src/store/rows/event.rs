//! Events: lines for people.

use sqlx::{FromRow, Row};
use unanimo_core::{Event, EventKind, TxId, Version};

use super::super::{Error, in_full};
use super::{corrupt, ms_from_column, number_from_column};

/// Operators' acts on a transaction. They outlive it, and so are not in the log.
pub(in crate::store) const SELECT_EVENTS: &str = "
SELECT version, CAST(ordinal AS bigint) AS ordinal, at_ms, kind, branch, detail FROM events
WHERE tx_id = $1 AND audit";

/// A row of [`SELECT_EVENTS`], or an event in the log.
#[derive(Clone, Debug, FromRow)]
pub(in crate::store) struct EventRow {
    pub(super) version: i64,
    pub(super) ordinal: i64,
    pub(super) at_ms: i64,
    pub(super) kind: String,
    pub(super) branch: Option<i16>,
    pub(super) detail: String,
}

/// Returns the acts that can be read.
pub(in crate::store) fn acts<R: Row>(tx_id: TxId, rows: &[R]) -> Vec<EventRow>
where
    for<'r> EventRow: FromRow<'r, R>,
{
    let read = rows.iter().filter_map(|row| {
        let row = EventRow::from_row(row);
        let row = row.map_err(|source| Error::Database { doing: "read a row", source });
        row.inspect_err(|error| tell(tx_id, error)).ok()
    });
    read.collect()
}

/// Returns the events that can be read, oldest first. One that cannot is a line that people miss, and no more.
pub(in crate::store) fn events(tx_id: TxId, mut rows: Vec<EventRow>) -> Vec<Event> {
    rows.sort_by_key(|row| (row.version, row.ordinal));
    let read = rows
        .into_iter()
        .filter_map(|row| row.into_event().inspect_err(|error| tell(tx_id, error)).ok());
    read.collect()
}

fn tell(tx_id: TxId, error: &Error) {
    let error = in_full(error);
    tracing::warn!(%tx_id, error, "an event of the transaction cannot be read");
}

impl EventRow {
    /// Returns the event with its version, if it can be read.
    pub(super) fn read_whole(&self) -> Option<(Version, Event)> {
        let version = Version(self.version);
        self.clone().into_event().ok().map(|event| (version, event))
    }

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
