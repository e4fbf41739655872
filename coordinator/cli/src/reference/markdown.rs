//! Tables of Markdown.

/// Marks a text as code.
pub(super) fn code(text: &str) -> String {
    format!("`{text}`")
}

/// Makes a table that ends with a line feed.
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

/// Escapes bars: each would end the cell, within code, too.
fn escape(cell: &str) -> String {
    cell.replace('|', "\\|")
}
