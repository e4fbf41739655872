//! Lines of a JSON text that the parser of YAML is given as one line.
//!
//! All of JSON is YAML but its white space: YAML counts the indentation of each line, and takes no tab there. On one line
//! there is none.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::problem::Place;

/// Lines of a text, by their places in it.
#[derive(Debug)]
pub(super) struct Lines {
    /// Number of characters before each line.
    starts: Vec<usize>,
}

impl Lines {
    /// Returns the place of the character with so many before it.
    pub(super) fn place(&self, before: usize) -> Place {
        let line = self.starts.partition_point(|start| *start <= before);
        let start = self.starts[line.saturating_sub(1)];
        Place { line: line.max(1), column: before - start + 1 }
    }
}

/// Tells whether a text is JSON, and on more lines than one or with tabs.
pub(super) fn is_json(text: &str) -> bool {
    let json = text.strip_prefix('\u{feff}').unwrap_or(text);
    json.contains(['\t', '\n', '\r']) && serde_json::from_str::<&RawValue>(json).is_ok()
}

/// Returns a JSON text, in which characters may be escaped as YAML does it, on one line, and its lines.
pub(super) fn on_one_line(text: &str) -> (Cow<'_, str>, Option<Lines>) {
    let json = text.strip_prefix('\u{feff}').unwrap_or(text);
    // The parser counts no mark of the byte order.
    let mut starts = vec![0];
    let (mut quoted, mut escaped, mut before) = (false, false, None);
    let mut count = 0;
    let line = json.chars().map(|c| {
        count += 1;
        match c {
            // The second half of a line's end.
            '\n' if before == Some('\r') => {
                if let Some(start) = starts.last_mut() {
                    *start = count;
                }
            }
            '\r' | '\n' => starts.push(count),
            '"' if !escaped => quoted = !quoted,
            _ => {}
        }
        escaped = quoted && c == '\\' && !escaped;
        before = Some(c);
        if matches!(c, '\t' | '\r' | '\n') { ' ' } else { c }
    });
    let line = line.collect::<String>();
    (line.into(), Some(Lines { starts }))
}
