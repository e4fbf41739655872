//! Picture of a transaction: a row for each branch, bars for its attempts, marks for votes, ends and durable writes.
//!
//! The API tells of a branch its first attempt and its last one of each phase: they are one bar. Of a
//! [recorded](recording) transaction each attempt is known, and each version that was written.

mod kind;
mod recording;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use jiff::Timestamp;

use self::kind::{CANCEL, COMMIT, COMPENSATE, Kind, LEGEND};
pub(super) use self::recording::Recording;
use super::data::{Attempts, Branch, Tx};
use super::words::{duration, exact, word};

/// Left and right end of the bars.
const ENDS: (f64, f64) = (220.0, 990.0);

/// Height of a row, and of what stands above the first one and below the last one.
const ROW_HEIGHT: usize = 26;
const MARGIN: usize = 6;

/// Smallest bar that is seen.
const WIDTH_MIN: f64 = 4.0;

/// Most characters of a label that fit.
const LABEL_MAX: usize = 28;

/// Most attempts that are listed, and most writes: a branch may be called for days.
const LISTED_MAX: usize = 200;

#[derive(Debug, Default)]
pub(super) struct Chart {
    pub(super) rows: Vec<Row>,
    pub(super) marks: Vec<Mark>,
    pub(super) height: usize,
    /// Time that the picture spans.
    pub(super) span: String,
    /// Class and name of what is in the picture.
    pub(super) legend: Vec<(&'static str, &'static str)>,
    /// Attempts in words, in the order of the rows.
    pub(super) tries: Vec<Try>,
    /// Attempts that are not listed because there are too many.
    pub(super) tries_left_out: usize,
    /// Each attempt is listed by itself, and not the first and the last one.
    pub(super) is_recorded: bool,
    /// Durable writes: version, and time.
    pub(super) writes: Vec<(i64, String)>,
}

#[derive(Debug)]
pub(super) struct Row {
    /// Name of the branch, cut to what fits, and in full.
    pub(super) label: String,
    pub(super) name: String,
    pub(super) y: usize,
    pub(super) text_y: usize,
    pub(super) middle: usize,
    pub(super) bars: Vec<Bar>,
    /// Places of the first attempt and the last one, where there are several.
    pub(super) ticks: Vec<f64>,
    pub(super) points: Vec<Mark>,
    attempts: u32,
    /// Number of attempts, if there are several.
    pub(super) count: String,
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
    pub(super) title: String,
}

/// Attempt in words, or those between a first and a last one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Try {
    pub(super) branch: String,
    pub(super) call: &'static str,
    pub(super) number: String,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) said: String,
    pub(super) is_bad: bool,
}

/// Returns a time to the millisecond, as people read it.
fn time_of(at: i64) -> String {
    let at = Timestamp::from_millisecond(at);
    at.map(|at| exact(&format!("{at:.3}"))).unwrap_or_default()
}

fn millis(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond)
}

impl Chart {
    /// Draws what the API tells, and of a recorded transaction what was recorded of it.
    pub(super) fn of(tx: &Tx, recording: Option<&Recording>, now: Timestamp) -> Self {
        let Some(from) = millis(&tx.created_at) else { return Self::default() };
        let until = millis(&tx.ended_at).unwrap_or_else(|| now.as_millisecond()).max(from + 1);
        let scale = Scale { from, until };
        let mut chart = Self {
            height: tx.branches.len() * ROW_HEIGHT + MARGIN,
            span: duration(until - from),
            is_recorded: recording.is_some(),
            marks: scale.marks(tx),
            ..Self::default()
        };
        for (number, branch) in tx.branches.iter().enumerate() {
            let mut row = Row::new(number, branch, &scale);
            match recording {
                None => chart.tries.extend(row.draw(branch, tx, &scale)),
                Some(recording) => {
                    for (kind, attempts, answered, _) in branch.phases(tx) {
                        let is_first = kind == branch.phase_one();
                        let of = recording.attempts.iter().filter(|one| one.branch == number);
                        let of = of.filter(|one| (one.call == recording::Call::First) == is_first);
                        let mut last = None;
                        for one in of {
                            chart.tries.push(row.draw_one(branch, one, attempts, &scale));
                            last = Some(one);
                        }
                        let later =
                            row.draw_later((branch, kind), (attempts, answered), last, &scale);
                        chart.tries.extend(later);
                    }
                }
            }
            chart.rows.push(row);
        }
        if let Some(recording) = recording {
            let writes = recording.writes.iter();
            chart.marks.extend(writes.clone().map(|(version, at)| Mark {
                x: scale.x(*at),
                class: "write",
                title: format!("version {version} is durable"),
            }));
            let listed = writes.rev().take(LISTED_MAX).rev();
            chart.writes = listed.map(|(version, at)| (*version, time_of(*at))).collect();
        }
        chart.tries_left_out = chart.tries.len().saturating_sub(LISTED_MAX);
        chart.tries.truncate(LISTED_MAX);
        chart.legend = chart.drawn();
        chart
    }

