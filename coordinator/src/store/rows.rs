//! Rows as both databases hold them, and the core's types in them.

mod body;
mod branch;
mod bytes;
mod earlier;
mod endpoint;
mod event;
mod history;
mod identity;
mod kind;
mod lock;
mod log;
mod progress;
mod state;
mod transaction;

use unanimo_core::{BranchNumber, Digest, Timestamp};
use uuid::Uuid;

pub(super) use self::body::{Encoded, gid_key};
pub(super) use self::branch::{BranchRow, OutputRow, enlistment_name, step_to_column};
pub(super) use self::earlier::{
    Brought, CHUNK_BYTES_MAX, CHUNK_MAX, Details, Earlier, EarlierRow, Lost, SELECT_EARLIER,
    SELECT_EARLIER_DETAILS, SELECT_EARLIER_ONE, add_details,
};
pub(super) use self::endpoint::{SELECT_REGISTRATIONS, registrations};
pub(super) use self::event::{SELECT_EVENTS, acts, events};
pub(super) use self::history::{HISTORY_BYTES_MAX, SELECT_HISTORY, history};
pub(super) use self::identity::IdentityColumns;
pub(super) use self::kind::{COUNT_ATTENTION, NOBODY, is_held, is_news, phase_of};
pub(super) use self::lock::TakenRow;
pub(super) use self::log::{Begin, Read, begins, claimed, one, read, select_log};
pub(super) use self::state::StateColumns;
pub(super) use self::transaction::TransactionRow;
use super::Error;

pub(super) fn number_to_column(number: BranchNumber) -> i16 {
    i16::try_from(number.get()).expect("branches are limited far below i16::MAX")
}

pub(super) fn ms_to_column(at: Timestamp) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

pub(super) fn ms_from_column(ms: i64) -> Timestamp {
    Timestamp(u64::try_from(ms).unwrap_or(0))
}

fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("the core's types have string keys and no failing parts")
}

/// Returns the first of these transactions whose bytes fit, and the first one in any case.
pub(super) fn fitting(sized: &[(Uuid, i64)], bytes_max: i64) -> Vec<Uuid> {
    let mut bytes = 0_i64;
    let fits = sized.iter().enumerate().take_while(|(index, (_, size))| {
        bytes = bytes.saturating_add(*size);
        *index == 0 || bytes <= bytes_max
    });
    fits.map(|(_, (tx_id, _))| *tx_id).collect()
}

/// Bytes of a stored value that an error shows.
const SHOWN_BYTES_MAX: usize = 200;

fn corrupt(what: &'static str, value: impl AsRef<str>) -> Error {
    Error::Corrupt { what, value: cut(value.as_ref()) }
}

/// Error about a column whose JSON is not ours: of a later version, or damaged.
fn not_our_json(what: &'static str) -> impl FnOnce(serde_json::Error) -> Error {
    move |error| Error::CorruptJson { what, why: cut(&error.to_string()) }
}

/// Cuts a text that comes from outside.
fn cut(text: &str) -> String {
    if text.len() <= SHOWN_BYTES_MAX {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(SHOWN_BYTES_MAX)])
}

fn number_from_column(number: i16, what: &'static str) -> Result<BranchNumber, Error> {
    u16::try_from(number)
        .ok()
        .and_then(BranchNumber::new)
        .ok_or_else(|| corrupt(what, number.to_string()))
}

pub(super) fn digest_from_columns(version: i16, hash: &[u8]) -> Result<Digest, Error> {
    let hash = hash.try_into().map_err(|_| corrupt("transactions.digest", format!("{hash:?}")))?;
    Ok(Digest { version, hash })
}
