//! Rows of the log, and the transactions that they become.

use std::collections::BTreeMap;

use sqlx::{ColumnIndex, Decode, FromRow, Row, Type};
use unanimo_core::{BranchNumber, Digest, Event, Incarnation, ParticipantName, Timestamp, Version};
use uuid::Uuid;

use super::super::transactions::Found;
use super::super::{Claimed, Earlier, Error, PhaseName, Stored, Unreadable};
use super::body::Content;
use super::kind::phase_of;
use super::{corrupt, digest_from_columns, ms_from_column};

/// Completes a SELECT of all rows of transactions, each one's together; with `data`, if their payloads and outputs
/// are wanted. Recorded history is never read with them.
macro_rules! select_log {
    ($rest:literal) => {
        concat!(
            "SELECT tx_id, follows, version, owner, stripped_ms, body FROM log AS entry ",
            $rest
        )
    };
    (data, $rest:literal) => {
        concat!(
            "SELECT tx_id, follows, version, owner, stripped_ms, body, data FROM log AS entry ",
            $rest
        )
    };
}
pub(in crate::store) use select_log;

/// A row of the log.
#[derive(Debug, FromRow)]
struct LogRow {
    follows: i64,
    version: i64,
    owner: i64,
    stripped_ms: Option<i64>,
    body: Vec<u8>,
    #[sqlx(default)]
    data: Option<Vec<u8>>,
}

/// A transaction that was read, whole or as far as it goes.
#[derive(Debug)]
pub(in crate::store) struct Read {
    pub(in crate::store) tx_id: Uuid,
    pub(in crate::store) content: Content,
    /// The part that cannot be read.
    error: Option<Error>,
}

/// The first row of a transaction, and the phase of its last one.
#[derive(Debug)]
pub(in crate::store) struct Begin {
    /// As far as its first row tells.
    pub(in crate::store) read: Read,
    /// Phase by its last row, if that was asked for.
    pub(in crate::store) phase: Option<PhaseName>,
}

impl Read {
    /// A transaction on whose rows the database gave up.
    pub(in crate::store) fn failed(tx_id: Uuid, source: sqlx::Error) -> Self {
        let doing = "read its rows";
        Self { error: Some(Error::Database { doing, source }), ..Self::new(tx_id) }
    }

    /// A transaction of which nothing is stored but its name.
    pub(in crate::store) fn without_rows(tx_id: Uuid) -> Self {
        Self { error: Some(Error::NoRows), ..Self::new(tx_id) }
    }

    /// A transaction that can be read, for tests to fill in.
    #[cfg(test)]
    pub(in crate::store) fn begun(tx_id: Uuid) -> Self {
        Self::new(tx_id)
    }

    fn new(tx_id: Uuid) -> Self {
        let mut content = Content::default();
        content.row.tx_id = tx_id;
        Self { tx_id, content, error: None }
    }

    /// Adds the next row of the transaction.
    fn add(&mut self, row: Result<LogRow, sqlx::Error>) {
        if self.error.is_none() {
            self.error = self.try_add(row).err();
        }
    }

    fn try_add(&mut self, row: Result<LogRow, sqlx::Error>) -> Result<(), Error> {
        let row = row.map_err(|source| Error::Database { doing: "read a row", source })?;
        let before = &mut self.content.row;
        let is_first = before.version == 0;
        if row.follows != before.version && !(is_first && row.stripped_ms.is_some()) {
            let found = format!("version {} after version {}", row.follows, before.version);
            return Err(corrupt("log.follows", found));
        }
        (before.version, before.owner) = (row.version, row.owner);
        before.stripped = row.stripped_ms.is_some();
        if row.body.is_empty() {
            // A new owner has taken it over: it is in memory from then on, or open like others.
            before.wake_ms = None;
            return Ok(());
        }
        self.content.add_body(&row.body)?;
        row.data.map_or(Ok(()), |data| self.content.add_data(&data))
    }

    /// Returns the transaction, if it can be read.
    pub(in crate::store) fn into_found(self) -> Found {
        let Self { tx_id, content, error } = self;
        let Content { row, branches, mut outputs, .. } = content;
        let gid = row.gid.clone();
        outputs.sort_by_key(|output| output.number);
        let stored = match error {
            Some(error) => Err(error),
            None => row.into_stored(branches, outputs),
        };
        stored.map_err(|error| Unreadable::new(tx_id, &gid, &error))
    }

    /// Word of its phase, as far as it can be read.
    pub(in crate::store) fn phase(&self) -> &str {
        &self.content.row.phase
    }

    /// The client's name for it, as far as it can be read.
    pub(in crate::store) fn gid(&self) -> &str {
        &self.content.row.gid
    }

    /// Digest of its request, if that can be read: the rest of it need not.
    pub(in crate::store) fn digest(&self) -> Result<Digest, Unreadable> {
        let row = &self.content.row;
        let unreadable = |error: &Error| Unreadable::new(self.tx_id, &row.gid, error);
        match &self.error {
            Some(error) if row.digest.is_empty() => Err(unreadable(error)),
            _ => digest_from_columns(row.digest_version, &row.digest)
                .map_err(|error| unreadable(&error)),
        }
    }

