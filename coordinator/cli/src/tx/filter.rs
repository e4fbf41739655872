//! Conditions that transactions meet: of `tx list`, and of acts on many.

use std::collections::HashMap;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};
use unanimo_proto::v1;

use super::client;

/// Conditions. A transaction meets all of them.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "conditions")]
pub(super) struct Filter {
    /// Only transactions in this state; separate several by commas
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    state: Vec<State>,
    /// Only transactions that need an operator: stalled, or heuristic and not forgotten
    #[arg(long)]
    attention: bool,
    /// Only transactions of this mode; separate several by commas
    #[arg(long, value_name = "MODE", value_delimiter = ',')]
    mode: Vec<Mode>,
    /// Only transactions whose metadata has this entry; several times: all of them
    #[arg(long, value_name = "KEY=VALUE", value_parser = entry)]
    metadata: Vec<(String, String)>,
    /// Only transactions whose gid begins with this prefix
    #[arg(long, value_name = "PREFIX")]
    gid_prefix: Option<String>,
    /// Only transactions with a branch at this participant
    #[arg(long, value_name = "NAME")]
    pub(super) participant: Option<String>,
    /// Only transactions created at this time or later: 2026-01-31T12:00:00Z, or 15m for 15 minutes
    /// ago
    #[arg(long, value_name = "WHEN")]
    since: Option<When>,
    /// Only transactions created before this time, in the form of --since
    #[arg(long, value_name = "WHEN")]
    until: Option<When>,
}

impl Filter {
    /// Makes a request for the transactions that meet the conditions.
    pub(super) fn request(self) -> Result<v1::ListTransactionsRequest, client::Error> {
        let mut metadata = HashMap::new();
        for (key, value) in self.metadata {
            if metadata.insert(key.clone(), value).is_some() {
                return Err(client::Error::Twice(format!("--metadata {key}")));
            }
        }
        Ok(v1::ListTransactionsRequest {
            states: self.state.into_iter().map(|state| state.to_wire().into()).collect(),
            attention: self.attention,
            modes: self.mode.into_iter().map(|mode| mode.to_wire().into()).collect(),
            metadata,
            gid_prefix: self.gid_prefix.unwrap_or_default(),
            participant: self.participant.unwrap_or_default(),
            created_from: self.since.map(When::to_wire),
            created_until: self.until.map(When::to_wire),
            ..Default::default()
        })
    }
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum State {
    /// Begun, and waiting for its start
    Scheduled,
    /// Not decided
    Active,
    /// A child whose branches voted yes, and whose parent decides
    #[value(alias = "in_doubt")]
    InDoubt,
    /// COMMIT is decided, and not every branch has ended
    Committing,
    /// ABORT is decided, and not every branch has ended
    Aborting,
    /// Ended after COMMIT
    Committed,
    /// Ended after ABORT
    Aborted,
}

impl State {
    fn to_wire(self) -> v1::TransactionState {
        match self {
            Self::Scheduled => v1::TransactionState::Scheduled,
            Self::Active => v1::TransactionState::Active,
            Self::InDoubt => v1::TransactionState::InDoubt,
            Self::Committing => v1::TransactionState::Committing,
            Self::Aborting => v1::TransactionState::Aborting,
            Self::Committed => v1::TransactionState::Committed,
            Self::Aborted => v1::TransactionState::Aborted,
        }
    }
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Mode {
    /// Two-phase commit
    #[value(name = "2pc")]
    TwoPhaseCommit,
    /// Try, confirm, cancel
    Tcc,
    /// Steps and compensations
    Saga,
}

impl Mode {
    fn to_wire(self) -> v1::Mode {
        match self {
            Self::TwoPhaseCommit => v1::Mode::TwoPhaseCommit,
            Self::Tcc => v1::Mode::Tcc,
            Self::Saga => v1::Mode::Saga,
        }
    }
}

/// Reads an entry of metadata.
fn entry(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

/// Moment, given as a time or as a duration before now.
#[derive(Clone, Copy, Debug)]
pub(super) struct When(Timestamp);

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(at) = text.parse() {
            return Ok(Self(at));
        }
        let ago = text.parse::<SignedDuration>().ok().filter(|ago| !ago.is_negative());
        let at = ago.and_then(|ago| Timestamp::now().checked_sub(ago).ok());
        at.map(Self)
            .ok_or_else(|| "write 2026-01-31T12:00:00Z, or 15m for 15 minutes ago".to_owned())
    }
}

impl When {
    pub(super) fn to_wire(self) -> prost_types::Timestamp {
        prost_types::Timestamp { seconds: self.0.as_second(), nanos: self.0.subsec_nanosecond() }
    }
}
