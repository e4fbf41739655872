//! Numbers of one look.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use unanimo_proto::v1::{self, TransactionState as State};

use crate::tx::client::{self, Client};
use crate::tx::words::{self, millis};

/// Seconds over which begun transactions are counted: more than [`PAGE`] in them are not.
const BEGUN_SECS: u64 = 10;

/// Seconds over which ended transactions are counted.
const ENDED_SECS: u64 = 60;

/// Most transactions that one question looks at.
const PAGE: u32 = 500;

/// Most pages that are read for the age of the oldest one.
const PAGES_MAX: u32 = 20;

/// Most transactions that need a person, and participants, that are listed one by one.
pub(super) const LISTED_MAX: usize = 8;

/// Newest transactions that are listed.
const NEWEST_MAX: u32 = 5;

/// Keys of the ages, and of the participants: there may be more than those that were read.
pub(super) const UNDECIDED: &str = "oldest_undecided_seconds";
pub(super) const OWED: &str = "oldest_owed_seconds";
pub(super) const IN_DOUBT: &str = "oldest_in_doubt_seconds";
pub(super) const PARTICIPANTS: &str = "participants";

/// One look at the system. Keys are only ever added.
#[derive(Debug, Default, Serialize)]
pub(super) struct Snapshot {
    pub(super) at: String,
    pub(super) begun_per_second: f64,
    pub(super) committed_per_second: f64,
    pub(super) aborted_per_second: f64,
    pub(super) counts: BTreeMap<String, u64>,
    pub(super) at_least: Vec<String>,
    pub(super) oldest_undecided_seconds: Option<u64>,
    pub(super) oldest_owed_seconds: Option<u64>,
    pub(super) stalled: u64,
    pub(super) heuristic: u64,
    pub(super) unreadable: u64,
    pub(super) attention: Vec<Needing>,
    pub(super) participants: Vec<Participant>,
    /// Nothing where the coordinator does not tell the numbers of its process, as to callers of a namespace.
    pub(super) refused_per_second: Option<f64>,
    pub(super) decision_p50_ms: Option<f64>,
    pub(super) decision_p99_ms: Option<f64>,
    pub(super) in_flight: u64,
    pub(super) oldest_in_doubt_seconds: Option<u64>,
    pub(super) newest: Vec<Needing>,
    pub(super) steps: Vec<Step>,
}

/// Some seconds of the last ten minutes, at the coordinator that answers.
#[derive(Debug, Serialize)]
pub(super) struct Step {
    pub(super) seconds: f64,
    pub(super) begun: u64,
    pub(super) committed: u64,
    pub(super) aborted: u64,
    pub(super) refused: u64,
    pub(super) in_flight: u64,
    pub(super) decision_p99_ms: Option<f64>,
}

