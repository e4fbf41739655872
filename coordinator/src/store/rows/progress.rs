//! Progress of the branches, in the state of a row: each branch is a list of fields, with its number in front of each
//! and a zero behind the last. What is as it was at the begin takes no byte.
//!
//! Numbers are never given anew. A field that is not known makes the transaction unreadable: it may tell what must
//! not be done. (A reader of protobuf passes over such fields.) So does one that comes twice, against another one of
//! its kind, or out of its order: the last one would tell what nobody has written.

use unanimo_core::{Attempts, HeuristicKind, PhaseTwo, Progress, Refusal, Timestamp, Vote};
use uuid::Uuid;

use super::super::Error;
use super::bytes::{Maker, Reader};
use super::not_our_json;

const WHAT: &str = "transactions.progress";

const END: u8 = 0;
const PREPARED: u8 = 1;
const READ_ONLY: u8 = 2;
const REFUSED: u8 = 3;
const VOTED_AT: u8 = 4;
const DATABASE: u8 = 5;
const UNANSWERED: u8 = 6;
const RELEASED: u8 = 7;
const REFUSED_BY_WORD: u8 = 8;
const LISTED: u8 = 9;
const LOCKS_ASKED_AT: u8 = 10;
const REFUSAL: u8 = 11;
const OUTPUT_BY_WORD: u8 = 12;
const REFUSED_AFTER_COMMIT: u8 = 13;
const OUTPUT_TOO_LARGE: u8 = 14;
const OUTPUT_DROPPED: u8 = 15;
const NOT_OWED: u8 = 16;
const OWED: u8 = 17;
const DONE: u8 = 18;
const HEURISTIC: u8 = 19;
const ENDED_AT: u8 = 20;
const PREPARES: u8 = 21;
const FINISHES: u8 = 22;
/// A database's id that is a UUID as PostgreSQL spells it, and as 32 digits: the usual ones.
const DATABASE_HYPHENATED: u8 = 23;
const DATABASE_SIMPLE: u8 = 24;

/// Fields in the order in which they are written. Of those in one place a branch has at most one.
const ORDER: &[&[u8]] = &[
    &[PREPARED, READ_ONLY, REFUSED],
    &[VOTED_AT],
    &[LOCKS_ASKED_AT],
    &[ENDED_AT],
    &[DATABASE, DATABASE_HYPHENATED, DATABASE_SIMPLE],
    &[UNANSWERED],
    &[RELEASED],
    &[REFUSED_BY_WORD],
    &[LISTED],
    &[OUTPUT_BY_WORD],
    &[REFUSED_AFTER_COMMIT],
    &[OUTPUT_TOO_LARGE],
    &[OUTPUT_DROPPED],
    &[REFUSAL],
    &[NOT_OWED, OWED, DONE, HEURISTIC],
    &[PREPARES],
    &[FINISHES],
];

const HEURISTICS: &[&str] = &["commit", "rollback", "hazard"];

// Marks of attempts.
const FIRST_ERROR: u8 = 1;
const LAST_ERROR: u8 = 2;
/// The last error is the first one.
const SAME_ERROR: u8 = 4;
const WORKING: u8 = 8;

/// The column, in a form that is read only when somebody needs it: one that cannot be read is told then.
#[derive(Clone, Debug)]
pub(super) enum Column {
    /// JSON: of an earlier version of the program.
    Json(String),
    /// Fields.
    Fields(Vec<u8>),
}

impl Default for Column {
    fn default() -> Self {
        Self::of(&[])
    }
}

impl Column {
    pub(super) fn of(branches: &[Progress]) -> Self {
        let mut column = Maker::new();
        let mut last = Timestamp::default();
        for progress in branches {
            put(&mut column, progress, &mut last);
        }
        Self::Fields(column.finish())
    }

    /// Returns it in the present form, if it can be read.
    pub(super) fn renewed(self) -> Self {
        match &self {
            Self::Json(_) => self.read().map_or(self, |branches| Self::of(&branches)),
            Self::Fields(_) => self,
        }
    }

    pub(super) fn read(&self) -> Result<Vec<Progress>, Error> {
        let bytes = match self {
            Self::Json(json) => return serde_json::from_str(json).map_err(not_our_json(WHAT)),
            Self::Fields(bytes) => bytes,
        };
        let mut reader = Reader::new(bytes, WHAT)?;
        let (mut branches, mut last) = (Vec::new(), Timestamp::default());
        while !reader.is_at_end() {
            branches.push(take(&mut reader, &mut last)?);
        }
        Ok(branches)
    }
}

