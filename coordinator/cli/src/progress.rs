//! Progress of long work, on standard error: a bar where that is a terminal, and a line every few seconds elsewhere.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use crate::output;

/// Time until the bar is shown: shorter work needs none.
const QUIET: Duration = Duration::from_millis(500);

/// Shortest pause between two bars.
const REDRAW: Duration = Duration::from_millis(100);

/// Pause between two lines.
const LINE: Duration = Duration::from_secs(5);

/// Columns of a terminal that does not tell them, and the most that a bar takes.
const WIDTH: usize = 80;

/// Columns of the bar itself.
const BAR: usize = 24;

/// Beginning of the line, with all of it cleared.
const CLEAR: &str = "\r\x1b[K";

/// Work that takes long. When it is dropped, no bar is left.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Things that are done one after the other, such as `transactions`.
    things: &'static str,
    total: Option<u64>,
    is_terminal: bool,
    began: Instant,
    told: Instant,
    is_drawn: bool,
}

impl Progress {
    /// Begins with nothing done, of as many as there are, if anybody knows.
    pub(crate) fn of(things: &'static str, total: Option<u64>) -> Self {
        // One that is dumb cannot take back what it has shown.
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let (is_terminal, now) = (stderr().is_terminal() && !is_dumb, Instant::now());
        Self { things, total, is_terminal, began: now, told: now, is_drawn: false }
    }

    /// Tells that there are so many.
    pub(crate) fn set_total(&mut self, total: u64) {
        self.total = Some(total);
    }

    /// Tells that so many are done.
    pub(crate) fn at(&mut self, done: u64) {
        let now = Instant::now();
        let is_due = match (self.is_terminal, self.is_drawn) {
            (true, true) => now - self.told >= REDRAW,
            (true, false) => now - self.began >= QUIET,
            (false, _) => now - self.told >= LINE,
        };
        if !is_due {
            return;
        }
        self.told = now;
        let text = words(self.things, done, self.total, now - self.began);
        if self.is_terminal {
            self.is_drawn = true;
            draw(&bar(width(), done, self.total, &text));
        } else {
            output::note(&text);
        }
    }

    /// Prints a remark, and the bar below it when it is due.
    pub(crate) fn note(&mut self, text: &str) {
        self.hide();
        output::note(text);
    }

    /// Takes the bar away, so that something else can be printed.
    pub(crate) fn hide(&mut self) {
        if std::mem::take(&mut self.is_drawn) {
            draw("");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.hide();
    }
}

/// Shows a line in place of the one before. A terminal that is gone needs none.
fn draw(line: &str) {
    let mut stderr = stderr().lock();
    let _ = write!(stderr, "{CLEAR}{line}").and_then(|()| stderr.flush());
}

/// Returns the columns that a bar may take: one that fills the last one would begin another line.
fn width() -> usize {
    let told = rustix::termios::tcgetwinsize(stderr()).map_or(0, |size| size.ws_col.into());
    let columns = if told == 0 { WIDTH } else { told };
    columns.min(WIDTH) - 1
}

/// Tells how far it is, and how long the rest takes at this speed.
fn words(things: &str, done: u64, total: Option<u64>, took: Duration) -> String {
    let Some(total) = total else { return format!("{done} {things}") };
    let left = u128::from(total.saturating_sub(done));
    let secs = (took.as_millis() * left).checked_div(u128::from(done) * 1000);
    let left = match secs {
        Some(secs) if left > 0 => format!(", {} left", in_short(secs)),
        _ => String::new(),
    };
    format!("{done} of {total} {things}{left}")
}

fn in_short(secs: u128) -> String {
    match secs {
        0..60 => format!("{} s", secs.max(1)),
        60..3600 => format!("{} min", secs / 60),
        _ => format!("{} h", secs / 3600),
    }
}

/// Makes a bar with words behind it, which take no more than so many columns.
fn bar(width: usize, done: u64, total: Option<u64>, words: &str) -> String {
    let line = match total {
        None | Some(0) => words.to_owned(),
        Some(total) => {
            let full = u128::from(done.min(total)) * BAR as u128 / u128::from(total);
            let full = usize::try_from(full).unwrap_or(BAR);
            format!("[{}{}] {words}", "#".repeat(full), "-".repeat(BAR - full))
        }
    };
    line.chars().take(width).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_tells_how_far_it_is_and_how_long_the_rest_takes() {
        let at = |done, total, secs| {
            let words = words("transactions", done, total, Duration::from_secs(secs));
            bar(79, done, total, &words)
        };
        let half = "[############------------] 2500 of 5000 transactions, 50 s left";
        assert_eq!(at(2500, Some(5000), 50), half);
        let all = "[########################] 5000 of 5000 transactions";
        assert_eq!(at(5000, Some(5000), 100), all);
        let none = "[------------------------] 0 of 5000 transactions";
        assert_eq!(at(0, Some(5000), 1), none);
        assert!(at(1, Some(5000), 2).ends_with("1 of 5000 transactions, 2 h left"));
        assert!(at(10, Some(5000), 2).ends_with("10 of 5000 transactions, 16 min left"));
        // One more than was told first, and a number that nobody knows.
        assert!(at(7, Some(5), 1).starts_with("[########################] 7 of 5 "));
        assert_eq!(at(7, None, 1), "7 transactions");
        assert_eq!(at(0, Some(0), 1), "0 of 0 transactions");
    }

    #[test]
    fn a_bar_keeps_to_its_line() {
        let words = words("transactions", u64::MAX, Some(u64::MAX), Duration::MAX);
        assert_eq!(bar(39, u64::MAX, Some(u64::MAX), &words).chars().count(), 39);
    }
}
