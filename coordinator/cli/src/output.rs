//! What commands print: to standard output, in colors only on a terminal.

use std::io::{ErrorKind, Write};

use clap::builder::styling::{AnsiColor, Style};
use comfy_table::{ContentArrangement, Table, presets};

use super::error::Error;

/// What went well.
pub(super) const GOOD: Style = AnsiColor::Green.on_default().bold();
/// What went wrong.
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();
/// What is under way, or undone in good order.
pub(super) const SOSO: Style = AnsiColor::Yellow.on_default().bold();
/// What may help.
pub(super) const HINT: Style = AnsiColor::Cyan.on_default().bold();
/// What is written above other things.
pub(super) const HEADING: Style = Style::new().bold();

/// Prints a text. A reader that has gone is an error of its own, for `tx list | head -1`.
pub(super) fn print(text: &str) -> Result<(), Error> {
    let mut stdout = anstream::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|source| match source.kind() {
        ErrorKind::BrokenPipe => Error::ReaderGone,
        _ => Error::System { doing: "write to standard output", source },
    })
}

/// Prints a line of JSON.
pub(super) fn print_json(value: &impl serde::Serialize) -> Result<(), Error> {
    let json = serde_json::to_string(value).expect("texts, numbers and lists of them");
    print(&format!("{json}\n"))
}

/// Tells a person something besides the output, on standard error.
pub(super) fn note(text: &str) {
    // It is not what was asked for: nobody has to hear it.
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Columns without borders: for eyes, and for `awk`.
pub(super) fn table<const N: usize>(
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
        column.set_padding((0, 2));
    });
    let mut lines = table.lines();
    let head = lines.next().unwrap_or_default();
    let head = format!("{HEADING}{}{HEADING:#}\n", head.trim_end());
    lines.fold(head, |text, line| text + line.trim_end() + "\n")
}

/// Texts of participants and clients as one line, without anything that would steer the terminal.
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
}
