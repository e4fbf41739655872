//! Events, and the rows of the log of which they are made.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use unanimo_core::{Decision, EventKind, Heuristic, Timestamp};

use crate::store::{NewEvent, News, PhaseName, Standing, Stored};

/// Most bytes of a detail.
const DETAIL_BYTES_MAX: usize = 1 << 10;

/// Event of a transaction, as it is kept. A field that a later version adds is passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// The kind.
    pub kind: Kind,
    /// When it happened, in milliseconds since 1970.
    pub at_ms: u64,
    /// When the transaction was begun, in milliseconds since 1970; 0 if that cannot be read.
    pub begun_ms: u64,
    /// The client's name for the transaction; empty if that cannot be read.
    pub gid: String,
    /// Its mode; empty for a rollback of a gid that was never seen.
    pub mode: String,
    /// `commit` or `abort`; empty if nothing is decided.
    pub decision: String,
    /// Cause, in a word.
    pub reason: String,
    /// The branch that is the cause, if one is.
    pub branch_id: String,
    /// More about the cause.
    pub detail: String,
    /// Who began the transaction.
    pub initiator: String,
    /// Its participants, each once.
    pub participants: Vec<String>,
    /// Its metadata.
    pub metadata: BTreeMap<String, String>,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal;)*) => {
        /// Kind of an event.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Kind { $($(#[$doc])* $kind,)* }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// Returns the stable name, as kept and shown.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }
        }
    };
}

kinds! {
    /// It has ended after COMMIT, and every branch has followed.
    #[default]
    Committed = "committed";
    /// It has ended after ABORT, and every branch has followed.
    Aborted = "aborted";
    /// It has ended, and a branch has ended against the decision, or nobody can tell.
    Heuristic = "heuristic";
    /// Something holds it up, and a person has to look at it.
    Stalled = "stalled";
    /// An operator has said that its heuristic outcome is dealt with.
    Forgotten = "forgotten";
}

/// Events of an operator's interest, of which the first one of a row tells most.
const HOLDS_UP: [EventKind; 4] = [
    EventKind::PivotUnanswered,
    EventKind::RefusedAfterCommit,
    EventKind::OutputTooLarge,
    EventKind::Stalled,
];

/// Makes the events of a row of the log. `now` is the time of what has none.
pub(crate) fn of(news: &News, now: Timestamp) -> Vec<Event> {
    kinds(news).into_iter().map(|kind| event(news, kind, now)).collect()
}

/// Tells what has happened with a row, by what it was before.
fn kinds(news: &News) -> Vec<Kind> {
    let News { row, before, .. } = news;
    let before = |test: fn(Standing) -> bool| before.is_some_and(test);
    if !row.has_ended() {
        // Another cause is news, too, while it is held up.
        let is_another = news.events.iter().any(|event| HOLDS_UP.contains(&event.kind));
        let is_new = !before(|before| before.is_news) || is_another;
        return if is_new { vec![Kind::Stalled] } else { Vec::new() };
    }
    let stored = news.found.as_ref().as_ref().ok().map(|stored| &stored.record.state);
    if before(Standing::has_ended) {
        let is_cleared = before(|before| before.is_held) && !row.is_held;
        return if is_cleared { vec![Kind::Forgotten] } else { Vec::new() };
    }
    // One write may hold both.
    let is_cleared =
        !row.is_held && stored.is_some_and(|s| s.heuristic != Heuristic::None && s.forgotten);
    match row.phase {
        _ if is_cleared => vec![Kind::Heuristic, Kind::Forgotten],
        _ if row.is_held => vec![Kind::Heuristic],
        PhaseName::Committed => vec![Kind::Committed],
        _ => vec![Kind::Aborted],
    }
}

fn event(news: &News, kind: Kind, now: Timestamp) -> Event {
    let held_up = news.events.iter().filter(|event| HOLDS_UP.contains(&event.kind));
    let held_up = held_up.min_by_key(|event| HOLDS_UP.iter().position(|kind| *kind == event.kind));
    let at = match kind {
        Kind::Committed | Kind::Aborted | Kind::Heuristic => news.ended_at,
        Kind::Stalled => held_up.map(|event| event.at),
        Kind::Forgotten => news.forgotten_at,
    };
    let mut event = match news.found.as_ref() {
        Ok(stored) => of_stored(stored, kind),
        Err(unreadable) => Event { gid: unreadable.gid.clone(), ..Event::default() },
    };
    event.kind = kind;
    event.at_ms = at.unwrap_or(now).0;
    if event.decision.is_empty() {
        event.decision = match news.row.phase {
            PhaseName::Committing | PhaseName::Committed => "commit".to_owned(),
            PhaseName::Aborting | PhaseName::Aborted => "abort".to_owned(),
            _ => String::new(),
        };
    }
    if kind == Kind::Stalled {
        event.reason = held_up.map_or(EventKind::Stalled, |event| event.kind).as_str().to_owned();
        event.detail = held_up.map(|event| event.detail.clone()).unwrap_or_default();
    }
    event.detail.truncate(event.detail.floor_char_boundary(DETAIL_BYTES_MAX));
    event
}

/// Makes an event of what is stored of its transaction.
fn of_stored(stored: &Stored, kind: Kind) -> Event {
    let (identity, state) = (&stored.record.identity, &stored.record.state);
    let branches = &stored.record.branches;
    let mut participants: Vec<String> =
        branches.iter().map(|(_, spec)| spec.participant.to_string()).collect();
    participants.sort_unstable();
    participants.dedup();
    let mut event = Event {
        begun_ms: identity.created_at.0,
        gid: identity.gid.to_string(),
        mode: identity.mode().map_or("", unanimo_core::Mode::name).to_owned(),
        initiator: identity.initiator.clone(),
        participants,
        metadata: identity.metadata.clone(),
        ..Event::default()
    };
    if kind == Kind::Stalled {
        return event;
    }
    match (kind, state.heuristic, state.phase.decision()) {
        (Kind::Heuristic, Heuristic::Mixed, _) => "mixed".clone_into(&mut event.reason),
        (Kind::Heuristic, _, _) => "hazard".clone_into(&mut event.reason),
        (Kind::Aborted, _, Some(Decision::Abort(cause))) => {
            cause.name().clone_into(&mut event.reason);
            let number = cause.number().map(|number| usize::from(number.get()));
            let branch = number.and_then(|number| branches.get(number.checked_sub(1)?));
            event.branch_id =
                branch.map(|(_, spec)| spec.branch_id.to_string()).unwrap_or_default();
            event.detail = state.abort_detail.clone().unwrap_or_default();
        }
        _ => {}
    }
    event
}

impl Event {
    /// Makes what is kept of it.
    pub(crate) fn kept(&self, news: &News) -> NewEvent {
        let body = serde_json::to_vec(self).expect("an event has string keys and no failing parts");
        NewEvent { tx_id: news.tx_id, body }
    }

    /// Reads what is kept of one; `None` if a later version wrote it.
    #[must_use]
    pub fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}
