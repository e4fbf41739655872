//! Binary columns of the log: `body` has names, state and events; `data` payloads and outputs.
//!
//! A column is a list of parts, each with a byte for its kind in front. A part that this version does not know
//! makes the transaction unreadable, and no other one.

mod state;

use sha2::{Digest as _, Sha256};
use unanimo_core::{Mode, Sleeper, Transition};
use uuid::Uuid;

pub(super) use self::state::put_state;
use self::state::{STATE, STATE_WITH_JSON};
use super::super::Error;
use super::bytes::{Maker, Reader};
use super::event::EventRow;
use super::kind::NEWS;
use super::{
    BranchRow, IdentityColumns, OutputRow, StateColumns, TransactionRow, enlistment_name, history,
    ms_to_column, number_to_column, progress, step_to_column,
};

const MODES: &[&str] = &["none", "2pc", "tcc", "saga"];
const DRIVES: &[&str] = &["declarative", "interactive", "tombstone"];
const ENLISTED_BY: &[&str] = &["coordinator", "initiator"];
/// Texts that most columns have.
const COMMON: &[&str] = &["", "{}", "[]"];

// Parts of `body`.
const IDENTITY: u8 = 1;
const BRANCH: u8 = 3;
const EVENT: u8 = 4;
/// An event with the version that it belongs to, if that is not the row's.
const EARLIER_EVENT: u8 = 5;
/// Something that could not be brought from the tables of an earlier version. It is the last part.
const BROKEN: u8 = 255;
// Parts of `data`.
const PAYLOAD: u8 = 1;
const OUTPUT: u8 = 2;

const NOT_BROUGHT: &str =
    "some part of it could not be read in the tables of an earlier version, and is not here";

/// Key of a client's name: the first 16 bytes of its SHA-256. A quarter of the text costs a quarter to index, and PostgreSQL
/// compares values of a fixed length at the least cost.
pub(in crate::store) fn gid_key(gid: &str) -> Uuid {
    let digest = Sha256::digest(gid.as_bytes());
    Uuid::from_bytes(std::array::from_fn(|place| digest[place]))
}

/// A row of the log, as a transition is written.
#[derive(Debug)]
pub(in crate::store) struct Encoded {
    pub(in crate::store) kind: i16,
    pub(in crate::store) created_ms: Option<i64>,
    pub(in crate::store) ended_ms: Option<i64>,
    pub(in crate::store) stripped_ms: Option<i64>,
    pub(in crate::store) wake_ms: Option<i64>,
    /// Initiator and bytes, if it sleeps and they are known.
    pub(in crate::store) sleeper: Option<(String, i64)>,
    pub(in crate::store) reasons: i16,
    /// Key of its gid, if it begins a transaction.
    pub(in crate::store) gid_key: Option<Uuid>,
    pub(in crate::store) body: Vec<u8>,
    pub(in crate::store) data: Option<Vec<u8>>,
    pub(in crate::store) history: Option<Vec<u8>>,
}

impl Encoded {
    pub(in crate::store) fn of(transition: &Transition) -> Self {
        let state = StateColumns::of(&transition.state);
        let (mut body, mut data) = (Maker::new(), Maker::new());
        let begins = transition.begins.as_deref();
        let identity = begins.map(IdentityColumns::of);
        if let Some(identity) = &identity {
            put_identity(&mut body, identity);
        }
        put_state(&mut body, &state);
        for (number, enlistment, spec) in &transition.enlisted {
            let number = number_to_column(*number);
            let step = step_to_column(&spec.step);
            put_branch(
                &mut body,
                &Named {
                    number,
                    branch_id: spec.branch_id.as_str(),
                    participant: spec.participant.as_str(),
                    action: spec.action.as_str(),
                    enlisted_by: enlistment_name(*enlistment),
                    mode: spec.mode.name(),
                    step: step.as_deref().unwrap_or_default(),
                },
            );
            put_data(&mut data, PAYLOAD, number, &spec.payload.media_type, &spec.payload.data);
        }
        for (ordinal, event) in (0..).zip(&transition.events).filter(|(_, e)| !e.kind.is_audit()) {
            body.byte(EVENT)
                .int(ordinal)
                .int(ms_to_column(event.at))
                .text(event.kind.as_str())
                .int(event.number.map_or(0, |number| number_to_column(number).into()))
                .text(&event.detail);
        }
        for (number, output) in &transition.outputs {
            let number = number_to_column(*number);
            put_data(&mut data, OUTPUT, number, &output.media_type, &output.data);
        }
        let is_saga = begins.is_some_and(|begins| begins.mode() == Some(Mode::Saga));
        let is_news = state.ended_ms.is_some() || transition.state.is_held_up();
        Self {
            kind: state.kind(is_saga) | if is_news { NEWS } else { 0 },
            created_ms: identity.as_ref().map(|identity| identity.created_ms),
            ended_ms: state.ended_ms,
            stripped_ms: transition.stripped_at.map(ms_to_column),
            wake_ms: state.wake_ms.filter(|_| state.ended_ms.is_none()),
            sleeper: transition.sleeper.as_ref().map(|Sleeper { initiator, bytes }| {
                (initiator.clone(), i64::try_from(*bytes).unwrap_or(i64::MAX))
            }),
            reasons: state.reasons(),
            gid_key: identity.map(|identity| gid_key(identity.gid)),
            body: body.finish(),
            data: (!data.is_empty()).then(|| data.finish()),
            history: history::column_of(&transition.history),
        }
    }

