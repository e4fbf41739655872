//! Inputs of a run: what a definition declares, and what is given.

use std::collections::BTreeMap;

use crate::definition::FILE_BYTES_MAX;
use crate::fields::TYPES;
use crate::nearest::hint;
use crate::problem::{PROBLEMS_MAX, Place, Problem, Problems};
use crate::tree::{self, Entries, Node, Value};

/// Type of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    String,
    Integer,
    Number,
    Boolean,
    List,
    Object,
    Any,
}

impl Type {
    const ALL: [Self; 7] = [
        Self::String,
        Self::Integer,
        Self::Number,
        Self::Boolean,
        Self::List,
        Self::Object,
        Self::Any,
    ];

    /// Returns the type of this name.
    pub(crate) fn of(name: &str) -> Option<Self> {
        TYPES.iter().zip(Self::ALL).find(|(known, _)| **known == name).map(|(_, kind)| kind)
    }

    fn name(self) -> &'static str {
        TYPES[Self::ALL.iter().position(|kind| *kind == self).unwrap_or_default()]
    }

    fn takes(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Any, _)
            | (_, Value::Unread)
            | (Self::String, Value::Text(_))
            | (Self::Number, Value::Number(_))
            | (Self::Boolean, Value::Bool(_))
            | (Self::List, Value::List(_))
            | (Self::Object, Value::Map(_)) => true,
            (Self::Integer, Value::Number(number)) => !number.contains(['.', 'e', 'E']),
            _ => false,
        }
    }

    /// Returns the rule that a value breaks.
    pub(crate) fn rule(self, value: &Value) -> Option<String> {
        let found = match value {
            Value::Number(number) => number.clone(),
            value => value.kind().to_owned(),
        };
        (!self.takes(value)).then(|| format!("must be of type {}, is {found}", self.name()))
    }

    /// Tells whether every value is written like the sample, so that what is wrong with that is wrong with all.
    pub(crate) fn has_one_form(self) -> bool {
        matches!(self, Self::Integer | Self::Number | Self::Boolean | Self::List | Self::Object)
    }

    /// Returns a value that stands for one that is not given yet.
    pub(crate) fn sample(self) -> Value {
        match self {
            Self::String | Self::Any => Value::Text("x".to_owned()),
            Self::Integer | Self::Number => Value::Number("1".to_owned()),
            Self::Boolean => Value::Bool(true),
            Self::List => Value::List(Vec::new()),
            Self::Object => Value::Map(Entries::default()),
        }
    }
}

/// An input that a definition declares, or uses without declaring any.
#[derive(Clone, Debug)]
pub(crate) struct Declaration {
    pub(crate) kind: Type,
    pub(crate) default: Option<Node>,
    pub(crate) place: Place,
    /// Path of the declaration, or of the field that uses it.
    pub(crate) path: String,
}

/// Returns the values of the inputs that have a default.
pub(crate) fn defaults(declared: &BTreeMap<String, Declaration>) -> BTreeMap<String, Node> {
    let of = |(name, declaration): (&String, &Declaration)| {
        Some((name.clone(), declaration.default.clone()?))
    };
    declared.iter().filter_map(of).collect()
}

/// Values for a run.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    given: BTreeMap<String, Given>,
}

#[derive(Clone, Debug)]
struct Given {
    file: String,
    place: Option<Place>,
    value: Raw,
}

#[derive(Clone, Debug)]
enum Raw {
    Value(Value),
    /// A word of a command line, whose type depends on the declaration.
    Word(String),
}

