//! Page of one look, for a terminal.

use std::time::Duration;

use super::snapshot::{
    IN_DOUBT, LISTED_MAX, Needing, OWED, PARTICIPANTS, Participant, Snapshot, Step, UNDECIDED,
};
use crate::output::{self, BAD, CAUTION, GOOD, HEADING, clean, cut, table, wrapped};
use crate::tx::client;
use crate::tx::words::took;

/// Columns of a line over time, each of which stands for so many steps of the coordinator.
const SPARK: usize = 40;

/// Heights of a column.
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Participants that are listed on a screen that has no room for more.
const FEW: usize = 3;

/// Lines of a page without those of the participants, and those from which on there is room for all of it.
const OTHERS: usize = 24;

/// Fewest lines of the newest transactions: a blank one, the heading, names of columns, and one of them.
const NEWEST_MIN: usize = 4;

/// Makes a page of at most so many lines.
pub(super) fn text(of: &Snapshot, endpoint: &str, lines: usize) -> String {
    let mut text = head(&of.at, endpoint, output::columns());
    // What needs a person is on top.
    text += &needing(of);
    text += &rates(of);
    text += &work(of);
    let room = lines.saturating_sub(OTHERS).clamp(FEW, LISTED_MAX);
    text += &participants(of, room);
    // A heading says nothing without what is below it.
    if text.lines().count() + NEWEST_MIN <= lines {
        text += &newest(of);
    }
    text.lines().take(lines).fold(String::new(), |text, line| text + line + "\n")
}

/// Makes the first line, which is cut where it does not fit.
fn head(at: &str, endpoint: &str, columns: usize) -> String {
    let name = "unanimo top";
    let rest = format!("  {at}  {}", clean(endpoint));
    format!("{HEADING}{name}{HEADING:#}{}\n\n", cut(&rest, columns.saturating_sub(name.len())))
}

fn plus(of: &Snapshot, key: &str) -> &'static str {
    if of.is_at_least(key) { "+" } else { "" }
}

fn line(name: &str, text: &str) -> String {
    format!("{name:<13}{}\n", wrapped(13, text))
}

fn rates(of: &Snapshot) -> String {
    let a_second = format!(
        "{:.1}{} begun, {:.1}{} committed, {:.1}{} aborted",
        of.begun_per_second,
        plus(of, "begun_per_second"),
        of.committed_per_second,
        plus(of, "committed"),
        of.aborted_per_second,
        plus(of, "aborted")
    );
    let [p50, p99] = [of.decision_p50_ms, of.decision_p99_ms]
        .map(|of| of.map_or_else(|| "none".to_owned(), took));
    let mut text = line("a second", &a_second);
    if let Some(refused) = of.refused_per_second {
        text += &line("", &format!("{refused:.1} refused; to decision p50 {p50}, p99 {p99}"));
    }
    let a_second = |count: u64, step: &Step| {
        let count = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        if step.seconds > 0.0 { count / step.seconds } else { 0.0 }
    };
    let in_words = |most: f64| format!("at most {most:.1} a second");
    let begun = of.steps.iter().map(|step| a_second(step.begun, step));
    text += &over_time("begun", &begun.collect::<Vec<_>>(), in_words);
    let aborted = of.steps.iter().map(|step| a_second(step.aborted, step));
    text += &over_time("aborted", &aborted.collect::<Vec<_>>(), in_words);
    let values = of.steps.iter().map(|step| step.decision_p99_ms.unwrap_or_default());
    let in_words = |most| format!("at most {}", took(most));
    text + &over_time("p99", &values.collect::<Vec<_>>(), in_words)
}

/// Makes a line over the last ten minutes; nothing, where there was nothing.
fn over_time(name: &str, values: &[f64], in_words: impl Fn(f64) -> String) -> String {
    let most = values.iter().copied().fold(0.0, f64::max);
    if most <= 0.0 {
        return String::new();
    }
    format!("{name:<13}{}  {}\n", spark(values, most), in_words(most))
}

/// Draws values, the newest one last: each column is as high as the largest of its values.
fn spark(values: &[f64], most: f64) -> String {
    let each = values.len().div_ceil(SPARK).max(1);
    let height = |values: &[f64]| {
        let largest = values.iter().copied().fold(0.0, f64::max);
        let at =
            HEIGHTS.iter().zip(1_u8..).find(|(_, part)| largest * 8.0 <= most * f64::from(*part));
        at.map_or('█', |(height, _)| *height)
    };
    values.chunks(each).map(height).collect()
}

fn work(of: &Snapshot) -> String {
    let number = |state: &str| {
        format!("{}{}", of.counts.get(state).copied().unwrap_or_default(), plus(of, state))
    };
    let since = |secs: Option<u64>, key: &str| match secs {
        Some(secs) if of.is_at_least(key) => format!(", the oldest for at least {:#}", age(secs)),
        Some(secs) => format!(", the oldest for {:#}", age(secs)),
        None => String::new(),
    };
    let undecided = since(of.oldest_undecided_seconds, UNDECIDED);
    let owed = since(of.oldest_owed_seconds, OWED);
    let in_doubt = since(of.oldest_in_doubt_seconds, IN_DOUBT);
    let [committing, aborting] = ["committing", "aborting"].map(number);
    let [scheduled, children] = ["scheduled", "in_doubt"].map(number);
    let lines = [
        ("in flight", format!("{} at this coordinator", of.in_flight)),
        ("not decided", format!("{}{undecided}", number("active"))),
        ("owed", format!("{committing} committing, {aborting} aborting{owed}")),
        ("waiting", format!("{scheduled} scheduled, {children} children in doubt{in_doubt}")),
    ];
    lines.iter().map(|(name, text)| line(name, text)).collect()
}

