//! Outcome of a replay, as text and as JSON.

use serde::Serialize;
use unanimo_core::RulesVersion;
use unanimo_core::history::{Difference, Document, Replayed};

use super::Args;
use crate::error::Error as CommandError;
use crate::output::{self, BAD, GOOD, clean};

/// Outcome of a replay.
pub(super) enum Outcome {
    Equal(Replayed),
    /// It is equal as far as it goes. The text says what is missing.
    Part(Replayed, String),
    Differs(Box<Difference>),
}

impl Outcome {
    fn sum(&self) -> Option<&Replayed> {
        match self {
            Self::Equal(sum) | Self::Part(sum, _) => Some(sum),
            Self::Differs(_) => None,
        }
    }
}

/// Outcome of one replay, as JSON.
#[derive(Serialize)]
struct Told<'a> {
    name: &'a str,
    gid: &'a str,
    tx_id: String,
    recorded_by: String,
    rules: Vec<u16>,
    equal: bool,
    inputs: Option<usize>,
    transitions: Option<usize>,
    calls: Option<usize>,
    lock_requests: Option<usize>,
    recoveries: Option<usize>,
    cut: usize,
    missing: Option<&'a str>,
    unknown: &'a [String],
    difference: Option<ToldDifference<'a>>,
}

#[derive(Serialize)]
struct ToldDifference<'a> {
    version: i64,
    step: usize,
    at: &'a str,
    input: &'a str,
    what: &'a str,
    recorded: &'a str,
    replayed: &'a str,
}

pub(super) fn tell(
    args: &Args,
    name: &str,
    document: &Document,
    outcome: &Outcome,
    unknown: &[String],
) -> Result<(), CommandError> {
    if args.server.json {
        return output::print_json(&told(name, document, outcome, unknown));
    }
    let subject = &document.transaction;
    let recorded_by = recorded_by(document);
    let head = format!("{} ({})", subject.gid, subject.mode.name());
    let text = match outcome {
        Outcome::Equal(sum) => {
            let counts = counts(sum);
            let more = end_of_record(document);
            format!("{GOOD}equal{GOOD:#}    {head}: {counts}; recorded by {recorded_by}\n{more}")
        }
        Outcome::Part(sum, missing) => {
            let counts = counts(sum);
            format!(
                "{BAD}part{BAD:#}     {head}: {counts}; recorded by {recorded_by}\n  equal as far as it goes: \
                 {missing}\n"
            )
        }
        Outcome::Differs(difference) => {
            let difference = difference.to_string();
            let lines: String =
                difference.lines().map(|line| format!("  {}\n", clean(line))).collect();
            format!("{BAD}differs{BAD:#}  {head}; recorded by {recorded_by}\n{lines}")
        }
    };
    output::print(&(text + &rules_in_words(document)))
}

/// Says by which rules the record went, if it is not those of this version: it is replayed by its own.
fn rules_in_words(document: &Document) -> String {
    let (rules, current) = (document.rules(), RulesVersion::CURRENT);
    if rules.iter().all(|rules| *rules == current) {
        return String::new();
    }
    let numbers: Vec<String> = rules.iter().map(|rules| rules.0.to_string()).collect();
    let mut text = format!(
        "         it went by rules {}, and is replayed by them; those of this version are {}\n",
        numbers.join(", then "),
        current.0
    );
    if rules.contains(&RulesVersion::FIRST) {
        text.push_str(
            "         rules 0 are the first: no flags of branches were recorded then, and nothing of what goes with a call\n",
        );
    }
    text
}

fn counts(sum: &Replayed) -> String {
    let counts = [
        (sum.inputs, "input"),
        (sum.transitions, "transition"),
        (sum.calls, "call"),
        (sum.lock_requests, "lock request"),
        (sum.recoveries, "adoption"),
    ];
    let told = counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| {
        let plural = if count == 1 { "" } else { "s" };
        format!("{count} {what}{plural}")
    });
    told.collect::<Vec<String>>().join(", ")
}

fn told<'a>(
    name: &'a str,
    document: &'a Document,
    outcome: &'a Outcome,
    unknown: &'a [String],
) -> Told<'a> {
    let sum = outcome.sum();
    let (missing, difference) = match outcome {
        Outcome::Equal(_) => (None, None),
        Outcome::Part(_, missing) => (Some(missing.as_str()), None),
        Outcome::Differs(difference) => (None, Some(difference)),
    };
    Told {
        name,
        gid: document.transaction.gid.as_str(),
        tx_id: document.transaction.tx_id.to_string(),
        recorded_by: recorded_by(document),
        rules: document.rules().iter().map(|rules| rules.0).collect(),
        equal: matches!(outcome, Outcome::Equal(_)),
        inputs: sum.map(|sum| sum.inputs),
        transitions: sum.map(|sum| sum.transitions),
        calls: sum.map(|sum| sum.calls),
        lock_requests: sum.map(|sum| sum.lock_requests),
        recoveries: sum.map(|sum| sum.recoveries),
        cut: document.cut.map_or(0, |cut| cut.entries),
        missing,
        unknown,
        difference: difference.map(|difference| ToldDifference {
            version: difference.version.0,
            step: difference.step,
            at: &difference.at,
            input: &difference.input,
            what: &difference.what,
            recorded: &difference.recorded,
            replayed: &difference.replayed,
        }),
    }
}

fn recorded_by(document: &Document) -> String {
    clean(&format!("{} {}", document.program.name, document.program.version))
}

/// Says where the record ends, if the transaction had gone on: nothing more was recorded.
fn end_of_record(document: &Document) -> String {
    let last = document.entries.last().map_or(0, |entry| entry.version.0);
    let version = document.transaction.version.0;
    match last < version {
        true => format!("         the record ends at version {last} of {version}\n"),
        false => String::new(),
    }
}
