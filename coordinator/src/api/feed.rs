//! WatchTransactions: events of all transactions, from a revision on.

mod reader;

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};
use unanimo_core::{Namespace, ParticipantName, Timestamp, Violation};
use unanimo_proto::v1;

use self::reader::Reader;
use super::access::{Access, Sight};
use super::deadline::Deadline;
use super::error::{from_engine, from_store, invalid, revision_unknown, too_many_streams};
use super::namespace;
use super::rpc::Rpc;
use super::{Api, parse};
use crate::engine::Error;
use crate::feed::{Event, Kind, Told};
use crate::store::FeedRow;
use crate::wire::time_to_wire;

/// Most kinds in a request: each of them, and as many again.
const KINDS_MAX: usize = 2 * Kind::ALL.len();

/// Stream of events.
pub(crate) type Following = ReceiverStream<Result<v1::WatchTransactionsResponse, Status>>;

impl namespace::Told for Following {
    /// Does nothing: the reader takes it off each event, by the namespace that the caller has by then.
    fn take_off(&mut self, _: &Namespace) {}
}

/// Choice of events.
#[derive(Debug, Default)]
struct Choice {
    kinds: Vec<Kind>,
    gid_prefix: String,
    participant: Option<ParticipantName>,
    /// Only transactions that the caller sees.
    sight: Sight,
}

impl Choice {
    fn of(access: &Access, request: &v1::WatchTransactionsRequest) -> Result<Self, Status> {
        let count = request.kinds.len();
        if count > KINDS_MAX {
            let rule = format!("must have at most {KINDS_MAX} kinds, has {count}");
            return Err(invalid(Violation::new("kinds", rule)));
        }
        let kinds = request.kinds.iter().enumerate().map(|(index, kind)| {
            kind_of(*kind).ok_or_else(|| {
                let rule = format!("must be a kind of an event, is {kind}");
                invalid(Violation::new(format!("kinds[{index}]"), rule))
            })
        });
        let names = access.names();
        let participant = match request.participant.as_str() {
            "" => None,
            name => Some(parse::known_participant(name, names)?),
        };
        Ok(Self {
            kinds: kinds.collect::<Result<_, _>>()?,
            gid_prefix: parse::gid_prefix(&request.gid_prefix, names)?,
            participant,
            sight: access.sight(),
        })
    }

    fn takes(&self, event: &Event) -> bool {
        let is_of = |name: &ParticipantName| event.participants.iter().any(|p| p == name.as_str());
        (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && event.gid.starts_with(&self.gid_prefix)
            && self.participant.as_ref().is_none_or(is_of)
            && self.sight.has(&event.gid, &event.initiator)
    }
}

impl Api {
    pub(super) async fn watch_all(
        &self,
        request: Request<v1::WatchTransactionsRequest>,
    ) -> Result<Following, Status> {
        let Deadline { until: by, asked: over, .. } = self.deadline(&request);
        let access = Access::of(&request);
        let choice = Choice::of(&access, request.get_ref())?;
        let standing = self.standing(Rpc::WatchTransactions, &request);
        // Without identities it is the connection that counts.
        let caller = Some(access.name().to_owned()).filter(|name| !name.is_empty());
        let caller = caller.unwrap_or_else(|| access.address());
        let place = self.feed.take_place(&caller).ok_or_else(too_many_streams)?;
        let v1::WatchTransactionsRequest { after_revision, only_new, .. } = request.into_inner();
        let mut feed = self.feed.clone();
        let known = tokio::time::timeout_at(by, feed.wait_for(|told| *told != Told::Nothing));
        let last = match known.await {
            Err(_) => return Err(from_engine(Error::StoreSilent)),
            Ok(Some(Told::UpTo(ends))) => ends.last,
            Ok(_) => return Err(from_engine(Error::Stopped)),
        };
        let before = after_revision.saturating_sub(1);
        let page = feed.page(self.store.feed(), (before, last), 1).await.map_err(from_store)?;
        let page = page.ok_or_else(|| from_engine(Error::StoreSilent))?;
        let ends = crate::store::FeedEnds { last, ..page.ends };
        // Who comes again names a revision that is there, or the last one that is not.
        let is_there = |asked| page.events.first().is_some_and(|row| row.revision == asked);
        let seen = match after_revision {
            0 if only_new => last,
            0 => ends.purged.min(last),
            asked if asked <= last && (asked == ends.purged || is_there(asked)) => asked,
            asked => return Err(revision_unknown(asked, ends)),
        };
        let (sender, receiver) = mpsc::channel(1);
        let source = Arc::clone(&self.store);
        let may = Box::new(move || standing.look());
        let reader = Reader::new((source, feed), may, choice, seen, sender.clone());
        tokio::spawn(async move {
            let _place = place;
            let closed = sender.closed();
            let is_over = async {
                match over {
                    None => std::future::pending().await,
                    Some(over) => tokio::time::sleep_until(over).await,
                }
            };
            tokio::select! {
                () = closed => {}
                () = is_over => {}
                () = reader.run() => {}
            }
        });
        Ok(ReceiverStream::new(receiver))
    }
}

fn kind_of(kind: i32) -> Option<Kind> {
    let kind = v1::TransactionEventKind::try_from(kind).ok()?;
    Kind::ALL.iter().copied().find(|of| kind_to_wire(*of) == kind)
}

pub(super) fn kind_to_wire(kind: Kind) -> v1::TransactionEventKind {
    match kind {
        Kind::Committed => v1::TransactionEventKind::Committed,
        Kind::Aborted => v1::TransactionEventKind::Aborted,
        Kind::Heuristic => v1::TransactionEventKind::Heuristic,
        Kind::Stalled => v1::TransactionEventKind::Stalled,
        Kind::Forgotten => v1::TransactionEventKind::Forgotten,
    }
}

/// Makes JSON of an event, as it is told over HTTP; nothing of one that cannot be read.
pub(crate) fn event_json(row: &FeedRow) -> Option<Vec<u8>> {
    super::http::json_of(&shown(row, Event::read(&row.body)?))
}

pub(super) fn shown(row: &FeedRow, event: Event) -> v1::TransactionEvent {
    let mode = match event.mode.as_str() {
        "2pc" => v1::Mode::TwoPhaseCommit,
        "tcc" => v1::Mode::Tcc,
        "saga" => v1::Mode::Saga,
        _ => v1::Mode::Unspecified,
    };
    let outcome = match event.decision.as_str() {
        "commit" => v1::Outcome::Committed,
        "abort" => v1::Outcome::Aborted,
        _ => v1::Outcome::NotDecided,
    };
    let time = |ms| time_to_wire(Timestamp(ms));
    v1::TransactionEvent {
        revision: row.revision,
        occurred_at: Some(time(event.at_ms)),
        kind: kind_to_wire(event.kind).into(),
        tx_id: row.tx_id.to_string(),
        gid: event.gid,
        mode: mode.into(),
        outcome: outcome.into(),
        reason: event.reason,
        branch_id: event.branch_id,
        detail: event.detail,
        initiator: event.initiator,
        participants: event.participants,
        metadata: event.metadata.into_iter().collect(),
        created_at: (event.begun_ms > 0).then(|| time(event.begun_ms)),
    }
}