fn needing(of: &Snapshot) -> String {
    let Snapshot { stalled, heuristic, unreadable, .. } = of;
    if stalled + heuristic + unreadable == 0 {
        return format!("{GOOD}nothing needs a person{GOOD:#}\n\n");
    }
    format!(
        "{BAD}{stalled} stalled, {heuristic} heuristic, {unreadable} unreadable{BAD:#}\n{}\n",
        listed(&of.attention)
    )
}

fn listed(transactions: &[Needing]) -> String {
    let rows = transactions.iter().map(|of| {
        let name = if of.gid.is_empty() { &of.tx_id } else { &of.gid };
        [name.clone(), of.state.clone(), of.reason.clone()]
    });
    table(["GID", "STATE", "ATTENTION"], rows)
}

fn newest(of: &Snapshot) -> String {
    if of.newest.is_empty() {
        return String::new();
    }
    format!("\n{HEADING}the newest{HEADING:#}\n{}", listed(&of.newest))
}

/// Lists so many participants, those with trouble first.
fn participants(of: &Snapshot, room: usize) -> String {
    let mut sorted: Vec<&Participant> = of.participants.iter().collect();
    let found = |of: &Participant| of.alive + of.configured;
    sorted.sort_by_key(|of| (!of.failing, found(of) > 0, found(of) == of.endpoints));
    let rows = sorted.iter().take(room).map(|of| {
        let calls = if of.failing { "failing" } else { "" };
        let (failed, owed) = (format!("{} of {}", of.failed, of.calls), of.owed.to_string());
        [of.name.clone(), of.state(), calls.to_owned(), failed, owed]
    });
    let more = match of.participants.len().saturating_sub(room) {
        0 => String::new(),
        more => format!("and {more}{} more: `unanimo participant list`\n", plus(of, PARTICIPANTS)),
    };
    format!("\n{}{more}", table(["PARTICIPANT", "PROCESSES", "CALLS", "FAILED", "OWED"], rows))
}

/// Makes the line about a look that failed.
pub(super) fn failure(error: &client::Error) -> String {
    let text = clean(&error.to_string());
    format!("{CAUTION}no answer{CAUTION:#}  {}", wrapped(11, &text))
}

fn age(secs: u64) -> jiff::SignedDuration {
    jiff::SignedDuration::try_from(Duration::from_secs(secs)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_over_time_is_as_high_as_its_values() {
        assert_eq!(spark(&[0.0, 1.0, 4.0, 8.0], 8.0), "▁▁▄█");
        let long: Vec<f64> = (0..120).map(f64::from).collect();
        let drawn = spark(&long, 119.0);
        assert_eq!(drawn.chars().count(), 40);
        assert!(drawn.starts_with('▁') && drawn.ends_with('█'), "{drawn}");
        assert_eq!(over_time("p99", &[0.0; 3], took), "");
        assert_eq!(over_time("p99", &[90_000.0], took), "p99          █  1.5 min\n");
    }

    #[test]
    fn the_first_line_fits() {
        let long = format!("https://{}:7610", "x".repeat(200));
        let line = head("2026-01-31T12:00:00.000Z", &long, 80);
        let line = anstream::adapter::strip_str(&line).to_string();
        assert_eq!(line.trim_end().chars().count(), 80, "{line}");
        assert!(line.contains("12:00:00.000Z  https://x") && line.ends_with("x…\n\n"), "{line}");
        assert!(head("now", "http://h:1", 80).ends_with("  now  http://h:1\n\n"));
    }

    /// However many there are, the newest transactions have their place on an ordinary screen.
    #[test]
    fn a_page_has_room_for_all_its_parts() {
        let participant = |n: usize| Participant {
            name: format!("p{n}"),
            endpoints: 1,
            alive: 1,
            configured: 0,
            failing: false,
            calls: 0,
            failed: 0,
            owed: 0,
            call_p99_ms: None,
            last_error: String::new(),
        };
        let new = || Needing {
            tx_id: String::new(),
            gid: "newest-one".to_owned(),
            state: "active".to_owned(),
            reason: String::new(),
        };
        let of = Snapshot {
            participants: (0..600).map(participant).collect(),
            at_least: vec![PARTICIPANTS.to_owned()],
            newest: vec![new()],
            oldest_in_doubt_seconds: Some(90),
            refused_per_second: Some(0.0),
            decision_p99_ms: Some(90_000.0),
            ..Snapshot::default()
        };
        let stuck = |n: usize| Needing { gid: format!("stuck-{n}"), ..new() };
        let attention = (0..8).map(stuck).collect();
        let crowded = Snapshot {
            stalled: 8,
            attention,
            newest: vec![new()],
            refused_per_second: Some(0.0),
            ..Snapshot::default()
        };
        let page = text(&crowded, "http://h:1", 24);
        assert!(page.contains("stuck-7") && !page.contains("the newest"), "{page}");
        let page = text(&of, "http://h:1", 24);
        assert!(page.lines().count() <= 24, "{page}");
        for part in [
            "and 597+ more: ",
            "newest-one",
            "in doubt, the oldest for 1m 30s",
            "p99 1.5 min",
            "in flight    0 ",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(text(&of, "http://h:1", 60).contains("and 592+ more: "));
    }
}
