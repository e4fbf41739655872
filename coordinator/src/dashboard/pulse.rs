//! Numbers of the last ten minutes, as the pages show them.

mod incarnation;
#[cfg(test)]
mod tests;

use std::fmt::Write;

use serde::Deserialize;

pub(super) use self::incarnation::Incarnation;
use super::words::{duration, since};

/// Size of a line over time.
const SPARK: (f64, f64) = (240.0, 40.0);

/// Answer of GetStatistics.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Statistics {
    window: Span,
    recent: Span,
    steps: Vec<Span>,
    in_flight_count: Number,
    undecided_count: Number,
    undecided_for: Period,
    in_doubt_count: Number,
    in_doubt_for: Period,
    owed_count: Number,
    owed_for: Period,
    pub(super) server: Server,
    pub(super) settings: Vec<Setting>,
    pub(super) incarnations: Vec<Incarnation>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Span {
    began_at: String,
    length: Period,
    begun_count: Number,
    committed_count: Number,
    aborted_count: Number,
    refused_count: Number,
    decision_p50: Option<Period>,
    decision_p99: Option<Period>,
    in_flight_count: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Server {
    node: String,
    incarnation: Number,
    leased_at: String,
    lease_held: bool,
    store: String,
    flush_p50: Option<Period>,
    flush_p99: Option<Period>,
    journal_backlog_count: Number,
    purged_at: String,
    purge_late_by: Option<Period>,
    damaged_range_count: Number,
    alarms: Vec<Raised>,
}

/// Alarm of the process, and the number of what it is about.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Raised {
    pub(super) name: String,
    pub(super) count: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Setting {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) source: String,
}

/// Shares of failed calls, in tenths of a percent, from which on calls of a participant are said to fail though its breaker
/// is closed: fewer are common where instances are started anew.
const SOME_FAIL: u64 = 50;
const MOST_FAIL: u64 = 500;

/// Health of the calls to a participant.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Health {
    pub(super) failing: bool,
    failing_since_at: String,
    pub(super) in_flight_count: u32,
    pub(super) waiting_count: Number,
    pub(super) owed_count: Number,
    pub(super) call_count: Number,
    failed_count: Number,
    call_p50: Option<Period>,
    call_p99: Option<Period>,
    pub(super) last_error: String,
    pub(super) last_error_at: String,
}

/// Number of 64 bits, which JSON has as a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Number(pub(super) u64);