/// A time, as its distance from the one before.
fn put_time(column: &mut Maker, at: Timestamp, last: &mut Timestamp) {
    column.int(at.0.wrapping_sub(last.0).cast_signed());
    *last = at;
}

fn take_time(reader: &mut Reader<'_>, last: &mut Timestamp) -> Result<Timestamp, Error> {
    last.0 = last.0.wrapping_add(reader.int()?.cast_unsigned());
    Ok(*last)
}

fn put(column: &mut Maker, progress: &Progress, last: &mut Timestamp) {
    let Progress { vote, voted_at, database_id, refusal, phase_two, .. } = progress;
    if let Some(vote) = vote {
        column.byte(match vote {
            Vote::Prepared => PREPARED,
            Vote::ReadOnly => READ_ONLY,
            Vote::Refused => REFUSED,
        });
    }
    for (field, at) in [
        (VOTED_AT, voted_at),
        (LOCKS_ASKED_AT, &progress.locks_asked_at),
        (ENDED_AT, &progress.ended_at),
    ] {
        if let Some(at) = at {
            put_time(column.byte(field), *at, last);
        }
    }
    put_database(column, database_id);
    for (field, is) in flags(progress) {
        if is {
            column.byte(field);
        }
    }
    if let Some(Refusal { reason, message }) = refusal {
        column.byte(REFUSAL).text(reason).text(message);
    }
    match phase_two {
        PhaseTwo::Open => {}
        PhaseTwo::NotOwed => {
            column.byte(NOT_OWED);
        }
        PhaseTwo::Owed => {
            column.byte(OWED);
        }
        PhaseTwo::Done => {
            column.byte(DONE);
        }
        PhaseTwo::Heuristic { kind, note, operator } => {
            let kind = match kind {
                HeuristicKind::Commit => "commit",
                HeuristicKind::Rollback => "rollback",
                HeuristicKind::Hazard => "hazard",
            };
            column.byte(HEURISTIC).word(HEURISTICS, kind).text(note);
            put_text(column, operator.as_deref());
        }
    }
    for (field, attempts) in
        [(PREPARES, &progress.prepare_attempts), (FINISHES, &progress.phase_two_attempts)]
    {
        if attempts.count > 0 {
            put_attempts(column.byte(field), attempts, last);
        }
    }
    column.byte(END);
}

fn flags(progress: &Progress) -> [(u8, bool); 8] {
    [
        (UNANSWERED, progress.unanswered),
        (RELEASED, progress.released),
        (REFUSED_BY_WORD, progress.refused_by_word),
        (LISTED, progress.listed),
        (OUTPUT_BY_WORD, progress.output_by_word),
        (REFUSED_AFTER_COMMIT, progress.refused_after_commit),
        (OUTPUT_TOO_LARGE, progress.output_too_large),
        (OUTPUT_DROPPED, progress.output_dropped),
    ]
}

fn put_text(column: &mut Maker, text: Option<&str>) {
    match text {
        None => {
            column.byte(0);
        }
        Some(text) => {
            column.byte(1).text(text);
        }
    }
}

fn take_text(reader: &mut Reader<'_>) -> Result<Option<String>, Error> {
    match reader.byte()? {
        0 => Ok(None),
        1 => reader.text().map(Some),
        other => Err(reader.corrupt(format!("option {other}"))),
    }
}

fn put_database(column: &mut Maker, id: &str) {
    if id.is_empty() {
        return;
    }
    match Uuid::parse_str(id) {
        Ok(uuid) if uuid.hyphenated().to_string() == id => {
            column.byte(DATABASE_HYPHENATED).plain(uuid.as_bytes());
        }
        Ok(uuid) if uuid.simple().to_string() == id => {
            column.byte(DATABASE_SIMPLE).plain(uuid.as_bytes());
        }
        _ => {
            column.byte(DATABASE).text(id);
        }
    }
}

fn put_attempts(column: &mut Maker, attempts: &Attempts, last: &mut Timestamp) {
    let Attempts { count, first_at, last_at, first_error, last_error, working } = attempts;
    let is_same = first_error.is_some() && first_error == last_error;
    let mark = |is: bool, bit| if is { bit } else { 0 };
    column.int((*count).into());
    put_time(column, *first_at, last);
    put_time(column, *last_at, last);
    column.byte(
        mark(first_error.is_some(), FIRST_ERROR)
            | mark(last_error.is_some() && !is_same, LAST_ERROR)
            | mark(is_same, SAME_ERROR)
            | mark(*working > 0, WORKING),
    );
    if let Some(error) = first_error {
        column.text(error);
    }
    if let Some(error) = last_error.as_ref().filter(|_| !is_same) {
        column.text(error);
    }
    if *working > 0 {
        column.int((*working).into());
    }
}