    /// Makes the only row of a transaction whose rows were put together, but for its history: for the purge, which
    /// leaves its details out, and for rows of an earlier version of the program.
    pub(in crate::store) fn whole(content: &Content) -> Self {
        Self::of_content(content, false)
    }

    /// Makes such a row of what could be read of a transaction: whoever reads it finds out, and its name and its
    /// digest are as they were. `None`: its name cannot be read.
    pub(in crate::store) fn broken(content: &Content, gid: Option<&str>) -> Self {
        Self { gid_key: gid.map(gid_key), ..Self::of_content(content, true) }
    }

    fn of_content(content: &Content, is_broken: bool) -> Self {
        let Content { row, branches, outputs, .. } = content;
        let (mut body, mut data) = (Maker::new(), Maker::new());
        put_identity(&mut body, &row.identity_columns());
        let state = row.state_columns();
        put_state(&mut body, &state);
        for branch in branches {
            put_branch(&mut body, &branch.named());
            put_data(&mut data, PAYLOAD, branch.number, &branch.payload_type, &branch.payload);
        }
        for event in &content.events {
            put_event_row(&mut body, event);
        }
        if is_broken {
            body.byte(BROKEN);
        }
        for output in outputs {
            put_data(&mut data, OUTPUT, output.number, &output.output_type, &output.output);
        }
        Self {
            kind: state.kind(row.mode == "saga"),
            created_ms: Some(row.created_ms),
            ended_ms: row.ended_ms,
            // Their writers have it.
            stripped_ms: None,
            wake_ms: row.wake_ms.filter(|_| row.ended_ms.is_none()),
            sleeper: None,
            reasons: state.reasons(),
            gid_key: Some(gid_key(&row.gid)),
            body: body.finish(),
            data: (!data.is_empty()).then(|| data.finish()),
            history: None,
        }
    }
}

/// A branch without its payload.
pub(super) struct Named<'a> {
    pub(super) number: i16,
    pub(super) branch_id: &'a str,
    pub(super) participant: &'a str,
    pub(super) action: &'a str,
    pub(super) enlisted_by: &'a str,
    /// Empty: the transaction's.
    pub(super) mode: &'a str,
    pub(super) step: &'a str,
}

fn put_identity(body: &mut Maker, identity: &IdentityColumns<'_>) {
    body.byte(IDENTITY)
        .text(identity.gid)
        .word(MODES, identity.mode)
        .word(DRIVES, identity.drive)
        .bytes(identity.digest)
        .int(identity.digest_version.into())
        .int(identity.created_ms)
        .int(identity.deadline_ms)
        .text(identity.initiator)
        .word(COMMON, &identity.metadata)
        .word(COMMON, &identity.trace)
        .word(COMMON, &identity.begun_with);
}

fn put_branch(body: &mut Maker, branch: &Named<'_>) {
    body.byte(BRANCH)
        .int(branch.number.into())
        .text(branch.branch_id)
        .text(branch.participant)
        .text(branch.action)
        .word(ENLISTED_BY, branch.enlisted_by)
        .word(MODES, branch.mode)
        .text(branch.step);
}

fn put_event_row(body: &mut Maker, event: &EventRow) {
    body.byte(EARLIER_EVENT)
        .int(event.version)
        .int(event.ordinal)
        .int(event.at_ms)
        .text(&event.kind)
        .int(event.branch.unwrap_or(0).into())
        .text(&event.detail);
}

fn put_data(data: &mut Maker, part: u8, number: i16, media_type: &str, bytes: &[u8]) {
    // An empty payload is one that is not there; an empty output is an output.
    if part == PAYLOAD && media_type.is_empty() && bytes.is_empty() {
        return;
    }
    data.byte(part).int(number.into()).text(media_type).bytes(bytes);
}

