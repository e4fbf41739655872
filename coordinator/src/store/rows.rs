//! Rows as both databases hold them, and the core's types in them.

use std::sync::Arc;

use bytes::Bytes;
use sqlx::FromRow;
use unanimo_core::{
    AbortCause, ActionName, BranchId, BranchNumber, BranchSpec, Decision, Digest, Drive,
    Enlistment, Event, EventKind, Gid, Heuristic, Identity, Incarnation, ParticipantName, Phase,
    Progress, Record, State, Timestamp, TxId, Version,
};
use uuid::Uuid;

use super::{Error, PhaseName, Registration, Stored};

/// A row of `transactions`. JSON columns are read as text.
#[derive(Debug, FromRow)]
pub(super) struct TransactionRow {
    tx_id: Uuid,
    gid: String,
    owner: i64,
    version: i64,
    mode: String,
    drive: String,
    digest: Vec<u8>,
    digest_version: i16,
    created_ms: i64,
    deadline_ms: i64,
    phase: String,
    abort_cause: Option<String>,
    abort_branch: Option<i16>,
    decided_ms: Option<i64>,
    ended_ms: Option<i64>,
    heuristic: String,
    stalled: bool,
    forgotten: bool,
    stripped: bool,
    initiator: String,
    metadata: String,
    trace: String,
    progress: String,
}

/// A row of `branches`.
#[derive(Debug, FromRow)]
pub(super) struct BranchRow {
    pub(super) tx_id: Uuid,
    number: i16,
    branch_id: String,
    participant: String,
    action: String,
    enlisted_by: String,
    payload: Vec<u8>,
}

/// A row of `outputs`.
#[derive(Debug, FromRow)]
pub(super) struct OutputRow {
    pub(super) tx_id: Uuid,
    number: i16,
    output: Vec<u8>,
}

/// A row of `events`.
#[derive(Debug, FromRow)]
pub(super) struct EventRow {
    at_ms: i64,
    kind: String,
    branch: Option<i16>,
    detail: String,
}

/// A transaction's state, spread over columns.
#[derive(Debug)]
pub(super) struct StateColumns {
    pub(super) phase: &'static str,
    pub(super) abort_cause: Option<&'static str>,
    pub(super) abort_branch: Option<i16>,
    pub(super) decided_ms: Option<i64>,
    pub(super) ended_ms: Option<i64>,
    pub(super) heuristic: &'static str,
    pub(super) stalled: bool,
    pub(super) forgotten: bool,
    pub(super) attention: bool,
    pub(super) progress: String,
}

impl StateColumns {
    pub(super) fn of(state: &State) -> Self {
        let (abort_cause, abort_branch) = match state.phase.decision() {
            Some(Decision::Abort(cause)) => {
                (Some(cause_name(cause)), cause.number().map(number_to_column))
            }
            Some(Decision::Commit) | None => (None, None),
        };
        Self {
            phase: PhaseName::of(state.phase).as_str(),
            abort_cause,
            abort_branch,
            decided_ms: state.phase.decided_at().map(ms_to_column),
            ended_ms: state.phase.ended_at().map(ms_to_column),
            heuristic: match state.heuristic {
                Heuristic::None => "none",
                Heuristic::Mixed => "mixed",
                Heuristic::Hazard => "hazard",
            },
            stalled: state.stalled,
            forgotten: state.forgotten,
            attention: state.attention(),
            progress: to_json(&state.branches),
        }
    }
}

/// What never changes of a transaction, as columns.
#[derive(Debug)]
pub(super) struct IdentityColumns<'a> {
    pub(super) gid: &'a str,
    pub(super) mode: &'static str,
    pub(super) drive: &'static str,
    pub(super) digest: &'a [u8],
    pub(super) digest_version: i16,
    pub(super) created_ms: i64,
    pub(super) deadline_ms: i64,
    pub(super) initiator: &'a str,
    pub(super) metadata: String,
    pub(super) trace: String,
}

impl<'a> IdentityColumns<'a> {
    pub(super) fn of(identity: &'a Identity) -> Self {
        Self {
            gid: identity.gid.as_str(),
            mode: identity.mode.name(),
            drive: match identity.drive {
                Drive::Declarative => "declarative",
                Drive::Interactive => "interactive",
            },
            digest: &identity.digest.hash,
            digest_version: identity.digest.version,
            created_ms: ms_to_column(identity.created_at),
            deadline_ms: ms_to_column(identity.deadline),
            initiator: &identity.initiator,
            metadata: to_json(&identity.metadata),
            trace: to_json(&identity.trace),
        }
    }
}

