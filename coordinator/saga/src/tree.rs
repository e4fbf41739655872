//! YAML or JSON as a tree in which each value knows its place.

mod entries;
mod lines;
mod numbers;
mod path;
mod surrogates;
#[cfg(test)]
mod tests;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, StrInput};

pub(crate) use self::entries::Entries;
use self::lines::Lines;
use self::numbers::{is_json_number, is_other_number};
pub(crate) use self::path::{Path, join};
use crate::problem::{PROBLEMS_MAX, Place, Problem};

/// Values that stand in each other. Nothing that a definition says is as deep.
const DEPTH_MAX: usize = 64;

/// Most bytes of the name of a field. No name that means something is as long, and messages repeat it.
const KEY_BYTES_MAX: usize = 1024;

/// Rule that a text without a document breaks.
pub(crate) const EMPTY: &str = "is empty";

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
    Map(Entries),
    /// A value that cannot be read. It was told, and breaks no other rule.
    Unread,
}

/// Name of a field and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) place: Place,
    pub(crate) name: String,
    /// The object has the name already. It was told.
    pub(crate) is_twin: bool,
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
            Self::Unread => "unreadable",
        }
    }

    /// Returns the value as JSON without white space.
    pub(crate) fn to_json(&self) -> String {
        let mut json = String::new();
        self.write_json(&mut json);
        json
    }

    fn write_json(&self, json: &mut String) {
        let text = |text: &str| serde_json::Value::from(text).to_string();
        match self {
            Self::Null | Self::Unread => json.push_str("null"),
            Self::Bool(value) => json.push_str(&value.to_string()),
            Self::Number(number) => json.push_str(number),
            Self::Text(value) => json.push_str(&text(value)),
            Self::List(items) => {
                json.push('[');
                for (index, item) in items.iter().enumerate() {
                    json.push_str(if index > 0 { "," } else { "" });
                    item.value.write_json(json);
                }
                json.push(']');
            }
            Self::Map(entries) => {
                json.push('{');
                for (index, (key, node)) in entries.iter().enumerate() {
                    json.push_str(if index > 0 { "," } else { "" });
                    json.push_str(&text(&key.name));
                    json.push(':');
                    node.value.write_json(json);
                }
                json.push('}');
            }
        }
    }

    /// Returns about as many bytes as it takes to write, or `most` if it is more than that. Every value counts
    /// something, so that many small ones are not nothing.
    pub(crate) fn bytes(&self, most: usize) -> usize {
        let mut sum: usize = 2;
        match self {
            Self::Null | Self::Bool(_) | Self::Unread => sum += 4,
            Self::Number(text) | Self::Text(text) => sum += text.len(),
            Self::List(items) => {
                for item in items {
                    if sum >= most {
                        break;
                    }
                    sum += 1 + item.value.bytes(most - sum);
                }
            }
            Self::Map(entries) => {
                for (key, node) in entries.iter() {
                    if sum >= most {
                        break;
                    }
                    sum += 4 + key.name.len() + node.value.bytes(most - sum);
                }
            }
        }
        sum.min(most)
    }
}

/// Parses one document in which there is no mistake.
pub(crate) fn parse(file: &str, text: &str) -> Result<Node, Vec<Problem>> {
    match read(file, text) {
        (Some(node), problems) if problems.is_empty() => Ok(node),
        (_, problems) => Err(problems),
    }
}

/// Parses one document. A mistake of the syntax ends it: then there is none. Other mistakes are collected,
/// and what they leave of the document is returned with them.
pub(crate) fn read(file: &str, text: &str) -> (Option<Node>, Vec<Problem>) {
    let is_json = lines::is_json(text);
    let text = surrogates::join(text);
    let (text, lines) = if is_json { lines::on_one_line(&text) } else { (text, None) };
    let parser = Parser::new_from_str(&text);
    let mut builder = Builder { file, parser, lines, problems: Vec::new() };
    match builder.document() {
        Ok(node) => (Some(node), builder.problems),
        Err(problem) => {
            builder.problems.push(problem);
            (None, builder.problems)
        }
    }
}

struct Builder<'a> {
    file: &'a str,
    parser: Parser<'a, StrInput<'a>>,
    /// Lines of the file, where the parser sees one.
    lines: Option<Lines>,
    problems: Vec<Problem>,
}

