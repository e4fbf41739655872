//! Metrics of a coordinator. The registry, the text at `/metrics` and docs/reference/metrics.md are
//! made from [`TABLE`].
//!
//! Each coordinator has its own instance, because several can run in one process.

mod callers;
mod feed;
mod labels;
mod open;
mod participants;
mod process;
mod pulse;
mod quantiles;
mod table;

use std::sync::RwLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};
use unanimo_core::{Mode, Outcome};

use self::open::OpenLabels;
use self::process::Process;
pub(crate) use self::pulse::{CallSpan, Minutes, STEP, Span};
pub use self::table::{Described, TABLE};
use crate::alarm::{
    HEURISTIC_OUTCOME, OUTPUT_TOO_LARGE, PIVOT_UNANSWERED, REFUSED_AFTER_COMMIT,
    TRANSACTION_STALLED, TRANSACTION_UNREADABLE,
};
use crate::store::AttentionCount;
use crate::store::journal::Observer;

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
struct VersionLabel {
    version: &'static str,
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

type Gauge01 = Gauge<i64, std::sync::atomic::AtomicI64>;

/// Gauge of seconds.
type Seconds = Gauge<f64, AtomicU64>;

/// Metrics of one coordinator.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    begun: Family<ModeLabel, Counter>,
    rolled_back_unseen: Counter,
    decided: Family<DecidedLabels, Counter>,
    decision_seconds: Histogram,
    live: Gauge01,
    open: Family<OpenLabels, Gauge01>,
    oldest_undecided: Seconds,
    oldest_owed: Seconds,
    live_bytes: Gauge01,
    set_aside: Gauge01,
    failing: Gauge01,
    calls_waiting: Family<ParticipantLabel, Gauge01>,
    parked: Family<ParticipantLabel, Gauge01>,
    /// Participants that have a label of their own, and what became of their calls lately.
    labelled: RwLock<labels::Labels>,
    pulse: pulse::Pulse,
    alarms: Family<AlarmLabel, Gauge01>,
    /// Participants whose clocks are ahead.
    skewed: AtomicI64,
    /// 1 while the coordinator's own clocks disagree.
    own_skew: AtomicI64,
    admission_refused: Family<ReasonLabel, Counter>,
    calls: Family<CallLabels, Counter>,
    call_seconds: Family<OperationLabel, Histogram, fn() -> Histogram>,
    answer_seconds: Family<ParticipantLabel, Histogram, fn() -> Histogram>,
    callers: callers::Callers,
    flush_seconds: Histogram,
    batch_rows: Histogram,
    backlog: Gauge01,
    connected: Gauge01,
    lease_held: Gauge01,
    log_bytes: Gauge01,
    damaged_ranges: Gauge01,
    adopted: Counter<u64, AtomicU64>,
    purged: Family<WhatLabel, Counter>,
    feed: feed::Feed,
    last_purge: Seconds,
    write_refused: Counter,
    build: Family<VersionLabel, Gauge01>,
    process: Process,
}

/// Makes a histogram with buckets from 0.1 ms to 52 s.
fn seconds() -> Histogram {
    Histogram::new((0..20).map(|power| 0.000_1 * f64::from(1_u32 << power)))
}