pub(super) fn enlistment_name(enlistment: Enlistment) -> &'static str {
    match enlistment {
        Enlistment::Coordinator => "coordinator",
        Enlistment::Initiator => "initiator",
    }
}

pub(super) fn number_to_column(number: BranchNumber) -> i16 {
    i16::try_from(number.get()).expect("branches are limited far below i16::MAX")
}

pub(super) fn ms_to_column(at: Timestamp) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

fn ms_from_column(ms: i64) -> Timestamp {
    Timestamp(u64::try_from(ms).unwrap_or(0))
}

fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("the core's types have string keys and no failing parts")
}

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

fn cause_name(cause: AbortCause) -> &'static str {
    match cause {
        AbortCause::Refused(_) => "refused",
        AbortCause::Deadline => "deadline",
        AbortCause::Rollback => "rollback",
        AbortCause::Unlisted(_) => "unlisted",
        AbortCause::NoVote(_) => "no_vote",
    }
}

impl PhaseName {
    /// The word for a phase.
    #[must_use]
    pub fn of(phase: Phase) -> Self {
        match phase {
            Phase::Active => Self::Active,
            Phase::Decided { decision: Decision::Commit, .. } => Self::Committing,
            Phase::Decided { decision: Decision::Abort(_), .. } => Self::Aborting,
            Phase::Ended { decision: Decision::Commit, .. } => Self::Committed,
            Phase::Ended { decision: Decision::Abort(_), .. } => Self::Aborted,
        }
    }

    /// The word, as stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Committing => "committing",
            Self::Aborting => "aborting",
            Self::Committed => "committed",
            Self::Aborted => "aborted",
        }
    }
}

impl TransactionRow {
    pub(super) fn tx_id(&self) -> Uuid {
        self.tx_id
    }

    fn phase(&self) -> Result<Phase, Error> {
        let at =
            |ms: Option<i64>, what| ms.map(ms_from_column).ok_or_else(|| corrupt(what, "NULL"));
        let (decision, ended) = match self.phase.as_str() {
            "active" => return Ok(Phase::Active),
            "committing" => (Decision::Commit, false),
            "committed" => (Decision::Commit, true),
            "aborting" => (Decision::Abort(self.cause()?), false),
            "aborted" => (Decision::Abort(self.cause()?), true),
            other => return Err(corrupt("transactions.phase", other)),
        };
        let decided_at = at(self.decided_ms, "transactions.decided_ms")?;
        if !ended {
            return Ok(Phase::Decided { decision, at: decided_at });
        }
        let at = at(self.ended_ms, "transactions.ended_ms")?;
        Ok(Phase::Ended { decision, decided_at, at })
    }

    fn cause(&self) -> Result<AbortCause, Error> {
        let branch = || {
            const WHAT: &str = "transactions.abort_branch";
            let number = self.abort_branch.ok_or_else(|| corrupt(WHAT, "NULL"))?;
            number_from_column(number, WHAT)
        };
        match self.abort_cause.as_deref() {
            Some("refused") => Ok(AbortCause::Refused(branch()?)),
            Some("deadline") => Ok(AbortCause::Deadline),
            Some("rollback") => Ok(AbortCause::Rollback),
            Some("unlisted") => Ok(AbortCause::Unlisted(branch()?)),
            Some("no_vote") => Ok(AbortCause::NoVote(branch()?)),
            other => Err(corrupt("transactions.abort_cause", other.unwrap_or("NULL"))),
        }
    }

    fn identity(&self) -> Result<Identity, Error> {
        let json = |what| move |_| corrupt(what, "not the JSON that is written there");
        Ok(Identity {
            tx_id: TxId(self.tx_id),
            gid: Gid::new(&self.gid).map_err(|_| corrupt("transactions.gid", &self.gid))?,
            mode: self.mode.parse().map_err(|_| corrupt("transactions.mode", &self.mode))?,
            drive: match self.drive.as_str() {
                "declarative" => Drive::Declarative,
                "interactive" => Drive::Interactive,
                other => return Err(corrupt("transactions.drive", other)),
            },
            digest: digest_from_columns(self.digest_version, &self.digest)?,
            created_at: ms_from_column(self.created_ms),
            deadline: ms_from_column(self.deadline_ms),
            metadata: serde_json::from_str(&self.metadata)
                .map_err(json("transactions.metadata"))?,
            trace: serde_json::from_str(&self.trace).map_err(json("transactions.trace"))?,
            initiator: self.initiator.clone(),
        })
    }

