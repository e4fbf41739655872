//! Values of single fields.

use std::time::Duration;

use unanimo_core::{BRANCHES_MAX, Limits, Lock, LockMode, LockName, Timestamp, ids};

use super::Reader;
use super::forms::{DURATION, Form, LOCK_NAME, TIME, name_with_a_gap};
use crate::fields::{LOCK_MODES, Object};
use crate::fill::plain;
use crate::inputs::{Declaration, Type};
use crate::nearest::hint;
use crate::places::At;
use crate::problem::Place;
use crate::tree::{Entries, Key, Node, Path, Value};

/// Time for which a lock is waited for where the definition does not say, as the contract has it.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Numbers that are counts.
const COUNT: &str = "a whole number from 1 to 4294967295";

/// Most characters of a number that are shown.
const SHOWN_MAX: usize = 40;

/// Knowledge of a value with placeholders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// All of it.
    Value,
    /// A sample stands in it that is written like every value.
    Form,
    /// A sample stands in it that tells nothing.
    Nothing,
}

impl Reader<'_> {
    pub(super) fn text(&mut self, at: &At, node: &Node) -> Option<String> {
        self.places.note(at, node.place);
        match &node.value {
            Value::Text(text) => Some(text.clone()),
            _ => {
                self.not_a(at, node, "a text");
                None
            }
        }
    }

    pub(super) fn flag(&mut self, at: &At, node: &Node) -> Option<bool> {
        self.places.note(at, node.place);
        match &node.value {
            Value::Bool(flag) => Some(*flag),
            _ => {
                self.not_a(at, node, "true or false");
                None
            }
        }
    }

    pub(super) fn count(&mut self, at: &At, node: &Node) -> Option<u32> {
        self.places.note(at, node.place);
        let count = match &node.value {
            Value::Number(number) => {
                let count = number.parse().ok().filter(|count| *count > 0);
                if count.is_none() {
                    let shown: String = number.chars().take(SHOWN_MAX).collect();
                    let rule = format!("must be {COUNT}, is {shown}");
                    self.problem(at, node.place, rule);
                }
                return count;
            }
            _ => None,
        };
        self.not_a(at, node, COUNT);
        count
    }

    pub(super) fn choice(&mut self, at: &At, node: &Node, of: &[&str]) -> Option<String> {
        let text = self.text(at, node)?;
        if of.contains(&text.as_str()) {
            return Some(text);
        }
        let near = hint(&text, of.iter().copied());
        self.problem(at, node.place, format!("must be {}, is {text:?}{near}", of.join(", ")));
        None
    }

    /// Reads a name or an id by its own rule. A bad one is told, and is `None`.
    pub(super) fn name<T>(
        &mut self,
        at: &At,
        node: &Node,
        parse: fn(&str) -> Result<T, ids::Error>,
    ) -> Option<T> {
        let text = self.text(at, node)?;
        match parse(&text) {
            Ok(name) => Some(name),
            Err(rule) => {
                self.problem(at, node.place, rule.to_string());
                None
            }
        }
    }

    /// Replaces the placeholders of a value.
    pub(super) fn filled(&mut self, at: &At, node: &Node) -> Option<(Value, Known)> {
        self.filled_at(Path::Text(&at.path), node)
    }

    fn filled_at(&mut self, path: Path<'_>, node: &Node) -> Option<(Value, Known)> {
        let Value::Text(text) = &node.value else {
            return Some((node.value.clone(), Known::Value));
        };
        match self.values.fill(text, node.place) {
            Ok(filled) => {
                for name in filled.used {
                    self.used.entry(name).or_insert_with(|| {
                        let (place, path) = (node.place, path.to_string());
                        Declaration { kind: Type::Any, default: None, place, path }
                    });
                }
                let known = match (filled.is_sample, filled.is_typed) {
                    (false, _) => Known::Value,
                    (true, true) => Known::Form,
                    (true, false) => Known::Nothing,
                };
                Some((filled.value, known))
            }
            Err(rule) => {
                self.problem_at(&path.to_string(), node.place, rule);
                None
            }
        }
    }

    /// Replaces the placeholders of all texts in a value.
    pub(super) fn filled_through(&mut self, at: &At, node: &Node) -> Value {
        let fill = |reader: &mut Self, path: Path<'_>, node: &Node| {
            reader.filled_at(path, node).map_or(Value::Null, |(value, _)| value)
        };
        self.through(Path::Text(&at.path), node, &fill)
    }

    /// Reads a value in which no placeholder is replaced.
    pub(super) fn plain_through(&mut self, path: Path<'_>, node: &Node) -> Value {
        let plain = |reader: &mut Self, path: Path<'_>, node: &Node| match &node.value {
            Value::Text(text) => Value::Text(reader.plain(&path.to_string(), node.place, text)),
            other => other.clone(),
        };
        self.through(path, node, &plain)
    }

    /// Reads a text in which no placeholder is replaced. A bad one is told, and returned as it is.
    pub(super) fn plain(&mut self, path: &str, place: Place, text: &str) -> String {
        if !text.contains("${") {
            return text.to_owned();
        }
        plain(text).unwrap_or_else(|rule| {
            self.problem_at(path, place, rule);
            text.to_owned()
        })
    }

    /// Makes a value anew, with `make` for each part that is neither a list nor an object. Names are
    /// texts in which no placeholder is replaced.
    fn through(
        &mut self,
        path: Path<'_>,
        node: &Node,
        make: &impl Fn(&mut Self, Path<'_>, &Node) -> Value,
    ) -> Value {
        match &node.value {
            Value::List(items) => {
                let item = |(index, node): (usize, &Node)| Node {
                    place: node.place,
                    value: self.through(Path::Item(&path, index), node, make),
                };
                Value::List(items.iter().enumerate().map(item).collect())
            }
            Value::Map(entries) => {
                let mut made = Entries::default();
                for (key, node) in entries.iter() {
                    let path = Path::Field(&path, &key.name);
                    let name = match key.name.contains("${") {
                        true => self.plain(&path.to_string(), key.place, &key.name),
                        false => key.name.clone(),
                    };
                    if name != key.name
                        && (made.get(&name).is_some() || entries.get(&name).is_some())
                    {
                        let rule = format!("must be unique, {name} is there already");
                        self.problem_at(&path.to_string(), key.place, rule);
                        continue;
                    }
                    let value = self.through(path, node, make);
                    made.push(Key { name, ..key.clone() }, Node { place: node.place, value });
                }
                Value::Map(made)
            }
            _ => make(self, path, node),
        }
    }

    /// Notes a list or an object that has more entries than any rule allows; its entries are not read.
    pub(super) fn too_many(&mut self, at: &At, node: &Node, count: usize) -> bool {
        if count > BRANCHES_MAX {
            let rule = format!("must have at most {BRANCHES_MAX} entries, has {count}");
            self.problem(at, node.place, rule);
        }
        count > BRANCHES_MAX
    }

    /// Notes that a value with placeholders is not of the kind that it must be, which is written as a text.
    pub(super) fn not_a_text(
        &mut self,
        at: &At,
        node: &Node,
        (value, known): (Value, Known),
        kind: &str,
    ) {
        if known == Known::Value {
            return self.not_a(at, &Node { place: node.place, value }, kind);
        }
        let rule = format!("must be {kind}, and the input is declared as {}", value.kind());
        self.problem(at, node.place, rule);
    }

    /// Reads a text of a form. `None` also where it is not known yet.
    fn parsed<T>(&mut self, at: &At, node: &Node, form: &Form<T>) -> Option<T> {
        let Form { kind, parse, hint } = *form;
        self.places.note(at, node.place);
        let (text, known) = match self.filled(at, node)? {
            (Value::Text(text), known) => (text, known),
            (Value::Number(number), Known::Value) => {
                let shown: String = number.chars().take(SHOWN_MAX).collect();
                let rule = format!("must be {kind}, is the number {shown}{}", hint(&number));
                self.problem(at, node.place, rule);
                return None;
            }
            found => {
                self.not_a_text(at, node, found, kind);
                return None;
            }
        };
        let parsed = parse(&text);
        let verb = match known {
            Known::Value => "is",
            Known::Form => "becomes",
            Known::Nothing => return None,
        };
        if parsed.is_none() && !self.may_become(node, known, parse) {
            let rule = format!("must be {kind}, {verb} {text:?}{}", hint(&text));
            self.problem(at, node.place, rule);
        }
        parsed.filter(|_| known == Known::Value)
    }

    /// Tells whether a text of which only the form is known may still be one that `parse` understands.
    fn may_become<T>(&self, node: &Node, known: Known, parse: fn(&str) -> Option<T>) -> bool {
        match &node.value {
            Value::Text(text) if known == Known::Form => {
                self.values.may_become(text, node.place, |text| parse(text).is_some())
            }
            _ => false,
        }
    }

    pub(super) fn duration(&mut self, at: &At, node: &Node) -> Option<Duration> {
        self.parsed(at, node, &DURATION)
    }

    /// Reads a timeout. One that is not known yet is the longest, which breaks no other rule.
    pub(super) fn timeout(&mut self, at: &At, node: &Node) -> Option<Duration> {
        let known = self.filled(at, node).map_or(Known::Nothing, |(_, known)| known);
        let told = self.problems.len();
        let duration = self.duration(at, node);
        let is_sample = known != Known::Value && self.problems.len() == told;
        if is_sample { Some(Limits::default().timeout_max) } else { duration }
    }

    pub(super) fn time(&mut self, at: &At, node: &Node) -> Option<Timestamp> {
        self.parsed(at, node, &TIME)
    }

    pub(super) fn locks(&mut self, at: &At, node: &Node) -> Vec<Lock> {
        self.places.note(at, node.place);
        let Value::List(items) = &node.value else {
            self.not_a(at, node, "a list of locks");
            return Vec::new();
        };
        if self.too_many(at, node, items.len()) {
            return Vec::new();
        }
        let lock = |(index, node)| self.lock(&at.item(index), node);
        items.iter().enumerate().filter_map(lock).collect()
    }

    /// Reads a lock: an object, or its name alone.
    fn lock(&mut self, at: &At, node: &Node) -> Option<Lock> {
        if let Value::Text(_) = node.value {
            let name = self.lock_name(at, node)?;
            return Some(Lock { name, mode: LockMode::Exclusive, wait_max: LOCK_WAIT });
        }
        if let Some(rule) = name_with_a_gap(&node.value) {
            self.problem(at, node.place, rule);
            return None;
        }
        if !matches!(node.value, Value::Map(_)) {
            self.not_a(at, node, &format!("{LOCK_NAME}, or an object with name, mode and wait"));
            return None;
        }
        let fields = self.object(at, node, Object::Lock)?;
        let name = fields.get("name").and_then(|(at, node)| self.lock_name(&at, node));
        let mode = fields.get("mode").and_then(|(at, node)| self.choice(&at, node, LOCK_MODES));
        let mode = match mode.as_deref() {
            Some("shared") => LockMode::Shared,
            _ => LockMode::Exclusive,
        };
        let wait =
            fields.get_as("wait", "wait_max").and_then(|(at, node)| self.duration(&at, node));
        Some(Lock { name: name?, mode, wait_max: wait.unwrap_or(LOCK_WAIT) })
    }

    fn lock_name(&mut self, at: &At, node: &Node) -> Option<LockName> {
        self.places.note(at, node.place);
        if let Value::Number(_) = node.value {
            self.not_a(at, node, LOCK_NAME);
            return None;
        }
        let text = match self.filled(at, node)? {
            // Two names with inputs in them are two names, until the inputs are known.
            (Value::Text(text) | Value::Number(text), Known::Form | Known::Nothing) => {
                let Place { line, column } = node.place;
                let rule = LockName::new(&text).err();
                rule.map_or_else(|| format!("{line}.{column}"), |_| text)
            }
            (Value::Text(text) | Value::Number(text), Known::Value) => text,
            found => {
                self.not_a_text(at, node, found, LOCK_NAME);
                return None;
            }
        };
        match LockName::new(&text) {
            Ok(name) => Some(name),
            Err(rule) => {
                self.problem(at, node.place, format!("{rule} ({text:?})"));
                None
            }
        }
    }
}
