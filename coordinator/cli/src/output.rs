//! Output of commands: on standard output, in colors only on a terminal.

use std::io::{ErrorKind, Write};

use clap::builder::styling::{AnsiColor, Style};
use comfy_table::{ContentArrangement, Table, presets};

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
    let json = serde_json::to_string(value).expect("texts, numbers and lists of them");
    print(&format!("{json}\n"))
}

/// Prints a remark for the operator on standard error, apart from the output.
pub(super) fn note(text: &str) {
    // A remark that cannot be printed does not make the command fail.
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Makes a table: aligned columns without borders, one line for each row, `-` for an empty cell.
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
}