/// Makes a histogram with buckets from 5 ms to 20 s: few, because there is one for each participant.
fn coarse_seconds() -> Histogram {
    Histogram::new([0.005, 0.02, 0.1, 0.5, 2.0, 5.0, 20.0])
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
            open: Family::default(),
            oldest_undecided: Gauge::default(),
            oldest_owed: Gauge::default(),
            live_bytes: Gauge::default(),
            set_aside: Gauge::default(),
            failing: Gauge::default(),
            calls_waiting: Family::default(),
            parked: Family::default(),
            labelled: RwLock::new(labels::Labels::new(tokio::time::Instant::now())),
            pulse: Default::default(),
            alarms: Family::default(),
            skewed: AtomicI64::default(),
            own_skew: AtomicI64::default(),
            admission_refused: Family::default(),
            calls: Family::default(),
            call_seconds: Family::new_with_constructor(seconds as fn() -> Histogram),
            answer_seconds: Family::new_with_constructor(coarse_seconds as fn() -> Histogram),
            callers: Default::default(),
            flush_seconds: seconds(),
            batch_rows: Histogram::new((0..11).map(|power| f64::from(1_u32 << power))),
            backlog: Gauge::default(),
            connected: Gauge::default(),
            lease_held: Gauge::default(),
            log_bytes: Gauge::default(),
            damaged_ranges: Gauge::default(),
            adopted: Counter::default(),
            purged: Family::default(),
            feed: Default::default(),
            last_purge: Gauge::default(),
            write_refused: Counter::default(),
            build: Family::default(),
            process: Process::default(),
        };
        metrics.register_all();
        metrics.attention(AttentionCount::default());
        metrics.skewed(0);
        let build = VersionLabel { version: env!("CARGO_PKG_VERSION") };
        metrics.build.get_or_create(&build).set(1);
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
        all.add("unanimo_transactions_open", self.open.clone());
        all.add("unanimo_oldest_undecided_seconds", self.oldest_undecided.clone());
        all.add("unanimo_oldest_owed_seconds", self.oldest_owed.clone());
        all.add("unanimo_live_bytes", self.live_bytes.clone());
        all.add("unanimo_transactions_set_aside", self.set_aside.clone());
        all.add("unanimo_alarms", self.alarms.clone());
        all.add("unanimo_participants_failing", self.failing.clone());
        all.add("unanimo_participant_calls_waiting", self.calls_waiting.clone());
        all.add("unanimo_participant_transactions_parked", self.parked.clone());
        all.add("unanimo_admission_refused_total", self.admission_refused.clone());
        all.add("unanimo_participant_calls_total", self.calls.clone());
        all.add("unanimo_participant_call_seconds", self.call_seconds.clone());
        all.add("unanimo_participant_answer_seconds", self.answer_seconds.clone());
        self.callers.register(&mut all);
        all.add("unanimo_journal_flush_seconds", self.flush_seconds.clone());
        all.add("unanimo_journal_batch_rows", self.batch_rows.clone());
        all.add("unanimo_journal_backlog", self.backlog.clone());
        all.add("unanimo_journal_connected", self.connected.clone());
        all.add("unanimo_lease_held", self.lease_held.clone());
        all.add("unanimo_sqlite_log_bytes", self.log_bytes.clone());
        all.add("unanimo_adopted_total", self.adopted.clone());
        all.add("unanimo_purged_total", self.purged.clone());
        all.add("unanimo_last_purge_timestamp_seconds", self.last_purge.clone());
        self.feed.register(&mut all);
        all.add("unanimo_write_refused_total", self.write_refused.clone());
        all.add("unanimo_damaged_ranges", self.damaged_ranges.clone());
        all.add("unanimo_build_info", self.build.clone());
        all.add("process_resident_memory_bytes", self.process.resident_bytes.clone());
        all.add("process_cpu_seconds_total", self.process.cpu_seconds.clone());
        all.add("process_open_fds", self.process.open_fds.clone());
        all.add("process_max_fds", self.process.max_fds.clone());
        all.add("process_start_time_seconds", self.process.started_at.clone());
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

    /// Returns the number of transactions that have begun since the start.
    pub(crate) fn begun_so_far(&self) -> u64 {
        self.pulse.begun.load(Ordering::Relaxed)
    }

    /// Counts a transaction that has begun.
    pub fn begun(&self, mode: Mode) {
        self.pulse.begun.fetch_add(1, Ordering::Relaxed);
        self.begun.get_or_create(&ModeLabel { mode: mode.name() }).inc();
    }

    /// Counts a durable rollback of a gid that was never seen.
    pub fn rolled_back_unseen(&self) {
        self.rolled_back_unseen.inc();
    }

    /// Counts a decision, and measures the time since the begin.
    pub fn decided(&self, mode: Mode, outcome: Outcome, took: Duration) {
        let (outcome, count) = match outcome {
            Outcome::Committed => ("committed", &self.pulse.committed),
            Outcome::Aborted | Outcome::NotDecided => ("aborted", &self.pulse.aborted),
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.pulse.decisions.note(took);
        self.decided.get_or_create(&DecidedLabels { mode: mode.name(), outcome }).inc();
        self.decision_seconds.observe(took.as_secs_f64());
    }

    /// Counts a request for new work that was refused.
    pub fn refused(&self, reason: &'static str) {
        self.pulse.refused.fetch_add(1, Ordering::Relaxed);
        self.admission_refused.get_or_create(&ReasonLabel { reason }).inc();
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

    /// Sets the numbers of transactions that need an operator, and of places of damage whose names are lost.
    pub fn attention(&self, count: AttentionCount) {
        self.damaged_ranges.set(count.damaged_ranges);
        for (alarm, value) in [
            (TRANSACTION_STALLED, count.stalled),
            (PIVOT_UNANSWERED, count.unanswered),
            (REFUSED_AFTER_COMMIT, count.refused),
            (OUTPUT_TOO_LARGE, count.too_large),
            (HEURISTIC_OUTCOME, count.heuristic),
            (TRANSACTION_UNREADABLE, count.unreadable),
        ] {
            self.alarms.get_or_create(&AlarmLabel { alarm }).set(value);
        }
    }
}

impl Observer for Metrics {
    fn flushed(&self, rows: usize, took: Duration) {
        #[expect(clippy::cast_precision_loss, reason = "at most a thousand")]
        self.batch_rows.observe(rows as f64);
        self.flush_seconds.observe(took.as_secs_f64());
        self.pulse.flushes.note(took);
    }

    fn connected(&self, connected: bool) {
        self.connected.set(i64::from(connected));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Survey;

    #[test]
    fn every_metric_is_scraped_under_its_name() {
        let metrics = Metrics::default();
        metrics.begun(Mode::Tcc);
        metrics.decided(Mode::Tcc, Outcome::Committed, Duration::from_millis(3));
        metrics.called("bank", "prepare", true, Duration::from_millis(3));
        let bank = unanimo_core::ParticipantName::new("bank").expect("a name");
        metrics.parked(vec![(bank.clone(), 3)]);
        metrics.participants(1, vec![(bank, true, 7)]);
        metrics.refused("overloaded");
        metrics.served("Submit", tonic::Code::Ok);
        metrics.purged(crate::store::Purged { stripped: 1, deleted: 2 });
        let open = [((Some(Mode::Tcc), crate::store::PhaseName::Active), 1)].into();
        metrics.open(&Survey { open, ..Survey::default() });
        metrics.flushed(3, Duration::from_millis(1));
        metrics.event("committed");
        for is_taken in [true, false] {
            metrics.webhook_sent("shop", is_taken);
        }
        metrics.webhook_given_up("shop");
        metrics.webhook_missed("shop");
        metrics.webhook_state("shop", Default::default(), false);
        metrics.webhook_dead("shop", 1);
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