/// Transaction in a list. Of one that needs no person the reason is empty.
#[derive(Debug, Serialize)]
pub(super) struct Needing {
    pub(super) tx_id: String,
    pub(super) gid: String,
    pub(super) state: String,
    pub(super) reason: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Participant {
    pub(super) name: String,
    pub(super) endpoints: usize,
    pub(super) alive: usize,
    /// Endpoints of the configuration: nobody knows whether they are there.
    pub(super) configured: usize,
    /// Its last calls have all failed.
    pub(super) failing: bool,
    pub(super) calls: u64,
    pub(super) failed: u64,
    pub(super) owed: u64,
    pub(super) call_p99_ms: Option<f64>,
    pub(super) last_error: String,
}

impl Participant {
    pub(super) fn state(&self) -> String {
        crate::participant::processes(self.endpoints, self.alive, self.configured)
    }
}

impl Snapshot {
    pub(super) async fn take(client: &mut Client) -> Result<Self, client::Error> {
        let request = client.request(v1::GetStatisticsRequest::default());
        let told = client.operator.get_statistics(request).await?.into_inner();
        // Ages go by the coordinator's clock: that of this machine may be another one.
        let now = told.answered_at.and_then(|at| Timestamp::new(at.seconds, at.nanos).ok());
        let now = now.unwrap_or_else(Timestamp::now);
        let before = |secs: u64| prost_types::Timestamp {
            seconds: now.as_second() - i64::try_from(secs).unwrap_or_default(),
            nanos: now.subsec_nanosecond(),
        };
        let mut taken = Self { at: format!("{now:.3}"), ..Self::default() };
        let needing = v1::ListTransactionsRequest {
            attention: true,
            include_counts: true,
            counts_ended_from: Some(before(ENDED_SECS)),
            page_size: u32::try_from(LISTED_MAX).unwrap_or(u32::MAX),
            ..Default::default()
        };
        let needing = list(client, needing).await?;
        let counts = needing.counts.ok_or(client::Error::Nonsense("it has no counts"))?;
        taken.count(&counts);
        taken.attention = needing.transactions.iter().map(Needing::from).collect();
        let begun = v1::ListTransactionsRequest {
            created_from: Some(before(BEGUN_SECS)),
            page_size: PAGE,
            ..Default::default()
        };
        let begun = list(client, begun).await?;
        taken.begun_per_second = rate(begun.transactions.len(), BEGUN_SECS);
        if !begun.next_page_token.is_empty() {
            taken.at_least.push("begun_per_second".to_owned());
        }
        let newest = v1::ListTransactionsRequest { page_size: NEWEST_MAX, ..Default::default() };
        let newest = list(client, newest).await?;
        taken.newest = newest.transactions.iter().map(Needing::from).collect();
        let undecided = oldest(client, now, &[State::Active]).await?;
        taken.oldest_undecided_seconds = taken.age(undecided, UNDECIDED);
        let owed = oldest(client, now, &[State::Committing, State::Aborting]).await?;
        taken.oldest_owed_seconds = taken.age(owed, OWED);
        let (participants, are_all) = participants(client).await?;
        taken.participants = participants;
        if !are_all {
            taken.at_least.push(PARTICIPANTS.to_owned());
        }
        taken.of_process(told);
        Ok(taken)
    }

    /// Takes what the coordinator that answers tells of itself.
    fn of_process(&mut self, told: v1::GetStatisticsResponse) {
        let window = told.window.unwrap_or_default();
        self.refused_per_second = told.recent.map(|recent| {
            let refused = usize::try_from(recent.refused_count).unwrap_or(usize::MAX);
            let secs = recent.length.map_or(0, |length| u64::try_from(length.seconds).unwrap_or(0));
            rate(refused, secs.max(1))
        });
        self.decision_p50_ms = window.decision_p50.map(millis);
        self.decision_p99_ms = window.decision_p99.map(millis);
        self.in_flight = told.in_flight_count;
        self.steps = told.steps.into_iter().map(Step::from).collect();
        let in_doubt = told.in_doubt_for.map(|of| u64::try_from(of.seconds).unwrap_or_default());
        // Others may be with another coordinator, and older.
        let all = self.counts.get(&words::state(State::InDoubt)).copied().unwrap_or_default();
        self.oldest_in_doubt_seconds =
            self.age((in_doubt, in_doubt.is_some() && told.in_doubt_count < all), IN_DOUBT);
    }

    /// Notes of an age that there may be older ones, and returns it.
    fn age(&mut self, (age, at_least): (Option<u64>, bool), key: &str) -> Option<u64> {
        if at_least {
            self.at_least.push(key.to_owned());
        }
        age
    }

    pub(super) fn is_at_least(&self, key: &str) -> bool {
        self.at_least.iter().any(|of| of == key)
    }

