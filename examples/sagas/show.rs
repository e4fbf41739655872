//! Text of a run, in 80 columns.

use unanimo_sdk::proto::v1::{AbortCause, Heuristic, Outcome, TransactionResult};

use super::args::Args;
use super::example::Check;
use super::logbook::Note;

/// Columns of a terminal.
const COLUMNS: usize = 80;

/// A run that has ended.
pub(super) struct Story {
    /// Graph of the saga as it ended.
    pub(super) graph: String,
    pub(super) started_ns: i64,
    /// Notes of the participants and of the faults, in the order of time.
    pub(super) notes: Vec<Note>,
    pub(super) facts: Vec<Fact>,
    /// Options of which nothing came.
    pub(super) unreached: Vec<&'static str>,
    pub(super) result: TransactionResult,
}

/// A fact that was looked up.
pub(super) struct Fact {
    pub(super) check: &'static Check,
    pub(super) value: i64,
    pub(super) holds: bool,
}

impl Story {
    /// Tells whether the participants' data are what the outcome requires.
    pub(super) fn is_whole(&self) -> bool {
        let is_decided = matches!(self.result.outcome(), Outcome::Committed | Outcome::Aborted);
        is_decided && self.facts.iter().all(|fact| fact.holds)
    }

    /// Tells whether every participant has ended as was decided. A deviation that is not known here is one.
    pub(super) fn is_followed(&self) -> bool {
        self.result.heuristic() == Heuristic::None
    }

    /// Makes the process's exit code: 6 where a participant has not done, or cannot tell whether it has done, as was
    /// decided; 7 where all is well, and an option's step was not reached.
    pub(super) fn exit_code(&self) -> u8 {
        match (self.is_followed(), self.is_whole()) {
            (false, _) => 6,
            (true, false) => 1,
            (true, true) if self.unreached.is_empty() => 0,
            (true, true) => 7,
        }
    }
}

/// Prints what was asked for, what happened, and what is left.
pub(super) fn print(args: &Args, story: &Story) {
    let example = args.example.example();
    println!("{}: {}", example.name, example.title);
    for (option, step) in args.faults() {
        println!("{}", fault(args, story, option, step));
    }
    println!("\nThe saga, as the coordinator knows it\n\n{}", story.graph.trim_end());
    println!("\nThe participants' work, from their own databases (< means undone)\n");
    println!("    ms  participant     step");
    for note in &story.notes {
        println!("{}", line(note, story.started_ns));
    }
    println!("\nLeft in the participants' databases\n");
    for Fact { check, value, holds } in &story.facts {
        let verdict = if *holds { "" } else { "  WRONG" };
        println!("{value:>6}  {:<14}  {}{verdict}", check.participant, check.what);
    }
    println!("\n{}", conclusion(story, example.committed, example.aborted));
    let unreached = args.faults().filter(|(option, _)| story.unreached.contains(option));
    for (option, step) in unreached {
        println!("{option} {step} was not reached: the run ended before, without it.");
    }
}

/// Returns what became of an option: the fault, or that its step was not reached.
fn fault(args: &Args, story: &Story, option: &str, step: &str) -> String {
    let text = match option {
        _ if story.unreached.contains(&option) => "was not reached",
        "--fail" => "its participant refuses",
        "--hang" => "it is done, and its answers are lost",
        _ => "kill -9 while it is at work",
    };
    let meant = args.example.example().step(step).map_or(step, |step| step.id);
    match meant == step {
        true => format!("{option} {step}: {text}"),
        false => format!("{option} {step}, which is {meant}: {text}"),
    }
}

/// Returns the line of a note: time, participant, step, and what was done.
fn line(note: &Note, started_ns: i64) -> String {
    let Note { at_ns, participant, step, kind, note } = note;
    let ms = (at_ns - started_ns) / 1_000_000;
    let sign = match kind.as_str() {
        "undone" => "< ",
        "event" => "! ",
        _ => "  ",
    };
    format!("{ms:>6}  {participant:<14}  {step:<11} {sign}{note}")
}

fn conclusion(story: &Story, committed: &str, aborted: &str) -> String {
    if !story.is_followed() {
        return "WRONG: a participant has ended otherwise than was decided, or cannot tell.\n\
                A person has to look."
            .to_owned();
    }
    if !story.is_whole() {
        return "WRONG: something is half done. The lines above that say WRONG tell what."
            .to_owned();
    }
    let sentences = match story.result.outcome() {
        Outcome::Committed => committed.to_owned(),
        _ => format!("{}\n{aborted}", wrapped(&cause(&story.result))),
    };
    format!("{sentences}\nChecked in the databases: nothing is half done.")
}

/// Breaks a sentence into lines.
fn wrapped(sentence: &str) -> String {
    let mut lines = vec![String::new()];
    for word in sentence.split_whitespace() {
        let line = lines.last().map_or(0, |line| line.chars().count());
        if line > 0 && line + 1 + word.chars().count() > COLUMNS {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join("\n")
}

/// Returns the reason of an ABORT as a sentence.
fn cause(result: &TransactionResult) -> String {
    let step = result.abort_branch_id.as_str();
    let branch = result.branches.iter().find(|branch| branch.branch_id == step);
    let refusal = branch.and_then(|branch| branch.refusal.as_ref());
    match (result.abort_cause(), refusal) {
        (AbortCause::Refused, Some(refusal)) => {
            format!("{step} is refused, {}: {}.", refusal.reason, refusal.message)
        }
        (AbortCause::GaveUp, _) => {
            format!("{step} has not answered, and is given up: {}.", result.abort_detail)
        }
        (AbortCause::Deadline, _) => "The saga's time is over.".to_owned(),
        (cause, _) => format!("Aborted: {}.", cause.as_str_name().to_ascii_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s11_a_run_that_has_ended_otherwise_than_decided_is_no_success() {
        for (outcome, heuristic, exit_code) in [
            (Outcome::Committed, Heuristic::None.into(), 0),
            (Outcome::Aborted, Heuristic::None.into(), 0),
            (Outcome::NotDecided, Heuristic::None.into(), 1),
            (Outcome::Committed, Heuristic::Mixed.into(), 6),
            (Outcome::Aborted, Heuristic::Hazard.into(), 6),
            // One of a later version.
            (Outcome::Committed, 99, 6),
        ] {
            let result =
                TransactionResult { outcome: outcome.into(), heuristic, ..Default::default() };
            let story = Story {
                graph: String::new(),
                started_ns: 0,
                notes: Vec::new(),
                facts: Vec::new(),
                unreached: Vec::new(),
                result,
            };
            let said = conclusion(&story, "it is committed", "it is aborted");
            assert_eq!(story.exit_code(), exit_code, "{outcome:?} {heuristic}: {said}");
            assert_eq!(
                said.starts_with("WRONG"),
                exit_code != 0,
                "{outcome:?} {heuristic}: {said}"
            );
        }
    }
}