    /// The time at which it was begun, as far as it can be read.
    pub(in crate::store) fn created_at(&self) -> Timestamp {
        ms_from_column(self.content.row.created_ms)
    }

    /// Returns what is stored of it, if it can be read.
    pub(in crate::store) fn earlier(&self) -> Option<Earlier> {
        let Content { row, branches, outputs, .. } = &self.content;
        let number = |number: i16| u16::try_from(number).ok().and_then(BranchNumber::new);
        self.is_whole().then(|| Earlier {
            row: Some((Incarnation(row.owner), Version(row.version))),
            branches: branches.len(),
            outputs: outputs.iter().filter_map(|output| number(output.number)).collect(),
        })
    }

    /// The caller that began it, as far as it can be read.
    pub(in crate::store) fn initiator(&self) -> &str {
        &self.content.row.initiator
    }

    /// Tells whether all its branches were named when it was begun.
    pub(in crate::store) fn is_declarative(&self) -> bool {
        self.content.row.drive == "declarative"
    }

    /// Word of its mode, as far as it can be read; empty for one that was rolled back before it was begun.
    pub(in crate::store) fn mode(&self) -> &str {
        &self.content.row.mode
    }

    /// Tells whether its metadata has all of these entries.
    pub(in crate::store) fn has_metadata(&self, entries: &BTreeMap<String, String>) -> bool {
        let known: BTreeMap<String, String> =
            serde_json::from_str(&self.content.row.metadata).unwrap_or_default();
        entries.iter().all(|(key, value)| known.get(key) == Some(value))
    }

    /// Tells whether it has a branch there.
    pub(in crate::store) fn has_branch_of(&self, participant: &ParticipantName) -> bool {
        self.content.branches.iter().any(|branch| branch.is_of(participant))
    }

    /// Tells whether its rows can be put together. Their content may make no sense all the same.
    pub(in crate::store) fn is_whole(&self) -> bool {
        self.error.is_none()
    }
}

/// Puts the rows of transactions together, each transaction's by itself: one that cannot be read takes no other
/// with it. They are in the order in which they come, and so is each one's first row before the others.
pub(in crate::store) fn read<R>(rows: &[R]) -> Vec<Read>
where
    R: Row,
    for<'r> Uuid: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> Vec<u8>: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> &'r str: ColumnIndex<R>,
{
    let mut found: Vec<Read> = Vec::new();
    for row in rows {
        // A name that is none stands for a row that cannot be read at all.
        let tx_id = row.try_get("tx_id").unwrap_or_default();
        if found.last().is_none_or(|last| last.tx_id != tx_id) {
            found.push(Read::new(tx_id));
        }
        // Its name was joined with nothing.
        if matches!(row.try_get::<Option<i64>, _>("follows"), Ok(None)) {
            found.pop();
            found.push(Read::without_rows(tx_id));
        } else if let Some(last) = found.last_mut() {
            last.add(LogRow::from_row(row));
        }
    }
    found
}

/// Reads the first rows of transactions, each with the kind of the last one, if that was asked for.
pub(in crate::store) fn begins<R>(rows: &[R]) -> Vec<Begin>
where
    R: Row,
    for<'r> Uuid: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> i16: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> Vec<u8>: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> &'r str: ColumnIndex<R>,
{
    let begin = |row: &R| {
        let mut read = Read::new(row.try_get("tx_id").ok()?);
        read.add(LogRow::from_row(row));
        let kind = row.try_get::<Option<i16>, _>("kind").ok()?;
        Some(Begin { read, phase: kind.map(phase_of) })
    };
    rows.iter().filter_map(begin).collect()
}

/// Returns the transactions that can be acted on; one that is not whole cannot.
pub(in crate::store) fn claimed(found: Vec<Read>) -> Claimed {
    let mut claimed = Claimed::default();
    for read in found {
        match read.into_found() {
            Ok(stored) if stored.is_torn() => claimed.unreadable.push(Unreadable::torn(&stored)),
            Ok(stored) => claimed.records.push(stored.record),
            Err(unreadable) => claimed.unreadable.push(unreadable),
        }
    }
    claimed
}

/// Returns the only transaction that was read, if there is one. One that is not whole cannot be read.
pub(in crate::store) fn one(found: Option<Read>) -> Result<Option<Stored>, Error> {
    let unreadable = |unreadable| Error::Unreadable(Box::new(unreadable));
    match found.map(Read::into_found).transpose().map_err(unreadable)? {
        Some(torn) if torn.is_torn() => Err(unreadable(Unreadable::torn(&torn))),
        found => Ok(found),
    }
}

impl Read {
    /// Returns it, if it can be read, and its events that can be read, each with its version.
    pub(in crate::store) fn with_events(self) -> (Found, Vec<(Version, Event)>) {
        let events = self.content.events.iter().filter_map(super::event::EventRow::read_whole);
        let events = events.collect();
        (self.into_found(), events)
    }

    /// Returns its events.
    pub(in crate::store) fn into_events(self) -> Vec<super::event::EventRow> {
        self.content.events
    }
}