    /// Returns the part of the legend that is in the picture.
    fn drawn(&self) -> Vec<(&'static str, &'static str)> {
        let bars = self.rows.iter().flat_map(|row| row.bars.iter().map(|bar| bar.class));
        let points = self.rows.iter().flat_map(|row| row.points.iter().map(|point| point.class));
        let marks = self.marks.iter().map(|mark| mark.class);
        let classes: BTreeSet<&str> = bars.chain(points).chain(marks).collect();
        LEGEND.into_iter().filter(|(class, _)| classes.contains(class)).collect()
    }
}

impl Row {
    fn new(number: usize, branch: &Branch, scale: &Scale) -> Self {
        let y = number * ROW_HEIGHT + MARGIN;
        let vote = match word(&branch.vote, "VOTE_") {
            vote if vote.is_empty() => "voted".to_owned(),
            vote => format!("voted {vote}"),
        };
        let ended = format!("ended: {}", branch.state_word());
        let points =
            [(&branch.voted_at, "vote", vote), (&branch.ended_at, "ended", ended)].into_iter();
        let points = points
            .filter_map(|(at, class, title)| Some(Mark { x: scale.x(millis(at)?), class, title }));
        Self {
            label: cut(&branch.branch_id),
            name: branch.branch_id.clone(),
            y,
            text_y: y + 12,
            middle: y + 7,
            bars: Vec::new(),
            ticks: Vec::new(),
            points: points.collect(),
            attempts: 0,
            count: String::new(),
        }
    }

    /// Counts attempts.
    fn add(&mut self, attempts: u32) {
        self.attempts += attempts;
        if self.attempts > 1 {
            self.count = format!("{}×", self.attempts);
        }
    }

    /// Draws the bars of both phases, and returns them in words.
    fn draw(&mut self, branch: &Branch, tx: &Tx, scale: &Scale) -> Vec<Try> {
        let of = branch.phases(tx);
        self.add(of.iter().map(|(_, attempts, ..)| attempts.count).sum());
        let mut tries = Vec::new();
        for (kind, attempts, answered, over) in of {
            let Some(bar) = scale.bar(kind, attempts, answered, over) else { continue };
            if attempts.count > 1 {
                let at = [&attempts.first_at, &attempts.last_at].into_iter();
                self.ticks.extend(at.filter_map(|at| Some(scale.x(millis(at)?))));
            }
            tries.push(Try {
                branch: branch.branch_id.clone(),
                call: kind.name,
                number: attempts.count.to_string(),
                from: exact(&attempts.first_at),
                to: exact(&attempts.last_at),
                said: attempts.errors(),
                is_bad: bar.class == "failing",
            });
            self.bars.push(bar);
        }
        tries
    }

