//! Output of commands: on standard output, in colors only on a terminal.

use std::io::{ErrorKind, IsTerminal, Write, stdout};

use clap::builder::styling::{AnsiColor, Style};
use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};

use super::error::Error;

/// Style of a success.
pub(super) const GOOD: Style = AnsiColor::Green.on_default().bold();
/// Style of an error, or of a state that needs a person.
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();
/// Style of a warning, of work under way and of an ordinary ABORT.
pub(super) const CAUTION: Style = AnsiColor::Yellow.on_default().bold();
/// Style of a hint.
pub(super) const HINT: Style = AnsiColor::Cyan.on_default().bold();
/// Style of a heading.
pub(super) const HEADING: Style = Style::new().bold();

/// Columns of a terminal that does not tell them: as many as the narrowest usual one has.
const WIDTH_DEFAULT: usize = 80;

/// Fewest columns that tables are made for.
const WIDTH_MIN: usize = 40;

/// Columns between two columns of a table.
const GAP: u16 = 2;

/// Fewest columns that a table's wide column gets, its gap included.
const COLUMN_MIN: usize = 10;

/// Prints a text on standard output. [`Error::ReaderGone`] if its reader has closed it, as in
/// `tx list | head -1`.
pub(super) fn print(text: &str) -> Result<(), Error> {
    let mut stdout = anstream::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|source| match source.kind() {
        ErrorKind::BrokenPipe => Error::ReaderGone,
        _ => Error::System { doing: "write to standard output", source },
    })
}

/// Prints a value as one line of JSON.
pub(super) fn print_json(value: &impl serde::Serialize) -> Result<(), Error> {
    print(&line_of_json(value))
}

/// Makes a line of JSON of a value.
pub(super) fn line_of_json(value: &impl serde::Serialize) -> String {
    let json = serde_json::to_string(value).expect("texts, numbers and lists of them");
    format!("{json}\n")
}

/// Prints a remark for the operator on standard error, apart from the output.
pub(super) fn note(text: &str) {
    // A remark that cannot be printed does not make the command fail.
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Makes a table that fits the terminal: aligned columns without borders, `-` for an empty cell. Long
/// cells go on in the next line of their column. Without a terminal each row is one line, which other programs find.
pub(super) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    table_within(width(), &keep_whole, header, rows)
}

/// Makes such a table, in which no column is narrow only because another one is wide: for texts beside ids that stand elsewhere in
/// full.
pub(super) fn shared_table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    table_within(width(), &share, header, rows)
}

/// Makes a table of which each row is one line, however long.
pub(super) fn wide_table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    table_within(None, &keep_whole, header, rows)
}

/// Returns the most that a column may keep of the columns that are left to it and to so many wider ones.
type Keep = dyn Fn(usize, usize) -> usize;

/// Keeps each column whole as long as the wider ones have some room: ids, which are copied.
fn keep_whole(left: usize, wider: usize) -> usize {
    left.saturating_sub(wider * COLUMN_MIN)
}

/// Gives each column its part of what is left, and lets a time be whole.
fn share(left: usize, wider: usize) -> usize {
    const TIME: usize = "2026-01-31T12:00:00.000Z".len() + GAP as usize;
    keep_whole(left, wider).min((left / (wider + 1)).max(TIME))
}

fn table_within<const N: usize>(
    width: Option<usize>,
    keep: &Keep,
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| match cell.is_empty() {
            true => "-".to_owned(),
            false => clean(&cell),
        }));
    }
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, GAP));
    });
    if let Some(width) = width {
        fit(&mut table, width, keep);
    }
    let mut lines = table.lines();
    let head = lines.next().unwrap_or_default();
    let head = format!("{HEADING}{}{HEADING:#}\n", head.trim_end());
    lines.fold(head, |text, line| text + line.trim_end() + "\n")
}

