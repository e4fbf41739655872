//! Markdown's tables.

/// A text as code.
pub(super) fn code(text: &str) -> String {
    format!("`{text}`")
}

/// A table, with an end of line after it.
pub(super) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let line =
        |cells: [String; N]| format!("| {} |\n", cells.map(|cell| escape(&cell)).join(" | "));
    let mut text = line(header.map(String::from)) + &line([(); N].map(|()| "---".to_owned()));
    text.extend(rows.into_iter().map(line));
    text
}

/// A bar would end the cell, within code as well.
fn escape(cell: &str) -> String {
    cell.replace('|', "\\|")
}
