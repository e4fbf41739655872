//! YAML or JSON as a tree in which each value knows its place.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, StrInput};

use crate::problem::{Place, Problem};

/// Values that stand in each other. Nothing that a definition says is as deep.
const DEPTH_MAX: usize = 64;

/// A value and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// A value of JSON. Numbers stay as they were written, because a parsed one could be rounded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// Name of a field and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) place: Place,
    pub(crate) name: String,
}

impl Value {
    /// Returns the kind of value, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "an object",
        }
    }

    /// Returns the value as JSON without white space.
    pub(crate) fn to_json(&self) -> String {
        let text = |text: &str| serde_json::Value::from(text).to_string();
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Number(number) => number.clone(),
            Self::Text(value) => text(value),
            Self::List(items) => {
                let items: Vec<_> = items.iter().map(|item| item.value.to_json()).collect();
                format!("[{}]", items.join(","))
            }
            Self::Map(entries) => {
                let entry = |(key, node): &(Key, Node)| {
                    format!("{}:{}", text(&key.name), node.value.to_json())
                };
                format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(","))
            }
        }
    }
}

/// Parses one document. A mistake of the syntax ends it; the others are collected.
pub(crate) fn parse(file: &str, text: &str) -> Result<Node, Vec<Problem>> {
    let text = join_surrogates(text);
    let parser = Parser::new_from_str(&text);
    let mut builder = Builder { file, parser, problems: Vec::new() };
    match builder.document() {
        Ok(node) if builder.problems.is_empty() => Ok(node),
        Ok(_) => Err(builder.problems),
        Err(problem) => {
            builder.problems.push(problem);
            Err(builder.problems)
        }
    }
}

struct Builder<'a> {
    file: &'a str,
    parser: Parser<'a, StrInput<'a>>,
    problems: Vec<Problem>,
}

impl<'a> Builder<'a> {
    fn document(&mut self) -> Result<Node, Problem> {
        loop {
            let (event, place) = self.next()?;
            match event {
                Event::Nothing | Event::StreamStart | Event::DocumentStart(_) => {}
                Event::StreamEnd | Event::DocumentEnd => {
                    return Err(self.problem(place, "", "is empty"));
                }
                event => {
                    let root = self.node(event, place, "", 0)?;
                    self.end()?;
                    return Ok(root);
                }
            }
        }
    }

    fn end(&mut self) -> Result<(), Problem> {
        loop {
            let (event, place) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(()),
                Event::DocumentStart(_) => {
                    return Err(self.problem(place, "", "must be one document, has a second one"));
                }
                _ => {}
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Place), Problem> {
        match self.parser.next() {
            Some(Ok((event, span))) => Ok((event, place(&span.start))),
            Some(Err(error)) => Err(self.syntax(&error)),
            None => Ok((Event::StreamEnd, Place { line: 1, column: 1 })),
        }
    }

    fn syntax(&self, error: &ScanError) -> Problem {
        let rule = format!("must be YAML or JSON: {}", error.info());
        self.problem(place(error.marker()), "", &rule)
    }

    fn problem(&self, place: Place, path: &str, rule: &str) -> Problem {
        let (file, path, rule) = (self.file.to_owned(), path.to_owned(), rule.to_owned());
        Problem { file, place: Some(place), path, rule }
    }

    fn node(
        &mut self,
        event: Event<'a>,
        at: Place,
        path: &str,
        depth: usize,
    ) -> Result<Node, Problem> {
        if depth > DEPTH_MAX {
            let rule = format!("must not be more than {DEPTH_MAX} values deep");
            return Err(self.problem(at, "", &rule));
        }
        let value = match event {
            Event::Scalar(text, style, _, tag) => {
                if tag.is_some() {
                    self.problems.push(self.problem(at, path, "must have no tag"));
                }
                self.scalar(text.into_owned(), style, at, path)
            }
            Event::SequenceStart(..) => self.list(path, depth)?,
            Event::MappingStart(..) => self.map(path, depth)?,
            Event::Alias(_) => {
                let rule = "must be written out: aliases are not read";
                self.problems.push(self.problem(at, path, rule));
                Value::Null
            }
            _ => return Err(self.problem(at, path, "must be a value")),
        };
        Ok(Node { place: at, value })
    }

    fn list(&mut self, path: &str, depth: usize) -> Result<Value, Problem> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                (event, at) => {
                    let path = format!("{path}[{}]", items.len());
                    items.push(self.node(event, at, &path, depth + 1)?);
                }
            }
        }
    }

    fn map(&mut self, path: &str, depth: usize) -> Result<Value, Problem> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        loop {
            let key = match self.next()? {
                (Event::MappingEnd, _) => return Ok(Value::Map(entries)),
                (Event::Scalar(name, ..), place) => Key { place, name: name.into_owned() },
                (_, place) => return Err(self.problem(place, path, "must have names as keys")),
            };
            let path = join(path, &key.name);
            let (event, at) = self.next()?;
            let node = self.node(event, at, &path, depth + 1)?;
            match entries.iter().find(|(known, _)| known.name == key.name) {
                Some((first, _)) => {
                    let rule =
                        format!("must be unique, it is in line {} already", first.place.line);
                    self.problems.push(self.problem(key.place, &path, &rule));
                }
                None => entries.push((key, node)),
            }
        }
    }

    fn scalar(&mut self, text: String, style: ScalarStyle, at: Place, path: &str) -> Value {
        if style != ScalarStyle::Plain {
            return Value::Text(text);
        }
        match text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => Value::Null,
            "true" | "True" | "TRUE" => Value::Bool(true),
            "false" | "False" | "FALSE" => Value::Bool(false),
            number if is_json_number(number) => Value::Number(text),
            number if is_other_number(number) => {
                let rule = "must be a number as JSON writes it, or a text in quotes";
                self.problems.push(self.problem(at, path, rule));
                Value::Null
            }
            _ => Value::Text(text),
        }
    }
}

