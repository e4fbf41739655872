//! The values of the chart: those lines of YAML that `values.yaml` has.

use anyhow::{Result, bail};

/// Value of the chart, or a section of values.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Value {
    /// Names from the root, joined by dots.
    pub(super) path: String,
    pub(super) kind: Kind,
    /// Comment above it.
    pub(super) about: String,
    /// Default as it is written; empty for a section, and where it has several lines.
    pub(super) default: String,
}

/// Kind of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Section,
    Text,
    Number,
    Flag,
    /// Map whose content the chart does not know.
    Map,
    /// List whose content the chart does not know.
    List,
}

impl Value {
    pub(super) fn is_section(&self) -> bool {
        self.kind == Kind::Section
    }
}

/// Spaces of one level.
const INDENT: usize = 2;

/// Reads the values. It is an error if one has no comment, or is written in another way.
pub(super) fn parse(text: &str) -> Result<Vec<Value>> {
    let mut values = Vec::new();
    let mut names: Vec<String> = Vec::new();
    let mut comment = String::new();
    // Lines that are deeper belong to a value whose content is not known.
    let mut skipped_below = usize::MAX;
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        let written = line.trim_start();
        let depth = (line.len() - written.len()) / INDENT;
        if depth > skipped_below {
            continue;
        }
        if written.is_empty() {
            comment.clear();
            continue;
        }
        if let Some(text) = written.strip_prefix("# ") {
            comment = text.to_owned();
            continue;
        }
        skipped_below = usize::MAX;
        let Some((name, default)) = written.split_once(':') else {
            bail!("values.yaml, line {number}: neither a comment nor a value");
        };
        names.truncate(depth);
        names.push(name.to_owned());
        let (kind, about) = kind_of(&comment, default.trim());
        if about.is_empty() && kind != Kind::Section {
            bail!("values.yaml, line {number}: {name} has no comment");
        }
        if matches!(kind, Kind::Map | Kind::List) {
            skipped_below = depth;
        }
        values.push(Value {
            path: names.join("."),
            kind,
            about: about.to_owned(),
            default: default.trim().to_owned(),
        });
        comment.clear();
    }
    Ok(values)
}

/// Tells a value's kind from its comment and default, and returns the rest of the comment.
fn kind_of<'a>(comment: &'a str, default: &str) -> (Kind, &'a str) {
    if let Some(about) = comment.strip_prefix("(map) ") {
        return (Kind::Map, about);
    }
    if let Some(about) = comment.strip_prefix("(list) ") {
        return (Kind::List, about);
    }
    let kind = match default {
        "" => Kind::Section,
        "true" | "false" => Kind::Flag,
        number if number.parse::<u64>().is_ok() => Kind::Number,
        _ => Kind::Text,
    };
    (kind, comment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_with_their_comments() {
        let text = "# Head\n\n# Count\na: 1\nb:\n  # Text\n  c: \"x: y\"\n  # (map) More\n  d:\n    e: 1\n# On\nf: true\n";
        let values = parse(text).expect("values");
        let read: Vec<_> =
            values.iter().map(|v| (v.path.as_str(), v.kind, v.about.as_str())).collect();
        let expected = [
            ("a", Kind::Number, "Count"),
            ("b", Kind::Section, ""),
            ("b.c", Kind::Text, "Text"),
            ("b.d", Kind::Map, "More"),
            ("f", Kind::Flag, "On"),
        ];
        assert_eq!(read, expected);
        assert_eq!(values[2].default, "\"x: y\"");
    }

    #[test]
    fn a_value_without_a_comment_is_refused() {
        let error = parse("# Count\na: 1\nb: 2\n").expect_err("no comment").to_string();
        assert_eq!(error, "values.yaml, line 3: b has no comment");
    }
}