fn take_attempts(reader: &mut Reader<'_>, last: &mut Timestamp) -> Result<Attempts, Error> {
    let count = small(reader)?;
    let (first_at, last_at) = (take_time(reader, last)?, take_time(reader, last)?);
    let marks = reader.byte()?;
    if marks & !(FIRST_ERROR | LAST_ERROR | SAME_ERROR | WORKING) != 0 {
        return Err(reader.corrupt(format!("attempts with marks {marks}")));
    }
    let has = |mark| marks & mark != 0;
    if has(SAME_ERROR) && (has(LAST_ERROR) || !has(FIRST_ERROR)) {
        return Err(reader.corrupt(format!("attempts with marks {marks}")));
    }
    let first_error = if has(FIRST_ERROR) { Some(reader.text()?) } else { None };
    let last_error = if has(LAST_ERROR) { Some(reader.text()?) } else { None };
    let last_error = if has(SAME_ERROR) { first_error.clone() } else { last_error };
    let working = if has(WORKING) { small(reader)? } else { 0 };
    Ok(Attempts { count, first_at, last_at, first_error, last_error, working })
}

fn small(reader: &mut Reader<'_>) -> Result<u32, Error> {
    let int = reader.int()?;
    u32::try_from(int).map_err(|_| reader.corrupt(int.to_string()))
}

fn take_heuristic(reader: &mut Reader<'_>) -> Result<PhaseTwo, Error> {
    let kind = match reader.word(HEURISTICS)?.as_str() {
        "commit" => HeuristicKind::Commit,
        "rollback" => HeuristicKind::Rollback,
        "hazard" => HeuristicKind::Hazard,
        other => return Err(reader.corrupt(other)),
    };
    Ok(PhaseTwo::Heuristic { kind, note: reader.text()?, operator: take_text(reader)? })
}

fn take(reader: &mut Reader<'_>, last: &mut Timestamp) -> Result<Progress, Error> {
    let mut progress = Progress::default();
    let mut rest = ORDER;
    loop {
        let field = reader.byte()?;
        if field != END {
            let Some(place) = rest.iter().position(|fields| fields.contains(&field)) else {
                return Err(reader.corrupt(format!("field {field}")));
            };
            rest = &rest[place + 1..];
        }
        match field {
            END => return Ok(progress),
            PREPARED => progress.vote = Some(Vote::Prepared),
            READ_ONLY => progress.vote = Some(Vote::ReadOnly),
            REFUSED => progress.vote = Some(Vote::Refused),
            VOTED_AT => progress.voted_at = Some(take_time(reader, last)?),
            LOCKS_ASKED_AT => progress.locks_asked_at = Some(take_time(reader, last)?),
            ENDED_AT => progress.ended_at = Some(take_time(reader, last)?),
            DATABASE => progress.database_id = reader.text()?,
            DATABASE_HYPHENATED => progress.database_id = reader.uuid()?.hyphenated().to_string(),
            DATABASE_SIMPLE => progress.database_id = reader.uuid()?.simple().to_string(),
            UNANSWERED => progress.unanswered = true,
            RELEASED => progress.released = true,
            REFUSED_BY_WORD => progress.refused_by_word = true,
            LISTED => progress.listed = true,
            OUTPUT_BY_WORD => progress.output_by_word = true,
            REFUSED_AFTER_COMMIT => progress.refused_after_commit = true,
            OUTPUT_TOO_LARGE => progress.output_too_large = true,
            OUTPUT_DROPPED => progress.output_dropped = true,
            REFUSAL => {
                let (reason, message) = (reader.text()?, reader.text()?);
                progress.refusal = Some(Refusal { reason, message });
            }
            NOT_OWED => progress.phase_two = PhaseTwo::NotOwed,
            OWED => progress.phase_two = PhaseTwo::Owed,
            DONE => progress.phase_two = PhaseTwo::Done,
            HEURISTIC => progress.phase_two = take_heuristic(reader)?,
            PREPARES => progress.prepare_attempts = take_attempts(reader, last)?,
            FINISHES => progress.phase_two_attempts = take_attempts(reader, last)?,
            field => return Err(reader.corrupt(format!("field {field}"))),
        }
    }
}

#[cfg(test)]
mod tests;