/// The rows of one transaction, put together.
#[derive(Debug, Default)]
pub(in crate::store) struct Content {
    pub(in crate::store) row: TransactionRow,
    pub(super) branches: Vec<BranchRow>,
    pub(super) outputs: Vec<OutputRow>,
    pub(super) events: Vec<EventRow>,
}

impl Content {
    /// Adds the body of a row, whose version is in the row already.
    pub(super) fn add_body(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut reader = Reader::new(bytes, "log.body")?;
        while !reader.is_at_end() {
            match reader.byte()? {
                IDENTITY => self.row.read_identity(&mut reader)?,
                part @ (STATE | STATE_WITH_JSON) => {
                    self.row.read_state(&mut reader, part == STATE_WITH_JSON)?;
                }
                BRANCH => self.branches.push(BranchRow::read(&mut reader)?),
                EVENT => self.events.push(EventRow::read(&mut reader, self.row.version)?),
                EARLIER_EVENT => {
                    let version = reader.int()?;
                    self.events.push(EventRow::read(&mut reader, version)?);
                }
                BROKEN => return Err(reader.corrupt(NOT_BROUGHT)),
                part => return Err(reader.corrupt(format!("part {part}"))),
            }
        }
        Ok(())
    }

    /// Adds the data of a row, whose body was added.
    pub(super) fn add_data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut reader = Reader::new(bytes, "log.data")?;
        while !reader.is_at_end() {
            match reader.byte()? {
                PAYLOAD => {
                    let number = reader.small()?;
                    let (media_type, payload) = (reader.text()?, reader.bytes()?.to_vec());
                    let mut branches = self.branches.iter_mut();
                    let Some(branch) = branches.find(|branch| branch.number == number) else {
                        return Err(reader.corrupt(format!("a payload of branch {number}")));
                    };
                    (branch.payload_type, branch.payload) = (media_type, payload);
                }
                OUTPUT => self.outputs.push(OutputRow {
                    number: reader.small()?,
                    output_type: reader.text()?,
                    output: reader.bytes()?.to_vec(),
                }),
                part => return Err(reader.corrupt(format!("part {part}"))),
            }
        }
        Ok(())
    }

    /// Version and owner of the last row.
    pub(in crate::store) fn written(&self) -> (i64, i64) {
        (self.row.version, self.row.owner)
    }

    /// Leaves the details out, as the purge does.
    pub(in crate::store) fn strip(&mut self) {
        let row = &mut self.row;
        (row.metadata, row.trace) = ("{}".to_owned(), "{}".to_owned());
        (row.progress, row.more) = (progress::Column::default(), String::new());
        self.branches.clear();
        self.outputs.clear();
        self.events.clear();
    }
}

impl TransactionRow {
    fn read_identity(&mut self, reader: &mut Reader<'_>) -> Result<(), Error> {
        self.gid = reader.text()?;
        self.mode = reader.word(MODES)?;
        self.drive = reader.word(DRIVES)?;
        self.digest = reader.bytes()?.to_vec();
        self.digest_version = reader.small()?;
        self.created_ms = reader.int()?;
        self.deadline_ms = reader.int()?;
        self.initiator = reader.text()?;
        self.metadata = reader.word(COMMON)?;
        self.trace = reader.word(COMMON)?;
        self.begun_with = reader.word(COMMON)?;
        Ok(())
    }
}

impl EventRow {
    fn read(reader: &mut Reader<'_>, version: i64) -> Result<Self, Error> {
        Ok(Self {
            version,
            ordinal: reader.int()?,
            at_ms: reader.int()?,
            kind: reader.text()?,
            branch: Some(reader.small()?).filter(|number| *number != 0),
            detail: reader.text()?,
        })
    }
}

impl BranchRow {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self {
            number: reader.small()?,
            branch_id: reader.text()?,
            participant: reader.text()?,
            action: reader.text()?,
            enlisted_by: reader.word(ENLISTED_BY)?,
            mode: Some(reader.word(MODES)?).filter(|mode| !mode.is_empty()),
            step: Some(reader.text()?).filter(|step| !step.is_empty()),
            payload: Vec::new(),
            payload_type: String::new(),
        })
    }

    fn named(&self) -> Named<'_> {
        Named {
            number: self.number,
            branch_id: &self.branch_id,
            participant: &self.participant,
            action: &self.action,
            enlisted_by: &self.enlisted_by,
            mode: self.mode.as_deref().unwrap_or_default(),
            step: self.step.as_deref().unwrap_or_default(),
        }
    }
}
