//! Rows as both databases hold them, and the core's types in them.

mod branch;
mod endpoint;
mod event;
mod identity;
mod lock;
mod state;
mod transaction;

use unanimo_core::{BranchNumber, Digest, Timestamp};

pub(super) use self::branch::{BranchRow, OutputRow, enlistment_name, step_to_column};
pub(super) use self::endpoint::{RegistrationRow, SELECT_REGISTRATIONS};
pub(super) use self::event::{EventRow, SELECT_EVENTS};
pub(super) use self::identity::IdentityColumns;
pub(super) use self::lock::TakenRow;
pub(super) use self::state::StateColumns;
pub(super) use self::transaction::{
    COUNT_ATTENTION, COUNT_PHASES, Rows, SELECT_HISTORY, SELECT_OPEN, TransactionRow, assemble,
    select_transactions,
};
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

/// The column of one entry of a transaction's recorded history.
pub(super) fn history_to_column(entry: &unanimo_core::history::Entry) -> String {
    to_json(entry)
}

fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("the core's types have string keys and no failing parts")
}

/// Value of an error about a column that cannot be read.
const NOT_OUR_JSON: &str = "not the JSON that is written there";

fn corrupt(what: &'static str, value: impl Into<String>) -> Error {
    Error::Corrupt { what, value: value.into() }
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