/// Appends a name to a path.
pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn place(marker: &Marker) -> Place {
    Place { line: marker.line().max(1), column: marker.col() + 1 }
}

/// Tells whether a text is a number by the grammar of JSON (RFC 8259).
fn is_json_number(text: &str) -> bool {
    // Digits other than `0`, a sign, and nothing else can begin a number.
    text.starts_with(|c: char| c == '-' || c.is_ascii_digit())
        && serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok()
}

/// Tells whether a text is a number in YAML that JSON does not know: `+5`, `007`, `0x1f`, `.5`, `.inf`.
fn is_other_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let all = |text: &str, is: fn(&char) -> bool| !text.is_empty() && text.chars().all(|c| is(&c));
    if let Some(hex) = digits.strip_prefix("0x") {
        return all(hex, char::is_ascii_hexdigit);
    }
    if let Some(octal) = digits.strip_prefix("0o") {
        return all(octal, |c| ('0'..='7').contains(c));
    }
    if matches!(digits, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => {
            (mantissa, exponent.strip_prefix(['-', '+']).unwrap_or(exponent))
        }
        None => (digits, "0"),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    !(whole.is_empty() && fraction.is_empty())
        && is_digits(whole)
        && is_digits(fraction)
        && all(exponent, char::is_ascii_digit)
}

/// Writes a character outside the basic plane as YAML does: JSON escapes it as two halves, such as
/// `\ud83d\ude00`, which are no characters in YAML.
fn join_surrogates(text: &str) -> std::borrow::Cow<'_, str> {
    let unit = |at: usize| {
        let escape = text.get(at..at + 6)?;
        u16::from_str_radix(escape.strip_prefix("\\u")?, 16).ok()
    };
    let pair = |at: usize| {
        let halves = [unit(at)?, unit(at + 6)?];
        char::decode_utf16(halves).next()?.ok().filter(|_| (0xd800..0xdc00).contains(&halves[0]))
    };
    if !text.contains("\\u") {
        return text.into();
    }
    let mut joined = String::with_capacity(text.len());
    let mut rest = 0;
    while let Some(found) = text[rest..].find('\\').map(|at| rest + at) {
        joined.push_str(&text[rest..found]);
        if let Some(c) = pair(found) {
            joined.push_str(&format!("\\U{:08x}", u32::from(c)));
            rest = found + 12;
        } else {
            // A backslash, and the character that it escapes.
            let next = text[found + 1..].chars().next().map_or(0, char::len_utf8);
            joined.push_str(&text[found..found + 1 + next]);
            rest = found + 1 + next;
        }
    }
    joined.push_str(&text[rest..]);
    joined.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> String {
        parse("f", text)
            .map(|node| node.value.to_json())
            .unwrap_or_else(|problems| problems[0].to_string())
    }

    #[test]
    fn values_keep_their_types_and_numbers_their_digits() {
        for (text, expected) in [
            (
                "{a: 1.50, b: [123456789012345678901234567890, -1e9, yes, ~]}",
                r#"{"a":1.50,"b":[123456789012345678901234567890,-1e9,"yes",null]}"#,
            ),
            (
                "a: '1'\nb: \"x\\ny\"\nc: |\n  two\n  lines\n",
                r#"{"a":"1","b":"x\ny","c":"two\nlines\n"}"#,
            ),
            (
                "{\n\t\"a\": \"\\ud83d\\ude00\\\\ud83d\",\n\t\"b\": true}",
                "{\"a\":\"😀\\\\ud83d\",\"b\":true}",
            ),
            ("2026-01-01", "\"2026-01-01\""),
            ("a: 1.2.3", "{\"a\":\"1.2.3\"}"),
            ("\u{feff}a: 1", "{\"a\":1}"),
        ] {
            assert_eq!(json(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_plain_is_refused_at_its_place() {
        for (text, expected) in [
            ("", "f:1:1: is empty"),
            ("a: 1\n---\nb: 2\n", "f:2:1: must be one document, has a second one"),
            ("a: 1\nb: 2\na: 3\n", "f:3:1: a must be unique, it is in line 1 already"),
            ("a: [1, 007]", "f:1:8: a[1] must be a number as JSON writes it, or a text in quotes"),
            ("a: .inf", "f:1:4: a must be a number as JSON writes it, or a text in quotes"),
            ("a: &x 1\nb: *x", "f:2:4: b must be written out: aliases are not read"),
            ("a: !!str 1", "f:1:4: a must have no tag"),
            ("[1]: 2", "f:1:1: must have names as keys"),
            ("a: [1", "f:2:1: must be YAML or JSON: while parsing a flow sequence, expected "),
            ("a: b: c", "f:1:5: must be YAML or JSON: "),
        ] {
            let found = json(text);
            assert!(found.starts_with(expected), "{text}: {found}");
        }
        let deep = "[".repeat(70) + &"]".repeat(70);
        assert_eq!(json(&deep), "f:1:66: must not be more than 64 values deep");
    }
}
