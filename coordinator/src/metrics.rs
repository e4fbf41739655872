//! Metrics of a coordinator. The registry, the text at `/metrics` and docs/reference/metrics.md are
//! made from [`TABLE`].
//!
//! Each coordinator has its own instance, because several can run in one process.

use std::collections::HashSet;
use std::sync::atomic::AtomicU64;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};
use unanimo_core::{Mode, Outcome, ParticipantName};

use crate::alarm::{CLOCK_SKEW, HEURISTIC_OUTCOME, TRANSACTION_STALLED};
use crate::store::AttentionCount;
use crate::store::journal::Observer;

/// Most participants that have a label of their own. Each is up to six series.
const LABELS_MAX: usize = 200;

/// Most participants with calls waiting that have one: those with the most.
const WAITING_LABELS_MAX: usize = 64;

/// Label of all other participants. No participant has such a name.
const OTHER: &str = "(other)";

/// Documentation of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// Name, as `/metrics` prints it.
    pub name: &'static str,
    /// Type: `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Labels, separated by commas.
    pub labels: &'static str,
    /// Meaning, with the unit.
    pub help: &'static str,
    /// Condition for an alert; empty if there should be none.
    pub alert: &'static str,
}

macro_rules! table {
    ($($name:ident: $kind:literal [$labels:literal] $help:literal, alert $alert:literal;)*) => {
        /// Documentation of every metric.
        pub const TABLE: &[Described] = &[$(Described {
            name: stringify!($name),
            kind: $kind,
            labels: $labels,
            help: $help,
            alert: $alert,
        },)*];
    };
}