    /// Draws one recorded attempt, and returns it in words. What only fails is recorded with the next write.
    fn draw_one(
        &mut self,
        branch: &Branch,
        found: &recording::Attempt,
        all: &Attempts,
        scale: &Scale,
    ) -> Try {
        let kind = match found.call {
            recording::Call::First => branch.phase_one(),
            recording::Call::Commit => COMMIT,
            recording::Call::Undo if branch.is_step() => COMPENSATE,
            recording::Call::Undo => CANCEL,
        };
        let is_open = found.until.is_none();
        let has_failed = is_open && (found.number < all.count || !all.last_error.is_empty());
        let said = match found.said.as_str() {
            "" if found.number < all.count => "failed: its error is not recorded yet",
            "" if found.number == 1 && has_failed => &*all.last_error,
            "" => "no answer yet",
            said => said,
        };
        let is_bad = found.is_bad || (has_failed && said != "no answer yet");
        let of = (found.from, found.until.unwrap_or(scale.until));
        let title = format!("{}, attempt {}: {said}", kind.name, found.number);
        self.bars.push(scale.bar_of(of, if is_bad { "failing" } else { kind.class }, title));
        self.add(1);
        Try {
            branch: branch.branch_id.clone(),
            call: kind.name,
            number: found.number.to_string(),
            from: time_of(found.from),
            to: found.until.map(time_of).unwrap_or_default(),
            said: said.to_owned(),
            is_bad,
        }
    }

    /// Draws the attempts since the last one that is recorded, and returns them in words.
    fn draw_later(
        &mut self,
        (branch, kind): (&Branch, Kind),
        (attempts, answered): (&Attempts, &str),
        last: Option<&recording::Attempt>,
        scale: &Scale,
    ) -> Option<Try> {
        let first = last.map_or(1, |last| last.number + 1);
        if attempts.count < first {
            return None;
        }
        let from = last.map_or_else(|| millis(&attempts.first_at), |last| Some(last.from))?;
        let of = (from, millis(answered).unwrap_or(scale.until));
        let number = match attempts.count {
            count if count == first => count.to_string(),
            count => format!("{first} to {count}"),
        };
        let said = attempts.last_error.clone();
        let is_bad = answered.is_empty() && !said.is_empty();
        let title = format!("{}, {number}: {said}", kind.name);
        self.bars.push(scale.bar_of(of, if is_bad { "failing" } else { kind.class }, title));
        self.add(attempts.count - first + 1);
        Some(Try {
            branch: branch.branch_id.clone(),
            call: kind.name,
            number,
            from: time_of(from),
            to: exact(&attempts.last_at),
            said,
            is_bad,
        })
    }
}

impl Attempts {
    /// Returns the first error and the last one, in words.
    fn errors(&self) -> String {
        match (self.first_error.as_str(), self.last_error.as_str()) {
            ("", last) => last.to_owned(),
            (first, "") => format!("first: {first}"),
            (first, last) if first == last => last.to_owned(),
            (first, last) => format!("first: {first}; last: {last}"),
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

    /// Returns the durable writes that every transaction has: begin, decision and end.
    fn marks(&self, tx: &Tx) -> Vec<Mark> {
        let decided = match tx.outcome.as_str() {
            "OUTCOME_COMMITTED" => ("committed", "COMMIT is decided"),
            _ => ("aborted", "ABORT is decided"),
        };
        let marks = [
            (&tx.created_at, ("begun", "it was begun")),
            (&tx.started_at, ("begun", "it was started")),
            (&tx.decided_at, decided),
            (&tx.ended_at, ("end", "the last branch has ended")),
        ];
        let marks = marks.into_iter().filter_map(|(at, (class, title))| {
            Some(Mark { x: self.x(millis(at)?), class, title: title.to_owned() })
        });
        marks.collect()
    }

    fn bar_of(&self, (from, until): (i64, i64), class: &'static str, title: String) -> Bar {
        let x = self.x(from);
        Bar { x, width: (self.x(until) - x).max(WIDTH_MIN), class, title }
    }

    /// Returns the bar from the first attempt to the answer; without an answer to the end of the phase, or the right end.
    fn bar(&self, kind: Kind, attempts: &Attempts, answered: &str, over: &str) -> Option<Bar> {
        let first = millis(&attempts.first_at)?;
        let last = millis(answered).or(millis(over)).unwrap_or(self.until).max(first);
        let class = match attempts.last_error.is_empty() {
            false if answered.is_empty() => "failing",
            _ => kind.class,
        };
        let errors = match attempts.errors() {
            errors if errors.is_empty() => errors,
            errors => format!(": {errors}"),
        };
        let (name, count) = (kind.name, attempts.count);
        let title = format!("{name}, {count} in {}{errors}", duration(last - first));
        Some(self.bar_of((first, last), class, title))
    }
}