    /// The transaction, with what was read of its branches.
    pub(super) fn into_stored(
        self,
        branches: Vec<BranchRow>,
        outputs: Vec<OutputRow>,
    ) -> Result<Stored, Error> {
        let progress: Vec<Progress> = serde_json::from_str(&self.progress)
            .map_err(|_| corrupt("transactions.progress", "not the JSON that is written there"))?;
        let state = State {
            phase: self.phase()?,
            heuristic: match self.heuristic.as_str() {
                "none" => Heuristic::None,
                "mixed" => Heuristic::Mixed,
                "hazard" => Heuristic::Hazard,
                other => return Err(corrupt("transactions.heuristic", other)),
            },
            stalled: self.stalled,
            forgotten: self.forgotten,
            branches: progress,
        };
        let record = Record {
            identity: Arc::new(self.identity()?),
            version: Version(self.version),
            state,
            branches: branches
                .into_iter()
                .enumerate()
                .map(|(index, row)| row.into_spec(index))
                .collect::<Result<_, _>>()?,
            outputs: outputs.into_iter().map(OutputRow::into_output).collect::<Result<_, _>>()?,
        };
        Ok(Stored { record, owner: Incarnation(self.owner), stripped: self.stripped })
    }
}

/// Transactions with their branches and outputs, each of which is ordered by transaction and number.
pub(super) fn assemble(
    transactions: Vec<TransactionRow>,
    branches: Vec<BranchRow>,
    outputs: Vec<OutputRow>,
) -> Result<Vec<Stored>, Error> {
    let mut branches = group(branches, |row| row.tx_id);
    let mut outputs = group(outputs, |row| row.tx_id);
    transactions
        .into_iter()
        .map(|row| {
            let branches = branches.remove(&row.tx_id).unwrap_or_default();
            let outputs = outputs.remove(&row.tx_id).unwrap_or_default();
            row.into_stored(branches, outputs)
        })
        .collect()
}

fn group<R>(rows: Vec<R>, key: impl Fn(&R) -> Uuid) -> std::collections::HashMap<Uuid, Vec<R>> {
    let mut groups = std::collections::HashMap::new();
    for row in rows {
        groups.entry(key(&row)).or_insert_with(Vec::new).push(row);
    }
    groups
}

impl BranchRow {
    fn into_spec(self, index: usize) -> Result<(Enlistment, Arc<BranchSpec>), Error> {
        if number_from_column(self.number, "branches.number")?.index() != index {
            return Err(corrupt("branches.number", self.number.to_string()));
        }
        let enlistment = match self.enlisted_by.as_str() {
            "coordinator" => Enlistment::Coordinator,
            "initiator" => Enlistment::Initiator,
            other => return Err(corrupt("branches.enlisted_by", other)),
        };
        let spec = BranchSpec {
            branch_id: BranchId::new(&self.branch_id)
                .map_err(|_| corrupt("branches.branch_id", &self.branch_id))?,
            participant: ParticipantName::new(&self.participant)
                .map_err(|_| corrupt("branches.participant", &self.participant))?,
            action: ActionName::new(&self.action)
                .map_err(|_| corrupt("branches.action", &self.action))?,
            payload: Bytes::from(self.payload),
        };
        Ok((enlistment, Arc::new(spec)))
    }
}

impl OutputRow {
    fn into_output(self) -> Result<(BranchNumber, Bytes), Error> {
        Ok((number_from_column(self.number, "outputs.number")?, Bytes::from(self.output)))
    }
}

impl EventRow {
    pub(super) fn into_event(self) -> Result<Event, Error> {
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

/// Every participant's name, with each of its endpoints or none.
pub(super) const SELECT_REGISTRATIONS: &str = "
SELECT p.name AS name, e.endpoint AS endpoint, coalesce(e.last_seen_ms, 0) AS last_seen_ms
FROM participants AS p LEFT JOIN endpoints AS e ON e.name = p.name
ORDER BY p.name, e.endpoint";

/// A row of [`SELECT_REGISTRATIONS`].
#[derive(Debug, FromRow)]
pub(super) struct RegistrationRow {
    name: String,
    endpoint: Option<String>,
    last_seen_ms: i64,
}

impl RegistrationRow {
    pub(super) fn into_registration(self) -> Result<Registration, Error> {
        Ok(Registration {
            name: ParticipantName::new(&self.name)
                .map_err(|_| corrupt("participants.name", &self.name))?,
            endpoint: self.endpoint,
            last_seen: ms_from_column(self.last_seen_ms),
        })
    }
}
