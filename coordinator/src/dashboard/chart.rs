//! Picture of a transaction: a row for each branch, a bar for the attempts of each phase.

use jiff::Timestamp;

use super::data::{Attempts, Tx};
use super::words::duration;

/// Left and right end of the bars.
const ENDS: (f64, f64) = (220.0, 990.0);

const ROW_HEIGHT: usize = 26;

/// Smallest bar that is seen.
const WIDTH_MIN: f64 = 4.0;

/// Most characters of a label that fit.
const LABEL_MAX: usize = 28;

#[derive(Debug, Default)]
pub(super) struct Chart {
    pub(super) rows: Vec<Row>,
    pub(super) marks: Vec<Mark>,
    pub(super) height: usize,
    /// Time that the picture spans.
    pub(super) span: String,
}

#[derive(Debug)]
pub(super) struct Row {
    pub(super) label: String,
    pub(super) y: usize,
    pub(super) text_y: usize,
    pub(super) middle: usize,
    pub(super) bars: Vec<Bar>,
}

#[derive(Debug)]
pub(super) struct Bar {
    pub(super) x: f64,
    pub(super) width: f64,
    pub(super) class: &'static str,
    pub(super) title: String,
}

#[derive(Debug)]
pub(super) struct Mark {
    pub(super) x: f64,
    pub(super) class: &'static str,
    pub(super) title: &'static str,
}

fn millis(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond)
}

impl Chart {
    pub(super) fn of(tx: &Tx, now: Timestamp) -> Self {
        let Some(from) = millis(&tx.created_at) else { return Self::default() };
        let until = millis(&tx.ended_at).unwrap_or_else(|| now.as_millisecond()).max(from + 1);
        let scale = Scale { from, until };
        let rows = tx.branches.iter().enumerate().map(|(number, branch)| {
            let y = number * ROW_HEIGHT + 6;
            let one = scale.bar(
                &branch.prepare_attempts,
                &branch.voted_at,
                &tx.decided_at,
                ("prepare", "phase one"),
            );
            let two =
                scale.bar(&branch.phase_two_attempts, &branch.ended_at, "", ("two", "phase two"));
            Row {
                label: cut(&branch.branch_id),
                y,
                text_y: y + 12,
                middle: y + 7,
                bars: one.into_iter().chain(two).collect(),
            }
        });
        let decided = if tx.outcome == "OUTCOME_COMMITTED" {
            ("commit", "COMMIT is decided")
        } else {
            ("abort", "ABORT is decided")
        };
        let marks =
            [(&tx.decided_at, decided), (&tx.ended_at, ("end", "the last branch has ended"))];
        let marks = marks.into_iter().filter_map(|(at, (class, title))| {
            Some(Mark { x: scale.x(millis(at)?), class, title })
        });
        Self {
            height: tx.branches.len() * ROW_HEIGHT + 6,
            marks: marks.collect(),
            rows: rows.collect(),
            span: duration(until - from),
        }
    }
}

fn cut(label: &str) -> String {
    match label.char_indices().nth(LABEL_MAX) {
        None => label.to_owned(),
        Some((end, _)) => format!("{}…", &label[..end]),
    }
}

/// Times from the left end to the right one, in milliseconds.
struct Scale {
    from: i64,
    until: i64,
}

impl Scale {
    #[expect(clippy::cast_precision_loss, reason = "a picture's places are not exact")]
    fn x(&self, at: i64) -> f64 {
        let part = (at - self.from) as f64 / (self.until - self.from) as f64;
        ((ENDS.0 + part.clamp(0.0, 1.0) * (ENDS.1 - ENDS.0)) * 10.0).round() / 10.0
    }

    /// Returns the bar from the first attempt to the answer; without an answer to the end of the phase, or the right end.
    fn bar(
        &self,
        attempts: &Attempts,
        answered: &str,
        over: &str,
        (class, name): (&'static str, &str),
    ) -> Option<Bar> {
        let first = millis(&attempts.first_at)?;
        let last = millis(answered).or(millis(over)).unwrap_or(self.until).max(first);
        let x = self.x(first);
        let class = match attempts.last_error.is_empty() {
            false if answered.is_empty() => "failing",
            _ => class,
        };
        let error = match attempts.last_error.as_str() {
            "" => String::new(),
            error => format!(": {error}"),
        };
        let title = format!("{name}, {} in {}{error}", attempts.count, duration(last - first));
        Some(Bar { x, width: (self.x(last) - x).max(WIDTH_MIN), class, title })
    }
}