impl Inputs {
    /// Reads an object in JSON or YAML: a value for each input. `file` is its name in messages.
    ///
    /// # Errors
    /// The text is no object.
    pub fn parse(file: &str, text: &str) -> Result<Self, Problems> {
        let problem = |place, rule: String| Problem {
            file: file.to_owned(),
            place: Some(place),
            path: String::new(),
            rule,
        };
        if u64::try_from(text.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
            let rule = format!("must be at most {FILE_BYTES_MAX} bytes");
            let (file, path) = (file.to_owned(), String::new());
            return Err(Problems::one(Problem { file, place: None, path, rule }));
        }
        let parsed = tree::parse(file, text).and_then(|node| match node.value {
            Value::Map(entries) => Ok(entries),
            other => {
                let rule =
                    format!("must be an object with a value for each input, is {}", other.kind());
                Err(vec![problem(node.place, rule)])
            }
        });
        let entries = match parsed {
            Ok(entries) => entries,
            Err(problems) => {
                return Problems::of(problems).map_or_else(|| Ok(Self::default()), Err);
            }
        };
        let given = entries.into_iter().map(|(key, node)| {
            let value = Raw::Value(node.value);
            (key.name, Given { file: file.to_owned(), place: Some(node.place), value })
        });
        Ok(Self { given: given.collect() })
    }

    /// Sets one input from a word of a command line; it replaces an earlier value. The word is taken as
    /// JSON if it is and the input is not declared as a string, else as a text. JSON that a definition could
    /// not hold, such as an object with one name twice, is refused when the saga is made.
    pub fn set(&mut self, name: &str, word: &str) {
        let value = Raw::Word(word.to_owned());
        let given = Given { file: format!("--set {name}"), place: None, value };
        self.given.insert(name.to_owned(), given);
    }

    /// Compares what is given with what is asked for, and returns the values.
    pub(crate) fn resolve(
        &self,
        file: &str,
        wanted: &BTreeMap<String, Declaration>,
        problems: &mut Vec<Problem>,
    ) -> BTreeMap<String, Node> {
        let mut values = BTreeMap::new();
        for (name, given) in &self.given {
            if !wanted.contains_key(name) && problems.len() < PROBLEMS_MAX {
                let rule = format!(
                    "must be an input of the saga{}",
                    hint(name, wanted.keys().map(String::as_str))
                );
                problems.push(given.problem(name, rule));
            }
        }
        for (name, declaration) in wanted {
            let Some(given) = self.given.get(name) else {
                match &declaration.default {
                    Some(default) => drop(values.insert(name.clone(), default.clone())),
                    None => problems.push(Problem {
                        file: file.to_owned(),
                        place: Some(declaration.place),
                        path: declaration.path.clone(),
                        rule: format!("needs a value: --set {name}=VALUE, or {name} in --input"),
                    }),
                }
                continue;
            };
            let value = match given.value.typed(declaration.kind) {
                Ok(value) => value,
                Err(of_word) => {
                    problems.extend(of_word.into_iter().map(|problem| Problem {
                        file: given.file.clone(),
                        path: within(name, &problem.path),
                        ..problem
                    }));
                    continue;
                }
            };
            match declaration.kind.rule(&value) {
                Some(rule) => problems.push(given.problem(name, rule)),
                None => {
                    let place = given.place.unwrap_or(declaration.place);
                    values.insert(name.clone(), Node { place, value });
                }
            }
        }
        values
    }
}

impl Given {
    fn problem(&self, name: &str, rule: String) -> Problem {
        Problem { file: self.file.clone(), place: self.place, path: name.to_owned(), rule }
    }
}

impl Raw {
    /// Returns the value; or, of a word that is JSON, the rules that it breaks.
    fn typed(&self, kind: Type) -> Result<Value, Vec<Problem>> {
        match self {
            Self::Value(value) => Ok(value.clone()),
            Self::Word(word) if kind == Type::String || !is_json(word) => {
                Ok(Value::Text(word.clone()))
            }
            Self::Word(word) => tree::parse("", word).map(|node| node.value),
        }
    }
}

/// Returns the path of a value inside an input.
fn within(name: &str, path: &str) -> String {
    match path {
        "" => name.to_owned(),
        item if item.starts_with('[') => format!("{name}{item}"),
        field => format!("{name}.{field}"),
    }
}

/// Tells whether a word is JSON.
fn is_json(word: &str) -> bool {
    serde_json::from_str::<&serde_json::value::RawValue>(word).is_ok()
}