table! {
    unanimo_transactions_begun_total: "counter" ["mode"]
        "Transactions begun",
        alert "";
    unanimo_rolled_back_unseen_total: "counter" [""]
        "Rollbacks of a gid that was never seen: each leaves an aborted tombstone",
        alert "";
    unanimo_transactions_decided_total: "counter" ["mode, outcome"]
        "Transactions decided",
        alert "the share of `aborted` is far above its usual level";
    unanimo_decision_seconds: "histogram" [""]
        "Time from begin to decision, in seconds",
        alert "p99 is far above its usual level";
    unanimo_transactions_live: "gauge" [""]
        "Transactions in memory: begun or adopted, and not ended",
        alert "above 80 % of `transactions-max`";
    unanimo_live_bytes: "gauge" [""]
        "Bytes of payloads that live transactions hold",
        alert "above 80 % of `live-bytes-max`";
    unanimo_transactions_set_aside: "gauge" [""]
        "Transactions in memory that hold no place of `transactions-max`, because none of the participants that they wait for can be reached",
        alert "above 0 for five minutes";
    unanimo_alarms: "gauge" ["alarm"]
        "Transactions that need an operator, by reason: `transaction_stalled`, `heuristic_outcome`; and participants with the alarm `clock_skew`",
        alert "above 0: `unanimo tx list --attention` lists transactions, the log names participants";
    unanimo_participants_failing: "gauge" [""]
        "Participants whose last calls have all failed: new work for them is refused",
        alert "above 0 for a minute";
    unanimo_participant_calls_waiting: "gauge" ["participant"]
        "Calls that wait until a participant answers again, or for their turn after that; for 64 participants, with the others together as `(other)`",
        alert "";
    unanimo_admission_refused_total: "counter" ["reason"]
        "Requests for new work that were refused, by reason",
        alert "`overloaded` grows for a minute";
    unanimo_participant_calls_total: "counter" ["participant, operation, result"]
        "Calls to participants that have ended; `failed` ones are repeated. The first 200 participants are told apart, the others are `(other)`",
        alert "the share of `failed` of one participant is above 10 % for five minutes";
    unanimo_participant_call_seconds: "histogram" ["operation"]
        "Duration of calls to participants, in seconds",
        alert "";
    unanimo_requests_total: "counter" ["method, code"]
        "gRPC requests served, by method and status code",
        alert "the share of `Internal` or `Unavailable` is above 1 % for five minutes";
    unanimo_journal_flush_seconds: "histogram" [""]
        "Time to make a batch durable, in seconds",
        alert "p99 above 1 s: the database is slow";
    unanimo_journal_batch_rows: "histogram" [""]
        "Transactions in a batch",
        alert "";
    unanimo_journal_backlog: "gauge" [""]
        "Transactions with transitions that are not written yet",
        alert "grows for a minute";
    unanimo_journal_connected: "gauge" [""]
        "1 while the journal's connection to the database works, otherwise 0",
        alert "0 for a minute";
    unanimo_lease_held: "gauge" [""]
        "1 while this incarnation holds its lease and may decide and send, otherwise 0",
        alert "0 for a minute";
    unanimo_adopted_total: "counter" [""]
        "Transactions adopted from earlier incarnations",
        alert "";
    unanimo_purged_total: "counter" ["what"]
        "Transactions purged, by part: first their `details`, later their `gids`",
        alert "";
    unanimo_write_refused_total: "counter" [""]
        "Transactions whose row the database refused; each also logs the alarm `write_refused`",
        alert "above 0";
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModeLabel {
    mode: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecidedLabels {
    mode: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    participant: String,
    operation: &'static str,
    result: CallResult,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "as it is shown")]
enum CallResult {
    answered,
    failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ParticipantLabel {
    participant: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabel {
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AlarmLabel {
    alarm: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WhatLabel {
    what: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    code: String,
}

type Gauge01 = Gauge<i64, std::sync::atomic::AtomicI64>;

/// Metrics of one coordinator.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    begun: Family<ModeLabel, Counter>,
    rolled_back_unseen: Counter,
    decided: Family<DecidedLabels, Counter>,
    decision_seconds: Histogram,
    live: Gauge01,
    live_bytes: Gauge01,
    set_aside: Gauge01,
    failing: Gauge01,
    calls_waiting: Family<ParticipantLabel, Gauge01>,
    /// Participants that have a label of their own.
    labelled: RwLock<HashSet<String>>,
    alarms: Family<AlarmLabel, Gauge01>,
    admission_refused: Family<ReasonLabel, Counter>,
    calls: Family<CallLabels, Counter>,
    call_seconds: Family<OperationLabel, Histogram, fn() -> Histogram>,
    requests: Family<RequestLabels, Counter>,
    flush_seconds: Histogram,
    batch_rows: Histogram,
    backlog: Gauge01,
    connected: Gauge01,
    lease_held: Gauge01,
    adopted: Counter<u64, AtomicU64>,
    purged: Family<WhatLabel, Counter>,
    write_refused: Counter,
}

/// Makes a histogram with buckets from 0.1 ms to 52 s.
fn seconds() -> Histogram {
    Histogram::new((0..20).map(|power| 0.000_1 * f64::from(1_u32 << power)))
}

fn rows() -> Histogram {
    Histogram::new((0..11).map(|power| f64::from(1_u32 << power)))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            begun: Family::default(),
            rolled_back_unseen: Counter::default(),
            decided: Family::default(),
            decision_seconds: seconds(),
            live: Gauge::default(),
            live_bytes: Gauge::default(),
            set_aside: Gauge::default(),
            failing: Gauge::default(),
            calls_waiting: Family::default(),
            labelled: RwLock::default(),
            alarms: Family::default(),
            admission_refused: Family::default(),
            calls: Family::default(),
            call_seconds: Family::new_with_constructor(seconds as fn() -> Histogram),
            requests: Family::default(),
            flush_seconds: seconds(),
            batch_rows: rows(),
            backlog: Gauge::default(),
            connected: Gauge::default(),
            lease_held: Gauge::default(),
            adopted: Counter::default(),
            purged: Family::default(),
            write_refused: Counter::default(),
        };
        metrics.register_all();
        metrics.attention(AttentionCount::default());
        metrics.skewed(0);
        metrics
    }
}

/// Registers metrics in the table's order, and panics if the code and the table differ.
struct Registrar<'a> {
    registry: &'a mut Registry,
    table: std::slice::Iter<'static, Described>,
}

impl Registrar<'_> {
    fn add(&mut self, name: &str, metric: impl Metric) {
        let described = self.table.next().expect("every metric is in the table");
        assert_eq!(described.name, name, "the table has another order");
        // The encoder adds the suffix of counters.
        let name = name.strip_suffix("_total").unwrap_or(name);
        self.registry.register(name, described.help, metric);
    }
}

