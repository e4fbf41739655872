//! Numbers of one look, and their page.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use unanimo_proto::v1::{self, TransactionState as State};

use crate::output::{BAD, CAUTION, GOOD, HEADING, clean, table, wrapped};
use crate::tx::client::{self, Client};
use crate::tx::words;

/// Seconds over which begun transactions are counted: more than [`PAGE`] in them are not.
const BEGUN_SECS: u64 = 10;

/// Seconds over which ended transactions are counted.
const ENDED_SECS: u64 = 60;

/// Most transactions that one question looks at.
const PAGE: u32 = 500;

/// Most pages that are read for the age of the oldest one.
const PAGES_MAX: u32 = 20;

/// Most transactions that need a person, and participants, that are listed one by one.
const LISTED_MAX: usize = 8;

/// Keys of the two ages.
const UNDECIDED: &str = "oldest_undecided_seconds";
const OWED: &str = "oldest_owed_seconds";

/// One look at the system. Keys are only ever added.
#[derive(Debug, Default, Serialize)]
pub(super) struct Snapshot {
    at: String,
    begun_per_second: f64,
    committed_per_second: f64,
    aborted_per_second: f64,
    counts: BTreeMap<String, u64>,
    at_least: Vec<String>,
    oldest_undecided_seconds: Option<u64>,
    oldest_owed_seconds: Option<u64>,
    stalled: u64,
    heuristic: u64,
    unreadable: u64,
    attention: Vec<Needing>,
    participants: Vec<Participant>,
    /// Nothing where the coordinator does not tell the numbers of its process, as to callers of a namespace.
    refused_per_second: Option<f64>,
    decision_p50_ms: Option<f64>,
    decision_p99_ms: Option<f64>,
}

/// Transaction that needs a person.
#[derive(Debug, Serialize)]
struct Needing {
    tx_id: String,
    gid: String,
    state: String,
    reason: String,
}

#[derive(Debug, Serialize)]
struct Participant {
    name: String,
    endpoints: usize,
    alive: usize,
    /// Endpoints of the configuration: nobody knows whether they are there.
    configured: usize,
    /// Its last calls have all failed.
    failing: bool,
    calls: u64,
    failed: u64,
    owed: u64,
    call_p99_ms: Option<f64>,
    last_error: String,
}

impl Participant {
    fn state(&self) -> String {
        crate::participant::processes(self.endpoints, self.alive, self.configured)
    }
}

impl Snapshot {
    pub(super) async fn take(client: &mut Client) -> Result<Self, client::Error> {
        let now = Timestamp::now();
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
        let undecided = oldest(client, now, &[State::Active]).await?;
        taken.oldest_undecided_seconds = taken.age(undecided, UNDECIDED);
        let owed = oldest(client, now, &[State::Committing, State::Aborting]).await?;
        taken.oldest_owed_seconds = taken.age(owed, OWED);
        taken.participants = participants(client).await?;
        let request = client.request(v1::GetStatisticsRequest::default());
        let told = client.operator.get_statistics(request).await?.into_inner();
        taken.refused_per_second = told.recent.map(|recent| {
            let refused = usize::try_from(recent.refused_count).unwrap_or(usize::MAX);
            let secs = recent.length.map_or(0, |length| u64::try_from(length.seconds).unwrap_or(0));
            rate(refused, secs.max(1))
        });
        let window = told.window.unwrap_or_default();
        taken.decision_p50_ms = window.decision_p50.map(millis);
        taken.decision_p99_ms = window.decision_p99.map(millis);
        Ok(taken)
    }

    /// Notes of an age that there may be older ones, and returns it.
    fn age(&mut self, (age, at_least): (Option<u64>, bool), key: &str) -> Option<u64> {
        if at_least {
            self.at_least.push(key.to_owned());
        }
        age
    }