impl TryFrom<String> for Number {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Duration in seconds, which JSON has as a text such as `1.5s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Period(f64);

impl TryFrom<String> for Period {
    type Error = std::num::ParseFloatError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.trim_end_matches('s').parse().map(Self)
    }
}

impl Period {
    /// Returns it in the unit that tells most; below 10 ms with a tenth.
    fn shown(self) -> String {
        let millis = self.0 * 1e3;
        #[expect(clippy::cast_possible_truncation, reason = "far longer is not told apart")]
        let whole = millis.round() as i64;
        if millis < 10.0 { format!("{millis:.1} ms") } else { duration(whole) }
    }
}

#[expect(clippy::cast_precision_loss, reason = "nobody sees it")]
fn rate(count: Number, length: Period) -> f64 {
    if length.0 > 0.0 { count.0 as f64 / length.0 } else { 0.0 }
}

/// Number with its line over time.
pub(super) struct Beat {
    pub(super) name: &'static str,
    pub(super) value: String,
    pub(super) more: String,
    pub(super) is_bad: bool,
    /// Line, if there is one.
    pub(super) spark: Option<Spark>,
}

/// Line of a number over time.
#[derive(Debug, PartialEq)]
pub(super) struct Spark {
    /// Its meaning in words.
    pub(super) label: String,
    /// Path of SVG.
    pub(super) path: String,
}

impl Spark {
    /// Draws values of even steps; nothing for fewer than two.
    fn of(values: &[f64], what: &str, shown: impl Fn(f64) -> String) -> Option<Self> {
        let (first, last) = (values.first()?, values.last()?);
        let steps = u32::try_from(values.len() - 1).ok().filter(|steps| *steps > 0)?;
        let most = values.iter().copied().fold(0.0, f64::max);
        let (width, height) = SPARK;
        let mut path = String::new();
        for (n, value) in (0_u32..).zip(values) {
            let x = width * f64::from(n) / f64::from(steps);
            // The line itself is 2 wide.
            let y = height - 1.0 - (height - 2.0) * if most > 0.0 { value / most } else { 0.0 };
            // Writing to a string does not fail.
            let _ = write!(path, "{}{x:.1} {y:.1}", if n == 0 { "M" } else { "L" });
        }
        let [first, last, most] = [*first, *last, most].map(shown);
        let label = format!("{what}: first {first}, last {last}, at most {most}");
        Some(Self { label, path })
    }
}

impl Statistics {
    /// Tells whether the numbers of the process are among them: callers of a namespace get those of its transactions alone.
    pub(super) fn is_of_process(&self) -> bool {
        !self.window.began_at.is_empty()
    }

    /// Returns the time that the numbers are of, in words.
    pub(super) fn span(&self) -> String {
        self.window.length.shown()
    }

    /// Returns since when they are counted.
    pub(super) fn since(&self) -> String {
        super::words::time(&self.window.began_at)
    }

    pub(super) fn beats(&self) -> Vec<Beat> {
        let a_second = |name, of: fn(&Span) -> Number, is_bad: bool| {
            let values: Vec<f64> =
                self.steps.iter().map(|step| rate(of(step), step.length)).collect();
            let now = rate(of(&self.recent), self.recent.length);
            Beat {
                name,
                value: format!("{now:.1}"),
                more: format!("{} in all", of(&self.window)),
                is_bad: is_bad && of(&self.recent).0 > 0,
                spark: Spark::of(&values, name, |value| format!("{value:.1}")),
            }
        };
        let took: Vec<f64> = self
            .steps
            .iter()
            .map(|step| step.decision_p99.map_or(0.0, |period| period.0))
            .collect();
        let shown = |of: Option<Period>| of.map_or_else(|| "none".to_owned(), Period::shown);
        let [p50, p99] = [self.window.decision_p50, self.window.decision_p99].map(shown);
        #[expect(clippy::cast_precision_loss, reason = "nobody sees it")]
        let in_flight: Vec<f64> =
            self.steps.iter().map(|step| step.in_flight_count.0 as f64).collect();
        let oldest = |count: Number, of: Period, what: &str, end: &str| match count.0 {
            0 => String::new(),
            _ => format!("the oldest {what} {}{end}", of.shown()),
        };
        let plain = |name, count: Number, more| Beat {
            name,
            value: count.to_string(),
            more,
            is_bad: false,
            spark: None,
        };
        let of_process = vec![
            a_second("begun a second", |span| span.begun_count, false),
            a_second("committed a second", |span| span.committed_count, false),
            a_second("aborted a second", |span| span.aborted_count, false),
            a_second("refused a second", |span| span.refused_count, true),
            Beat {
                name: "time to decision, p50",
                value: p50,
                more: format!("p99 {p99}"),
                is_bad: false,
                spark: Spark::of(&took, "p99 of the time to decision", |secs| Period(secs).shown()),
            },
        ];
        let of_transactions = [
            Beat {
                spark: Spark::of(&in_flight, "in memory", |value| format!("{value:.0}")),
                ..plain("in memory", self.in_flight_count, String::new())
            },
            plain(
                "undecided",
                self.undecided_count,
                oldest(self.undecided_count, self.undecided_for, "began", " ago"),
            ),
            plain(
                "in doubt",
                self.in_doubt_count,
                oldest(self.in_doubt_count, self.in_doubt_for, "has waited", ""),
            ),
            plain(
                "owed a Commit or Cancel",
                self.owed_count,
                oldest(self.owed_count, self.owed_for, "has waited", ""),
            ),
        ];
        // What is not known is no zero.
        let known = if self.is_of_process() { of_process } else { Vec::new() };
        known.into_iter().chain(of_transactions).collect()
    }
}

impl Server {
    /// Returns its alarms, and what else of it needs a person: name, and why.
    pub(super) fn troubles(&self) -> Vec<(&str, String)> {
        let raised = self.alarms.iter().map(|raised| (raised.name.as_str(), count(raised.count)));
        let mut all: Vec<_> = raised.collect();
        if !self.is_unknown() && !self.lease_held {
            all.push(("lease_lost", "Its lease has run out: it decides and sends nothing.".into()));
        }
        if let Some(late) = self.purge_late_by {
            let why = format!("The purge is late by {}: the log says why.", late.shown());
            all.push(("purge_late", why));
        }
        if self.damaged_range_count.0 > 0 {
            let why = format!(
                "Places of damage in the log of which not even the names of the transactions are known: {}.",
                self.damaged_range_count
            );
            all.push(("log_damaged", why));
        }
        all
    }

    /// Tells whether whoever looks may not know of it.
    pub(super) fn is_unknown(&self) -> bool {
        self.node.is_empty()
    }

    /// Returns what there is to say of it, by name.
    pub(super) fn pairs(&self) -> Vec<(&'static str, String)> {
        let at = |text: &str| format!("{} ({})", super::words::time(text), since(text));
        let lease = match self.lease_held {
            true => "held".to_owned(),
            false => "run out: it decides and sends nothing".to_owned(),
        };
        let flush = match (self.flush_p50, self.flush_p99) {
            (Some(p50), Some(p99)) => format!("p50 {}, p99 {}", p50.shown(), p99.shown()),
            _ => "nothing was written lately".to_owned(),
        };
        let purge = match self.purged_at.as_str() {
            "" => "none yet".to_owned(),
            time => at(time),
        };
        let purge = match self.purge_late_by {
            Some(late) => format!("{purge}, late by {}: the log says why", late.shown()),
            None => purge,
        };
        vec![
            ("node", self.node.clone()),
            ("incarnation", format!("{}, since {}", self.incarnation, at(&self.leased_at))),
            ("lease", lease),
            ("database", self.store.clone()),
            ("time to write a batch", flush),
            ("not written yet", format!("{} transactions", self.journal_backlog_count)),
            ("last purge", purge),
        ]
    }
}

/// Returns a number that is worth telling.
fn count(of: Number) -> String {
    if of.0 > 1 { format!("{of} of them.") } else { String::new() }
}

impl Health {
    /// Returns how its calls go, in words.
    pub(super) fn word(&self) -> String {
        match (self.failing, self.call_count.0) {
            (true, _) => match super::words::lasting(&self.failing_since_at) {
                lasting if lasting.is_empty() => "fails".to_owned(),
                lasting => format!("fails, for {lasting}"),
            },
            (false, 0) => "not called lately".to_owned(),
            (false, _) if self.failed_tenths() >= MOST_FAIL => "most calls fail".to_owned(),
            (false, _) if self.failed_tenths() >= SOME_FAIL => "some calls fail".to_owned(),
            (false, _) => "answers".to_owned(),
        }
    }

    pub(super) fn tone(&self) -> &'static str {
        match (self.failing, self.call_count.0) {
            (true, _) => "bad",
            (false, 0) => "",
            (false, _) if self.failed_tenths() >= MOST_FAIL => "bad",
            (false, _) if self.failed_tenths() >= SOME_FAIL => "wait",
            (false, _) => "good",
        }
    }

    /// Returns the share of calls that failed, in tenths of a percent.
    fn failed_tenths(&self) -> u64 {
        self.failed_count.0.saturating_mul(1_000) / self.call_count.0.max(1)
    }

    /// Returns the share of calls that failed.
    pub(super) fn share(&self) -> String {
        match self.failed_tenths() {
            0 if self.failed_count.0 > 0 => "below 0.1 %".to_owned(),
            tenths => format!("{}.{} %", tenths / 10, tenths % 10),
        }
    }

    pub(super) fn took(&self) -> String {
        let took = self.call_p50.zip(self.call_p99);
        took.map_or_else(String::new, |(p50, p99)| format!("{}, {}", p50.shown(), p99.shown()))
    }
}