impl<'a> Builder<'a> {
    fn document(&mut self) -> Result<Node, Problem> {
        loop {
            let (event, place) = self.next()?;
            match event {
                Event::Nothing | Event::StreamStart | Event::DocumentStart(_) => {}
                Event::StreamEnd | Event::DocumentEnd => {
                    return Err(self.problem(place, "", EMPTY));
                }
                event => {
                    let root = self.node(event, place, Path::Root, 0)?;
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
                    return self.mistake(
                        place,
                        Path::Root,
                        "must be one document, has a second one",
                    );
                }
                _ => {}
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Place), Problem> {
        match self.parser.next() {
            Some(Ok((event, span))) => Ok((event, self.place(&span.start))),
            Some(Err(error)) => Err(self.syntax(&error)),
            None => Ok((Event::StreamEnd, Place { line: 1, column: 1 })),
        }
    }

    fn place(&self, marker: &Marker) -> Place {
        match &self.lines {
            Some(lines) => lines.place(marker.col()),
            None => Place { line: marker.line().max(1), column: marker.col() + 1 },
        }
    }

    fn syntax(&self, error: &ScanError) -> Problem {
        let rule = format!("must be YAML or JSON: {}", error.info());
        self.problem(self.place(error.marker()), "", &rule)
    }

    /// Notes a mistake, and goes on.
    fn mistake(&mut self, place: Place, path: Path<'_>, rule: &str) -> Result<(), Problem> {
        let problem = self.problem(place, &path.to_string(), rule);
        if self.problems.len() >= PROBLEMS_MAX {
            return Err(problem);
        }
        self.problems.push(problem);
        Ok(())
    }

    fn problem(&self, place: Place, path: &str, rule: &str) -> Problem {
        let (file, path, rule) = (self.file.to_owned(), path.to_owned(), rule.to_owned());
        Problem { file, place: Some(place), path, rule }
    }

    fn node(
        &mut self,
        event: Event<'a>,
        at: Place,
        path: Path<'_>,
        depth: usize,
    ) -> Result<Node, Problem> {
        if depth > DEPTH_MAX {
            let rule = format!("must not be more than {DEPTH_MAX} values deep");
            return Err(self.problem(at, "", &rule));
        }
        let value = match event {
            Event::Scalar(_, _, _, Some(_)) => {
                self.no_tag(true, at, path)?;
                Value::Unread
            }
            Event::Scalar(text, style, _, None) => {
                self.scalar(text.into_owned(), style, at, path)?
            }
            Event::SequenceStart(_, tag) => {
                self.no_tag(tag.is_some(), at, path)?;
                self.list(path, depth)?
            }
            Event::MappingStart(_, tag) => {
                self.no_tag(tag.is_some(), at, path)?;
                self.map(path, depth)?
            }
            Event::Alias(_) => {
                self.mistake(at, path, "must be written out: aliases are not read")?;
                Value::Unread
            }
            _ => return Err(self.problem(at, &path.to_string(), "must be a value")),
        };
        Ok(Node { place: at, value })
    }

    fn no_tag(&mut self, has_one: bool, at: Place, path: Path<'_>) -> Result<(), Problem> {
        if has_one { self.mistake(at, path, "must have no tag") } else { Ok(()) }
    }

    fn list(&mut self, path: Path<'_>, depth: usize) -> Result<Value, Problem> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                (event, at) => {
                    let path = Path::Item(&path, items.len());
                    items.push(self.node(event, at, path, depth + 1)?);
                }
            }
        }
    }

    fn map(&mut self, path: Path<'_>, depth: usize) -> Result<Value, Problem> {
        let mut entries = Entries::default();
        loop {
            let (event, place) = self.next()?;
            let Event::Scalar(name, _, _, tag) = event else {
                if matches!(event, Event::MappingEnd) {
                    return Ok(Value::Map(entries));
                }
                self.mistake(place, path, "must have names as keys")?;
                // The key, and then its value.
                self.node(event, place, path, depth + 1)?;
                let (event, at) = self.next()?;
                self.node(event, at, path, depth + 1)?;
                continue;
            };
            let mut key = Key { place, name: name.into_owned(), is_twin: false };
            self.key(&key, tag.is_some(), path)?;
            let (event, at) = self.next()?;
            let node = self.node(event, at, Path::Field(&path, &key.name), depth + 1)?;
            if let Some((first, _)) = entries.get(&key.name) {
                let rule = format!("must be unique, it is in line {} already", first.place.line);
                self.mistake(key.place, Path::Field(&path, &key.name), &rule)?;
                key.is_twin = true;
            }
            entries.push(key, node);
        }
    }

    fn key(&mut self, key: &Key, has_tag: bool, path: Path<'_>) -> Result<(), Problem> {
        let length = key.name.len();
        if length > KEY_BYTES_MAX {
            let rule =
                format!("must have names of at most {KEY_BYTES_MAX} bytes, has one of {length}");
            return Err(self.problem(key.place, &path.to_string(), &rule));
        }
        self.no_tag(has_tag, key.place, Path::Field(&path, &key.name))
    }

    fn scalar(
        &mut self,
        text: String,
        style: ScalarStyle,
        at: Place,
        path: Path<'_>,
    ) -> Result<Value, Problem> {
        if style != ScalarStyle::Plain {
            return Ok(Value::Text(text));
        }
        Ok(match text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => Value::Null,
            "true" | "True" | "TRUE" => Value::Bool(true),
            "false" | "False" | "FALSE" => Value::Bool(false),
            number if is_json_number(number) => Value::Number(text),
            number if is_other_number(number) => {
                let rule = "must be a number as JSON writes it, or a text in quotes";
                self.mistake(at, path, rule)?;
                Value::Unread
            }
            _ => Value::Text(text),
        })
    }
}