    fn is_at_least(&self, key: &str) -> bool {
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

    /// Makes a page of at most so many lines.
    pub(super) fn text(&self, endpoint: &str, lines: usize) -> String {
        let plus = |name: &str| if self.is_at_least(name) { "+" } else { "" };
        let number = |state: &str| {
            format!("{}{}", self.counts.get(state).copied().unwrap_or_default(), plus(state))
        };
        let since = |secs: Option<u64>, key: &str| match secs {
            Some(secs) if self.is_at_least(key) => {
                format!(", the oldest for at least {:#}", age(secs))
            }
            Some(secs) => format!(", the oldest for {:#}", age(secs)),
            None => String::new(),
        };
        let mut text =
            format!("{HEADING}unanimo top{HEADING:#}  {}  {}\n\n", self.at, clean(endpoint));
        text += &format!(
            "a second     {:.1}{} begun, {:.1}{} committed, {:.1}{} aborted\n",
            self.begun_per_second,
            plus("begun_per_second"),
            self.committed_per_second,
            plus("committed"),
            self.aborted_per_second,
            plus("aborted"),
        );
        let [p50, p99] = [self.decision_p50_ms, self.decision_p99_ms]
            .map(|took| took.map_or_else(|| "none".to_owned(), |took| format!("{took:.1} ms")));
        if let Some(refused) = self.refused_per_second {
            text +=
                &format!("             {refused:.1} refused; to decision p50 {p50}, p99 {p99}\n");
        }
        let undecided = since(self.oldest_undecided_seconds, UNDECIDED);
        text += &format!("not decided  {}{undecided}\n", number("active"));
        text += &format!(
            "owed         {} committing, {} aborting{}\n",
            number("committing"),
            number("aborting"),
            since(self.oldest_owed_seconds, OWED)
        );
        text += &format!(
            "waiting      {} scheduled, {} children in doubt\n",
            number("scheduled"),
            number("in_doubt")
        );
        text += &self.needing();
        text += &self.of_participants();
        text.lines().take(lines).fold(String::new(), |text, line| text + line + "\n")
    }

    fn needing(&self) -> String {
        let Self { stalled, heuristic, unreadable, .. } = self;
        if stalled + heuristic + unreadable == 0 {
            return format!("\n{GOOD}nothing needs a person{GOOD:#}\n");
        }
        let rows = self.attention.iter().map(|of| {
            let name = if of.gid.is_empty() { &of.tx_id } else { &of.gid };
            [name.clone(), of.state.clone(), of.reason.clone()]
        });
        format!(
            "\n{BAD}{stalled} stalled, {heuristic} heuristic, {unreadable} unreadable{BAD:#}\n{}",
            table(["GID", "STATE", "ATTENTION"], rows)
        )
    }

    fn of_participants(&self) -> String {
        let mut sorted: Vec<&Participant> = self.participants.iter().collect();
        let found = |of: &Participant| of.alive + of.configured;
        sorted.sort_by_key(|of| (!of.failing, found(of) > 0, found(of) == of.endpoints));
        let rows = sorted.iter().take(LISTED_MAX).map(|of| {
            let calls = if of.failing { "failing" } else { "" };
            let (failed, owed) = (format!("{} of {}", of.failed, of.calls), of.owed.to_string());
            [of.name.clone(), of.state(), calls.to_owned(), failed, owed]
        });
        let more = match self.participants.len().saturating_sub(LISTED_MAX) {
            0 => String::new(),
            more => format!("and {more} more: `unanimo participant list`\n"),
        };
        format!("\n{}{more}", table(["PARTICIPANT", "PROCESSES", "CALLS", "FAILED", "OWED"], rows))
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

/// Makes the line about a look that failed.
pub(super) fn failure(error: &client::Error) -> String {
    let text = clean(&error.to_string());
    format!("{CAUTION}no answer{CAUTION:#}  {}", wrapped(11, &text))
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

async fn participants(client: &mut Client) -> Result<Vec<Participant>, client::Error> {
    let request = client.request(v1::ListParticipantsRequest {
        page_size: PAGE,
        page_token: String::new(),
        requires: Vec::new(),
    });
    let found = client.directory.list_participants(request).await?.into_inner().participants;
    Ok(found.into_iter().map(of_participant).collect())
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

/// Returns a duration in milliseconds, to the microsecond.
fn millis(of: prost_types::Duration) -> f64 {
    let micros = of.seconds.saturating_mul(1_000_000).saturating_add(i64::from(of.nanos) / 1_000);
    let micros = u32::try_from(micros).unwrap_or(u32::MAX);
    f64::from(micros) / 1e3
}

fn rate(count: usize, secs: u64) -> f64 {
    let hundredths = u64::try_from(count).unwrap_or(u64::MAX).saturating_mul(100) / secs;
    f64::from(u32::try_from(hundredths).unwrap_or(u32::MAX)) / 100.0
}

fn age(secs: u64) -> jiff::SignedDuration {
    jiff::SignedDuration::try_from(Duration::from_secs(secs)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Callers of a namespace are told nothing of the process: that is no zero.
    #[test]
    fn what_is_not_told_is_no_number() {
        let text = |refused_per_second: Option<f64>| {
            Snapshot { refused_per_second, ..Snapshot::default() }.text("http://x", 99)
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