impl Metrics {
    fn register_all(&mut self) {
        let mut all = Registrar { registry: &mut self.registry, table: TABLE.iter() };
        all.add("unanimo_transactions_begun_total", self.begun.clone());
        all.add("unanimo_rolled_back_unseen_total", self.rolled_back_unseen.clone());
        all.add("unanimo_transactions_decided_total", self.decided.clone());
        all.add("unanimo_decision_seconds", self.decision_seconds.clone());
        all.add("unanimo_transactions_live", self.live.clone());
        all.add("unanimo_live_bytes", self.live_bytes.clone());
        all.add("unanimo_transactions_set_aside", self.set_aside.clone());
        all.add("unanimo_alarms", self.alarms.clone());
        all.add("unanimo_participants_failing", self.failing.clone());
        all.add("unanimo_participant_calls_waiting", self.calls_waiting.clone());
        all.add("unanimo_admission_refused_total", self.admission_refused.clone());
        all.add("unanimo_participant_calls_total", self.calls.clone());
        all.add("unanimo_participant_call_seconds", self.call_seconds.clone());
        all.add("unanimo_requests_total", self.requests.clone());
        all.add("unanimo_journal_flush_seconds", self.flush_seconds.clone());
        all.add("unanimo_journal_batch_rows", self.batch_rows.clone());
        all.add("unanimo_journal_backlog", self.backlog.clone());
        all.add("unanimo_journal_connected", self.connected.clone());
        all.add("unanimo_lease_held", self.lease_held.clone());
        all.add("unanimo_adopted_total", self.adopted.clone());
        all.add("unanimo_purged_total", self.purged.clone());
        all.add("unanimo_write_refused_total", self.write_refused.clone());
        assert!(all.table.next().is_none(), "every line of the table is a metric");
    }

    /// Encodes all metrics in the OpenMetrics text format.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }

    /// Counts a transaction that has begun.
    pub fn begun(&self, mode: Mode) {
        self.begun.get_or_create(&ModeLabel { mode: mode.name() }).inc();
    }

    /// Counts a durable rollback of a gid that was never seen.
    pub fn rolled_back_unseen(&self) {
        self.rolled_back_unseen.inc();
    }

    /// Counts a decision, and measures the time since the begin.
    pub fn decided(&self, mode: Mode, outcome: Outcome, took: Duration) {
        let outcome = match outcome {
            Outcome::Committed => "committed",
            Outcome::Aborted | Outcome::NotDecided => "aborted",
        };
        self.decided.get_or_create(&DecidedLabels { mode: mode.name(), outcome }).inc();
        self.decision_seconds.observe(took.as_secs_f64());
    }

    /// Counts and measures a call to a participant that has ended, with an answer or without.
    pub fn called(
        &self,
        participant: &str,
        operation: &'static str,
        answered: bool,
        took: Duration,
    ) {
        let result = if answered { CallResult::answered } else { CallResult::failed };
        let participant = self.label(participant);
        self.calls.get_or_create(&CallLabels { participant, operation, result }).inc();
        self.call_seconds.get_or_create(&OperationLabel { operation }).observe(took.as_secs_f64());
    }

    /// Returns the label of a participant: its name, or that of all others where there are many. Names come
    /// from outside, and each would be kept for ever.
    fn label(&self, participant: &str) -> String {
        let read = self.labelled.read().unwrap_or_else(PoisonError::into_inner);
        if read.contains(participant) {
            return participant.to_owned();
        }
        drop(read);
        let mut labelled = self.labelled.write().unwrap_or_else(PoisonError::into_inner);
        if labelled.len() >= LABELS_MAX && !labelled.contains(participant) {
            return OTHER.to_owned();
        }
        labelled.insert(participant.to_owned());
        participant.to_owned()
    }

    /// Sets the numbers of participants that fail, and of calls that wait.
    pub fn participants(
        &self,
        set_aside: usize,
        mut troubled: Vec<(ParticipantName, bool, usize)>,
    ) {
        let count = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        self.set_aside.set(count(set_aside));
        self.failing.set(count(troubled.iter().filter(|(_, failing, _)| *failing).count()));
        self.calls_waiting.clear();
        troubled.sort_by_key(|(_, _, waiting)| std::cmp::Reverse(*waiting));
        for (place, (name, _, waiting)) in troubled.into_iter().enumerate() {
            let name = if place < WAITING_LABELS_MAX { name.as_str() } else { OTHER };
            let participant = name.to_owned();
            let gauge = self.calls_waiting.get_or_create_owned(&ParticipantLabel { participant });
            gauge.inc_by(count(waiting));
        }
    }

