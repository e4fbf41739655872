//! Recorded history, in a column of its own: it may be longer than all the rest, and only who asks for it reads it.

use sqlx::FromRow;
use unanimo_core::Version;
use unanimo_core::history::Entry;

use super::super::Error;
use super::bytes::{Maker, Reader};
use super::to_json;

/// Bytes of recorded history in an answer.
pub(in crate::store) const HISTORY_BYTES_MAX: i64 = 4 << 20;

/// Bytes of history in a row that is made of the tables of an earlier version, unless one entry has more.
const ROW_BYTES_MAX: usize = 1 << 20;

/// Rows of the log after a version that have history: an entry is written with the row of its version, or a later one.
/// Of those beyond what fits into an answer no more is read than the number of their entries.
pub(in crate::store) const SELECT_HISTORY: &str = "
SELECT CASE WHEN bytes_before < $3 THEN history END AS history,
    CASE WHEN bytes_before >= $3 THEN substr(history, 1, 11) END AS head
FROM (
    SELECT version, history,
        CAST(sum(length(history)) OVER (ORDER BY follows) AS bigint) - length(history) AS bytes_before
    FROM log WHERE tx_id = $1 AND version > $2 AND history IS NOT NULL) AS entry
ORDER BY version";

/// A row of [`SELECT_HISTORY`].
#[derive(Debug, FromRow)]
pub(in crate::store) struct HistoryRow {
    history: Option<Vec<u8>>,
    head: Option<Vec<u8>>,
}

/// Makes the column: the number of the entries, and then each one's version and text.
fn column<T: AsRef<str>>(entries: impl ExactSizeIterator<Item = (i64, T)>) -> Option<Vec<u8>> {
    let count = i64::try_from(entries.len()).ok().filter(|count| *count > 0)?;
    let mut column = Maker::new();
    column.int(count);
    for (version, entry) in entries {
        column.int(version).text(entry.as_ref());
    }
    Some(column.finish())
}

/// Makes the column of entries that are written.
pub(super) fn column_of(entries: &[Entry]) -> Option<Vec<u8>> {
    column(entries.iter().map(|entry| (entry.version.0, to_json(entry))))
}

/// Makes the columns of as many rows as entries need, each with the version of its row: it is that of its last
/// entry, so that a later page begins behind the row, and of the last row it is the transaction's.
pub(super) fn columns(entries: Vec<(i64, String)>, last: i64) -> Vec<(i64, Option<Vec<u8>>)> {
    let (mut columns, mut bytes, mut above) = (Vec::new(), 0, 0);
    let mut part: Vec<(i64, String)> = Vec::new();
    for (version, entry) in entries {
        let before = part.last().map_or(0, |(before, _)| *before);
        if bytes + entry.len() > ROW_BYTES_MAX && above < before && before < last {
            columns.push((before, column(part.drain(..))));
            (bytes, above) = (0, before);
        }
        bytes += entry.len();
        part.push((version, entry));
    }
    columns.push((last, column(part.into_iter())));
    columns
}

/// Returns the entries after a version, oldest first. Those beyond what fits into an answer are empty: they are
/// counted.
pub(in crate::store) fn history(
    rows: Vec<HistoryRow>,
    after: Version,
) -> Result<Vec<String>, Error> {
    let (mut entries, mut left_out) = (Vec::new(), 0);
    for HistoryRow { history, head } in rows {
        if let Some(head) = head {
            left_out += Reader::new(&head, "log.history")?.int()?;
        }
        let Some(history) = history else { continue };
        let mut reader = Reader::new(&history, "log.history")?;
        for _ in 0..reader.int()? {
            entries.push((reader.int()?, reader.text()?));
        }
    }
    entries.retain(|(version, _)| *version > after.0);
    entries.sort_by_key(|(version, _)| *version);
    let mut bytes = 0;
    let fitting = entries.into_iter().map(|(_, entry)| {
        bytes += entry.len();
        let fits = i64::try_from(bytes).is_ok_and(|bytes| bytes <= HISTORY_BYTES_MAX);
        if fits { entry } else { String::new() }
    });
    let mut fitting: Vec<String> = fitting.collect();
    fitting.extend((0..left_out).map(|_| String::new()));
    Ok(fitting)
}
