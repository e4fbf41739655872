//! WatchTransactions: events of all transactions, from a revision on.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};
use unanimo_core::{ParticipantName, Timestamp, Violation};
use unanimo_proto::v1;

use super::access::Access;
use super::deadline::Deadline;
use super::error::{from_engine, from_store, invalid, revision_unknown};
use super::{Api, parse};
use crate::engine::Error;
use crate::feed::{Event, Follower, Kind, Told};
use crate::store::{FeedRow, Store};
use crate::wire::time_to_wire;

/// Events that are read at once. Each may have 16 KiB of metadata, and a thousand names of 64 bytes: some megabytes at most.
const PAGE: u32 = 32;

/// Messages that wait for the reader: a slow one is read for when it goes on.
const WAITING_MAX: usize = 16;

/// Events that were not asked for after which a message tells how far the stream is.
const PASSED_MAX: u64 = 1_000;

/// Most kinds in a request: each of them, and as many again.
const KINDS_MAX: usize = 2 * Kind::ALL.len();

/// Pause after a failure to read; the stream goes on.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Stream of events.
pub(crate) type Following = ReceiverStream<Result<v1::WatchTransactionsResponse, Status>>;

/// Choice of events.
#[derive(Debug)]
struct Choice {
    kinds: Vec<Kind>,
    gid_prefix: String,
    participant: Option<ParticipantName>,
    /// Only transactions that this one began.
    initiator: Option<String>,
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
        let participant = match request.participant.as_str() {
            "" => None,
            name => Some(parse::known_participant(name)?),
        };
        if !request.gid_prefix.is_empty() {
            unanimo_core::Gid::known(&request.gid_prefix)
                .map_err(|rule| invalid(Violation::new("gid_prefix", rule.to_string())))?;
        }
        Ok(Self {
            kinds: kinds.collect::<Result<_, _>>()?,
            gid_prefix: request.gid_prefix.clone(),
            participant,
            initiator: (!access.is_of_all()).then(|| access.name().to_owned()),
        })
    }

    fn takes(&self, event: &Event) -> bool {
        let is_of = |name: &ParticipantName| event.participants.iter().any(|p| p == name.as_str());
        (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && event.gid.starts_with(&self.gid_prefix)
            && self.participant.as_ref().is_none_or(is_of)
            && self.initiator.as_ref().is_none_or(|name| event.initiator == *name)
    }
}

impl Api {
    pub(super) async fn watch_all(
        &self,
        request: Request<v1::WatchTransactionsRequest>,
    ) -> Result<Following, Status> {
        let Deadline { until: by, last: over, is_given } = self.deadline(&request);
        let choice = Choice::of(&Access::of(&request), request.get_ref())?;
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
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let reader = Reader {
            store: std::sync::Arc::clone(&self.store),
            feed,
            choice,
            seen,
            passed: 0,
            sender,
        };
        let over = is_given.then_some(over);
        tokio::spawn(async move {
            let sender = reader.sender.clone();
            let closed = sender.closed();
            match over {
                None => tokio::select! { () = closed => {}, () = reader.run() => {} },
                Some(over) => tokio::select! {
                    () = closed => {}
                    () = tokio::time::sleep_until(over) => {}
                    () = reader.run() => {}
                },
            }
        });
        Ok(ReceiverStream::new(receiver))
    }
}

/// Reader of the feed for one stream.
struct Reader {
    store: std::sync::Arc<dyn Store>,
    feed: Follower,
    choice: Choice,
    /// The last revision that was read.
    seen: u64,
    /// Events since the last message.
    passed: u64,
    sender: mpsc::Sender<Result<v1::WatchTransactionsResponse, Status>>,
}

impl Reader {
    /// Sends events until the coordinator stops, or nobody reads.
    async fn run(mut self) {
        let first = v1::WatchTransactionsResponse { revision: self.seen, event: None };
        if self.sender.send(Ok(first)).await.is_err() {
            return;
        }
        while let Ok(last) = self.news().await {
            if let Err(Some(status)) = self.read(last).await {
                let _ = self.sender.send(Err(status)).await;
                return;
            }
        }
        let _ = self.sender.send(Err(from_engine(Error::Stopped))).await;
    }

    /// Waits until there is an event that was not read, and returns the last revision.
    async fn news(&mut self) -> Result<u64, ()> {
        let seen = self.seen;
        let is_new = |told: &Told| match told {
            Told::Nothing => false,
            Told::UpTo(ends) => ends.last > seen,
            Told::Over => true,
        };
        match self.feed.wait_for(is_new).await {
            Some(Told::UpTo(ends)) => Ok(ends.last),
            _ => Err(()),
        }
    }

    /// Reads a page, and sends what was asked for. Nothing is told of a failure that passes.
    async fn read(&mut self, last: u64) -> Result<(), Option<Status>> {
        let page = self.feed.page(self.store.feed(), (self.seen, last), PAGE).await;
        let page = page.unwrap_or_else(|error| {
            tracing::debug!(error = crate::store::in_full(&error), "failed to read events");
            None
        });
        let Some(page) = page else {
            tokio::time::sleep(RETRY_PAUSE).await;
            return Err(None);
        };
        if page.ends.purged > self.seen {
            return Err(Some(revision_unknown(self.seen, page.ends)));
        }
        let is_beyond = page.events.last().is_some_and(|row| row.revision > last);
        let is_whole = page.events.len() < PAGE as usize || is_beyond;
        // What is not known to be durable waits.
        for row in page.events.into_iter().filter(|row| row.revision <= last) {
            self.seen = row.revision;
            self.passed += 1;
            if let Some(event) = self.chosen(&row) {
                self.passed = 0;
                let response =
                    v1::WatchTransactionsResponse { revision: row.revision, event: Some(event) };
                self.sender.send(Ok(response)).await.map_err(|_| None::<Status>)?;
            }
        }
        if is_whole {
            // Numbers without events are gaps.
            self.seen = last.max(self.seen);
        }
        if self.passed >= PASSED_MAX {
            self.passed = 0;
            let response = v1::WatchTransactionsResponse { revision: self.seen, event: None };
            self.sender.send(Ok(response)).await.map_err(|_| None::<Status>)?;
        }
        Ok(())
    }

    fn chosen(&self, row: &FeedRow) -> Option<v1::TransactionEvent> {
        let event = Event::read(&row.body).filter(|event| self.choice.takes(event))?;
        Some(shown(row, event))
    }
}

fn kind_of(kind: i32) -> Option<Kind> {
    let kind = v1::TransactionEventKind::try_from(kind).ok()?;
    Kind::ALL.iter().copied().find(|of| kind_to_wire(*of) == kind)
}

fn kind_to_wire(kind: Kind) -> v1::TransactionEventKind {
    match kind {
        Kind::Committed => v1::TransactionEventKind::Committed,
        Kind::Aborted => v1::TransactionEventKind::Aborted,
        Kind::Heuristic => v1::TransactionEventKind::Heuristic,
        Kind::Stalled => v1::TransactionEventKind::Stalled,
        Kind::Forgotten => v1::TransactionEventKind::Forgotten,
    }
}

fn shown(row: &FeedRow, event: Event) -> v1::TransactionEvent {
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