    /// Counts a request for new work that was refused.
    pub fn refused(&self, reason: &'static str) {
        self.admission_refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts a gRPC request that was answered.
    pub fn served(&self, method: &str, code: tonic::Code) {
        let labels = RequestLabels { method: method.to_owned(), code: format!("{code:?}") };
        self.requests.get_or_create(&labels).inc();
    }

    /// Counts transactions that were adopted.
    pub fn adopted(&self, count: usize) {
        self.adopted.inc_by(count as u64);
    }

    /// Counts transactions that were purged.
    pub fn purged(&self, purged: crate::store::Purged) {
        for (what, count) in [("details", purged.stripped), ("gids", purged.deleted)] {
            self.purged.get_or_create(&WhatLabel { what }).inc_by(count);
        }
    }

    /// Counts a row that the database refused.
    pub fn write_refused(&self) {
        self.write_refused.inc();
    }

    /// Sets the numbers of transactions that need an operator.
    pub fn attention(&self, count: AttentionCount) {
        for (alarm, value) in
            [(TRANSACTION_STALLED, count.stalled), (HEURISTIC_OUTCOME, count.heuristic)]
        {
            self.alarms.get_or_create(&AlarmLabel { alarm }).set(value);
        }
    }

    /// Sets the number of participants whose clocks are ahead.
    pub fn skewed(&self, participants: usize) {
        let value = i64::try_from(participants).unwrap_or(i64::MAX);
        self.alarms.get_or_create(&AlarmLabel { alarm: CLOCK_SKEW }).set(value);
    }

    /// Sets the gauges of the present moment, before each scrape.
    pub fn gauges(&self, live: usize, live_bytes: usize, backlog: usize, lease_held: bool) {
        let count = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        self.live.set(count(live));
        self.live_bytes.set(count(live_bytes));
        self.backlog.set(count(backlog));
        self.lease_held.set(i64::from(lease_held));
    }
}

impl Observer for Metrics {
    fn flushed(&self, rows: usize, took: Duration) {
        #[expect(clippy::cast_precision_loss, reason = "at most a thousand")]
        self.batch_rows.observe(rows as f64);
        self.flush_seconds.observe(took.as_secs_f64());
    }

    fn connected(&self, connected: bool) {
        self.connected.set(i64::from(connected));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn participants_are_told_apart_up_to_a_number() {
        let metrics = Metrics::default();
        for n in 0..1000 {
            metrics.called(&format!("invented-{n}"), "prepare", true, Duration::ZERO);
        }
        let names = (0..1000).map(|n| ParticipantName::new(&format!("p{n}")).expect("a name"));
        metrics.participants(0, names.map(|name| (name, true, 1)).collect());
        let text = metrics.encode();
        let series = |of: &str| text.lines().filter(|line| line.starts_with(of)).count();
        assert_eq!(series("unanimo_participant_calls_total{"), LABELS_MAX + 1);
        assert_eq!(series("unanimo_participant_calls_waiting{"), WAITING_LABELS_MAX + 1);
        assert!(
            text.contains("participant=\"(other)\",operation=\"prepare\",result=\"answered\"} 800")
        );
        assert!(text.contains("waiting{participant=\"(other)\"} 936"), "{text}");
    }

    #[test]
    fn every_metric_is_scraped_under_its_name() {
        let metrics = Metrics::default();
        metrics.begun(Mode::Tcc);
        metrics.decided(Mode::Tcc, Outcome::Committed, Duration::from_millis(3));
        metrics.called("bank", "prepare", true, Duration::from_millis(3));
        metrics.participants(1, vec![(ParticipantName::new("bank").expect("a name"), true, 7)]);
        metrics.refused("overloaded");
        metrics.served("Submit", tonic::Code::Ok);
        metrics.purged(crate::store::Purged { stripped: 1, deleted: 2 });
        metrics.flushed(3, Duration::from_millis(1));
        let text = metrics.encode();
        for Described { name, kind, help, .. } in TABLE {
            let bare = name.strip_suffix("_total").unwrap_or(name);
            assert!(text.contains(&format!("# TYPE {bare} {kind}\n")), "{name}: {text}");
            assert!(text.contains(&format!("# HELP {bare} {help}")), "{name}: {text}");
            let series =
                if *kind == "histogram" { format!("{name}_count") } else { (*name).into() };
            assert!(text.contains(&format!("\n{series}")), "{series}: {text}");
        }
    }
}
