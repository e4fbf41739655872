//! `unanimo replay --step`: the transaction after each input.

use std::io::{BufRead, IsTerminal, Write};

use unanimo_core::history::{Document, Error, Moment, Replay, Replayed};
use unanimo_core::{Branch, Timestamp, Transaction};

use crate::error::Error as CommandError;
use crate::output::{self, HEADING, clean, table};

/// Columns that a state may take.
const WIDTH: usize = 80;
/// Most characters of a branch's name in the table.
const NAME_MAX: usize = 18;
/// Most characters of a word; a longer one could not be put into a line.
const WORD_MAX: usize = 60;

/// Replays a document, and prints each state. Returns what a plain replay would.
pub(super) fn through(
    document: &Document,
    quiet: bool,
) -> Result<Result<Replayed, Error>, CommandError> {
    let mut replay = match Replay::of(document) {
        Ok(replay) => replay,
        Err(error) => return Ok(Err(error)),
    };
    let waits = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let mut shown = !quiet;
    while let Some(moment) = replay.next() {
        let moment = match moment {
            Ok(moment) => moment,
            Err(error) => return Ok(Err(error)),
        };
        if !shown {
            continue;
        }
        let tx = replay.transaction().expect("the first input begins it");
        output::print(&state(document, &moment, tx))?;
        shown = !waits || goes_on()?;
    }
    Ok(replay.end())
}

/// Waits for Enter. Any text before it ends the showing, and the rest is replayed without.
fn goes_on() -> Result<bool, CommandError> {
    output::print("-- Enter: next state; q and Enter: to the end -- ")?;
    std::io::stdout().flush().map_err(failed)?;
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line).map_err(failed)?;
    output::print("\n")?;
    Ok(read > 0 && line.trim().is_empty())
}

fn failed(source: std::io::Error) -> CommandError {
    CommandError::System { doing: "read from the terminal", source }
}

fn state(document: &Document, moment: &Moment, tx: &Transaction) -> String {
    let Moment { version, step, written, at, input, calls, locks, after } = moment;
    let time = |at: Option<Timestamp>| at.map(|at| document.time(at)).unwrap_or_default();
    let write = match written {
        true => format!("version {}", version.0),
        false => format!("nothing: kept for version {}", version.0),
    };
    let head = format!("{} {}.{step}  {input}", document.time(*at), version.0);
    let mut text = format!("{HEADING}{}{HEADING:#}\n", wrapped(&clean(&head), 0));
    let calls = if calls.is_empty() { String::new() } else { document.calls_in_words(calls) };
    let locks = if locks.is_empty() { String::new() } else { document.locks_in_words(locks) };
    for (name, fact) in [
        ("phase", document.phase_in_words(after)),
        ("written", write),
        ("calls", calls),
        ("locks", locks),
        ("deadline", time(after.deadline)),
        ("next tick", time(after.wake_at)),
        ("alarm", alarm(after)),
    ] {
        if !fact.is_empty() {
            text += &format!("  {name:<11}{}\n", wrapped(&clean(&fact), 13));
        }
    }
    // Calls of phase one and of phase two.
    let header = ["#", "BRANCH", "STATE", "VOTE", "CALLS", "ENDED"];
    let rows = tx.branches().iter().map(|branch| row(document, branch, after));
    let branches = table(header, rows);
    if tx.branches().is_empty() { text + "\n" } else { text + &branches + "\n" }
}

fn row(
    document: &Document,
    branch: &Branch,
    after: &unanimo_core::history::Standing,
) -> [String; 6] {
    let progress = &branch.progress;
    let calls = (progress.prepare_attempts.count, progress.phase_two_attempts.count);
    let vote = progress.vote.map(|vote| match vote {
        unanimo_core::Vote::Prepared => "prepared",
        unanimo_core::Vote::ReadOnly => "read only",
        unanimo_core::Vote::Refused => "refused",
    });
    let vote = match vote {
        None if progress.unanswered => "unanswered",
        vote => vote.unwrap_or_default(),
    };
    let state = after.branches.get(branch.number.index()).map(ToString::to_string);
    [
        branch.number.to_string(),
        short(branch.spec.branch_id.as_str()),
        state.unwrap_or_default().replace('_', " "),
        vote.to_owned(),
        if calls == (0, 0) { String::new() } else { format!("{}+{}", calls.0, calls.1) },
        progress.ended_at.map(|at| document.time(at)).unwrap_or_default(),
    ]
}

fn alarm(after: &unanimo_core::history::Standing) -> String {
    let stalled = after.stalled.then_some("stalled");
    let heuristic = after.heuristic.as_deref();
    let cleared = after.forgotten.then_some("cleared");
    let facts: Vec<&str> = [stalled, heuristic, cleared].into_iter().flatten().collect();
    facts.join(", ")
}

fn short(name: &str) -> String {
    cut(name, NAME_MAX)
}

fn cut(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        None => text.to_owned(),
        Some(_) => text.chars().take(max - 1).chain(['…']).collect(),
    }
}

/// Breaks a text at spaces so that no line is longer than [`WIDTH`]; `indent` columns stand before it.
fn wrapped(text: &str, indent: usize) -> String {
    let mut lines = String::new();
    let mut column = indent;
    for (at, word) in text.split(' ').enumerate() {
        let word = cut(word, WORD_MAX);
        let width = word.chars().count();
        if at > 0 && column + 1 + width > WIDTH {
            lines += &format!("\n{:1$}", "", indent.max(2));
            column = indent.max(2);
        } else if at > 0 {
            lines.push(' ');
            column += 1;
        }
        lines += &word;
        column += width;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_broken_at_spaces() {
        let text = format!("{} {}", "x".repeat(50), "y".repeat(40));
        assert_eq!(wrapped(&text, 0), format!("{}\n  {}", "x".repeat(50), "y".repeat(40)));
        assert_eq!(wrapped("a b", 13), "a b");
    }

    #[test]
    fn a_state_fits_a_terminal() {
        let text = include_str!("example.json");
        let document: Document = serde_json::from_str(text).expect("a document");
        let mut replay = Replay::of(&document).expect("it keeps the rules");
        while let Some(moment) = replay.next() {
            let moment = moment.expect("equal");
            let text = state(&document, &moment, replay.transaction().expect("begun"));
            let plain = anstream::adapter::strip_str(&text).to_string();
            assert!(plain.lines().all(|line| line.chars().count() <= WIDTH), "{plain}");
        }
    }
}