/// Makes a table's wide columns narrower, until it fits. Narrow ones, such as states and times, stay as
/// they are.
fn fit(table: &mut Table, width: usize, keep: &Keep) {
    let gap = usize::from(GAP);
    // The last column's gap is cut off.
    let width = width + gap;
    let widths: Vec<usize> = table
        .column_max_content_widths()
        .into_iter()
        .map(|cells| usize::from(cells) + gap)
        .collect();
    if widths.iter().sum::<usize>() <= width {
        return;
    }
    // Those that may keep their width: beginning with the narrowest, as long as the others have room.
    let mut by_width: Vec<usize> = (0..widths.len()).collect();
    by_width.sort_by_key(|index| widths[*index]);
    let mut left = width;
    for (place, index) in by_width.iter().enumerate() {
        if widths[*index] > keep(left, by_width.len() - place - 1) {
            break;
        }
        left -= widths[*index];
        if let Some(column) = table.column_mut(*index) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(u16::try_from(width).unwrap_or(u16::MAX));
}

/// Makes paragraphs of words that fit the terminal; without one, a line of them. The first line begins behind a label of `indent`
/// columns, and the others below it.
pub(super) fn wrapped(indent: usize, text: &str) -> String {
    wrapped_within(width().unwrap_or(usize::MAX), indent, text)
}

fn wrapped_within(width: usize, indent: usize, text: &str) -> String {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split(' ') {
        let longer = line.chars().count() + 1 + word.chars().count();
        if !line.is_empty() && indent + longer > width {
            lines.push(std::mem::take(&mut line));
        } else if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    lines.push(line);
    lines.join(&format!("\n{:indent$}", ""))
}

/// Makes lines of a text that fit so many columns, all but the first behind `indent` columns. A word that fits no line, such as a
/// long id, is broken.
pub(super) fn folded(columns: usize, indent: usize, text: &str) -> String {
    let room = columns.saturating_sub(indent).max(COLUMN_MIN);
    let (mut lines, mut line, mut count) = (Vec::new(), String::new(), 0);
    for (place, word) in text.trim_end().split(' ').enumerate() {
        if place > 0 && count + 1 + word.chars().count() > room {
            lines.push(std::mem::take(&mut line));
            count = 0;
        } else if count > 0 {
            line.push(' ');
            count += 1;
        }
        for c in word.chars() {
            if count == room {
                lines.push(std::mem::take(&mut line));
                count = 0;
            }
            line.push(c);
            count += 1;
        }
    }
    lines.push(line);
    let lines: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
    lines.join(&format!("\n{:indent$}", ""))
}

/// Tells whether standard output is a terminal.
pub(super) fn is_terminal() -> bool {
    stdout().is_terminal()
}

/// Returns the number of columns: those of the variable `COLUMNS`, or the terminal's; `None` where there is no terminal.
fn width() -> Option<usize> {
    let set = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let of_terminal = || {
        let told = rustix::termios::tcgetwinsize(stdout()).ok()?;
        Some(match told.ws_col {
            0 => WIDTH_DEFAULT,
            columns => columns.into(),
        })
    };
    let columns = set.filter(|columns| *columns > 0).or_else(of_terminal);
    columns.map(|columns| columns.max(WIDTH_MIN))
}

/// Returns the number of columns; without a terminal as many as there are.
pub(super) fn columns() -> usize {
    width().unwrap_or(usize::MAX)
}

/// Cuts a text to so many columns, with a sign that there was more.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    let kept = text.chars().take(columns.saturating_sub(1));
    kept.chain(['…']).collect()
}

/// Makes one line of a text from a participant or a client, with control characters escaped: they
/// could change the terminal.
pub(super) fn clean(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' | '\t' => " ".to_owned(),
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    };
    text.trim_end().chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_steers_no_terminal() {
        let rows = [["a".to_owned(), "x\u{1b}[2Jy\nz".to_owned()], ["long".into(), String::new()]];
        let text = anstream::adapter::strip_str(&table(["ID", "TEXT"], rows)).to_string();
        assert_eq!(text, "ID    TEXT\na     x\\u{1b}[2Jy z\nlong  -\n");
    }

    #[track_caller]
    fn check_fit(width: usize, row: [&str; 4]) -> String {
        let header = ["CREATED", "GID", "STATE", "TEXT"];
        let table = table_within(Some(width), &keep_whole, header, [row.map(str::to_owned)]);
        let text = anstream::adapter::strip_str(&table).to_string();
        for line in text.lines() {
            assert!(line.chars().count() <= width, "{} columns in {line:?}", line.chars().count());
        }
        text
    }

    #[test]
    fn a_table_fits_the_terminal() {
        let (at, word) = ("2026-11-26T06:47:04Z", "no answer within 10s ".repeat(9));
        let uuid = "01a2169b-93da-710f-b1cf-1be7d14ac65b";
        let text = check_fit(80, [at, uuid, "committing", &word]);
        // What can be copied stays whole.
        assert!(text.contains(at) && text.contains(uuid) && text.contains("committing"), "{text}");
        check_fit(80, [at, &"g".repeat(128), "heuristic_rollback", &word]);
        check_fit(40, [at, &"g".repeat(128), "committing", &word]);
        assert_eq!(check_fit(80, ["a", "b", "c", "d"]).lines().count(), 2);
        let wide = wide_table(["A"], [["x".repeat(200)]]);
        assert!(wide.contains(&"x".repeat(200)));
    }

    #[test]
    fn a_text_has_its_part_of_a_table() {
        let branch = "redeem-the-card-of-the-customer";
        let text = "5 attempts: Unavailable: HTTP 503 Service Unavailable (over 3.171s)";
        let row = ["2026-11-28T23:12:50.661Z", "commit", branch, text].map(str::to_owned);
        let table = table_within(Some(80), &share, ["AT", "EVENT", "BRANCH", "DETAIL"], [row]);
        let text = anstream::adapter::strip_str(&table).to_string();
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(
            text.contains("2026-11-28T23:12:50.661Z  commit  ") && text.lines().count() < 6,
            "{text}"
        );
        assert!(text.contains("Unavailable"), "no word of it is broken: {text}");
    }

    #[test]
    fn a_text_is_folded_and_a_word_that_is_too_long_is_broken() {
        assert_eq!(folded(20, 4, "one two  three four"), "one two  three\n    four");
        assert_eq!(folded(20, 4, "abcdefghijklmnopqrstuvw  x"), "abcdefghijklmnop\n    qrstuvw  x");
        let whole = "x".repeat(16);
        assert_eq!(folded(20, 4, &format!("{whole}  ")), whole);
        assert_eq!(folded(20, 4, &format!("{whole}  y")), format!("{whole}\n    y"));
        assert_eq!(folded(20, 4, ""), "");
        assert_eq!(folded(usize::MAX, 4, "one two"), "one two");
    }

    #[test]
    fn words_are_wrapped_behind_their_label() {
        assert_eq!(wrapped_within(20, 6, "one two three four"), "one two three\n      four");
        assert_eq!(wrapped_within(20, 6, "short"), "short");
        let word = "x".repeat(30);
        assert_eq!(
            wrapped_within(20, 6, &format!("a {word} b")),
            format!("a\n      {word}\n      b")
        );
    }
}