    fn count(&mut self, counts: &v1::TransactionCounts) {
        for count in &counts.states {
            let state = words::state(count.state());
            if count.at_least {
                self.at_least.push(state.clone());
            }
            let number = usize::try_from(count.transaction_count).unwrap_or(usize::MAX);
            match count.state() {
                State::Committed => self.committed_per_second = rate(number, ENDED_SECS),
                State::Aborted => self.aborted_per_second = rate(number, ENDED_SECS),
                _ => {}
            }
            self.counts.insert(state, count.transaction_count);
        }
        self.stalled = counts.stalled_count;
        self.heuristic = counts.heuristic_count;
        self.unreadable = counts.unreadable_count;
    }
}

impl From<&v1::Transaction> for Needing {
    fn from(tx: &v1::Transaction) -> Self {
        Self {
            tx_id: tx.tx_id.clone(),
            gid: tx.gid.clone(),
            state: words::state(tx.state()),
            reason: words::attention(tx),
        }
    }
}

impl From<v1::StatisticsSpan> for Step {
    fn from(span: v1::StatisticsSpan) -> Self {
        Self {
            seconds: span.length.map_or(0.0, |length| millis(length) / 1e3),
            begun: span.begun_count,
            committed: span.committed_count,
            aborted: span.aborted_count,
            refused: span.refused_count,
            in_flight: span.in_flight_count,
            decision_p99_ms: span.decision_p99.map(millis),
        }
    }
}

async fn list(
    client: &mut Client,
    request: v1::ListTransactionsRequest,
) -> Result<v1::ListTransactionsResponse, client::Error> {
    let request = client.request(request);
    Ok(client.coordinator.list_transactions(request).await?.into_inner())
}

/// Returns the age of the oldest transaction in one of these states, and whether there may be older ones: lists begin with the
/// newest, and [`PAGES_MAX`] pages are read.
async fn oldest(
    client: &mut Client,
    now: Timestamp,
    states: &[State],
) -> Result<(Option<u64>, bool), client::Error> {
    let mut request = v1::ListTransactionsRequest {
        states: states.iter().map(|state| i32::from(*state)).collect(),
        page_size: PAGE,
        ..Default::default()
    };
    let mut oldest: Option<i64> = None;
    for _ in 0..PAGES_MAX {
        let page = list(client, request.clone()).await?;
        let at = page.transactions.iter().filter_map(|tx| tx.decided_at.or(tx.created_at));
        oldest = at.map(|at| at.seconds).chain(oldest).min();
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    let age = oldest.map(|at| u64::try_from(now.as_second() - at).unwrap_or_default());
    Ok((age, !request.page_token.is_empty()))
}

/// Returns the participants, and whether they are all: no more than [`PAGES_MAX`] pages are read.
async fn participants(client: &mut Client) -> Result<(Vec<Participant>, bool), client::Error> {
    let (mut found, mut page_token) = (Vec::new(), String::new());
    for _ in 0..PAGES_MAX {
        let request = client.request(v1::ListParticipantsRequest {
            page_size: PAGE,
            page_token,
            requires: Vec::new(),
        });
        let page = client.directory.list_participants(request).await?.into_inner();
        found.extend(page.participants.into_iter().map(of_participant));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok((found, true));
        }
    }
    Ok((found, false))
}

fn of_participant(participant: v1::Participant) -> Participant {
    let health = participant.health.unwrap_or_default();
    Participant {
        endpoints: participant.endpoints.len(),
        alive: participant.endpoints.iter().filter(|of| !of.configured && of.alive).count(),
        configured: participant.endpoints.iter().filter(|of| of.configured).count(),
        name: participant.name,
        failing: health.failing,
        calls: health.call_count,
        failed: health.failed_count,
        owed: health.owed_count,
        call_p99_ms: health.call_p99.map(millis),
        last_error: health.last_error,
    }
}

fn rate(count: usize, secs: u64) -> f64 {
    let hundredths = u64::try_from(count).unwrap_or(u64::MAX).saturating_mul(100) / secs;
    f64::from(u32::try_from(hundredths).unwrap_or(u32::MAX)) / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Callers of a namespace are told nothing of the process: that is no zero.
    #[test]
    fn what_is_not_told_is_no_number() {
        let text = |refused_per_second: Option<f64>| {
            let of = Snapshot { refused_per_second, ..Snapshot::default() };
            super::super::page::text(&of, "http://x", 99)
        };
        assert!(!text(None).contains("refused") && !text(None).contains("p50"), "{}", text(None));
        assert!(text(Some(0.0)).contains("0.0 refused; to decision p50 none, p99 none"));
    }

    #[test]
    fn a_participant_that_has_left_is_gone() {
        let state = |endpoints: usize, alive: usize, configured: usize| {
            let endpoint = |n: usize| v1::ParticipantEndpoint {
                configured: n < configured,
                alive: (configured..configured + alive).contains(&n),
                ..Default::default()
            };
            let endpoints = (0..endpoints).map(endpoint).collect();
            of_participant(v1::Participant { endpoints, ..Default::default() }).state()
        };
        assert_eq!(state(0, 0, 0), "gone");
        assert_eq!(state(2, 0, 0), "gone");
        assert_eq!(state(1, 0, 1), "1 configured");
        assert_eq!(state(3, 1, 1), "1 of 2 alive, 1 configured");
    }
}
