//! Placeholders such as `${input.account}` in texts, and the values in their places.

use std::cell::Cell;
use std::collections::BTreeMap;

use crate::inputs::{Declaration, Type};
use crate::nearest::hint;
use crate::problem::Place;
use crate::tree::{Node, Value};

/// Most bytes of the values that placeholders become in one definition, as many as a file may have: a short
/// text can name a large value many times.
const VALUES_BYTES_MAX: usize = 8 << 20;

/// Numbers that stand for one that is not known, each as long as a part of a time may have to be, and the least.
const NUMBER_SAMPLES: [&str; 4] = ["0", "1", "10", "2026"];

/// Most numbers in one text for which all lengths are tried: the parts of a time.
const NUMBERS_MAX: usize = 6;

/// Values of the inputs, known or not yet.
#[derive(Debug)]
pub(crate) struct Values {
    /// Values that were given, and defaults. `None` while a definition is only checked. Samples stand for the
    /// values that are not known.
    pub(crate) known: Option<BTreeMap<String, Node>>,
    /// Inputs that the definition declares; `None` if it declares none.
    pub(crate) declared: Option<BTreeMap<String, Declaration>>,
    /// Bytes that placeholders may still become.
    bytes_left: Cell<usize>,
}

/// A text whose placeholders are replaced.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Filled {
    pub(crate) value: Value,
    /// A sample stands for a value that is not known yet.
    pub(crate) is_sample: bool,
    /// All that is not known is declared as something that is written like its sample, such as a number.
    pub(crate) is_typed: bool,
    /// Names of the inputs that it uses.
    pub(crate) used: Vec<String>,
}

impl Default for Filled {
    fn default() -> Self {
        Self { value: Value::Null, is_sample: false, is_typed: true, used: Vec::new() }
    }
}

/// A part of a text.
#[derive(Debug, PartialEq, Eq)]
enum Part<'a> {
    Text(&'a str),
    /// Path of an input's value, such as `["customer", "name"]`.
    Input(Vec<&'a str>),
}

impl Values {
    /// Makes values of which no placeholder has become one yet.
    pub(crate) fn new(known: Option<BTreeMap<String, Node>>) -> Self {
        Self { known, declared: None, bytes_left: Cell::new(VALUES_BYTES_MAX) }
    }

    /// Replaces the placeholders of a text. A text that is one placeholder becomes the value, with its
    /// type; elsewhere the value's text is inserted.
    ///
    /// # Errors
    /// The rule that a placeholder breaks.
    pub(crate) fn fill(&self, text: &str, place: Place) -> Result<Filled, String> {
        let mut filled = Filled::default();
        let parts = split(text)?;
        if let [Part::Input(path)] = parts.as_slice() {
            filled.value = self.value(path, place, &mut filled)?.value;
            return Ok(filled);
        }
        let mut whole = String::with_capacity(text.len());
        for part in &parts {
            match part {
                Part::Text(text) => whole.push_str(text),
                Part::Input(path) => match self.value(path, place, &mut filled)?.value {
                    Value::Text(value) | Value::Number(value) => whole.push_str(&value),
                    Value::Bool(value) => whole.push_str(&value.to_string()),
                    other => {
                        let name = path.join(".");
                        return Err(format!(
                            "must be ${{input.{name}}} and nothing else, because the value is {}",
                            other.kind()
                        ));
                    }
                },
            }
        }
        filled.value = Value::Text(whole);
        Ok(filled)
    }

    /// Tells whether some numbers in place of the samples make a text that is accepted, such as two digits where
    /// a time has its day. A text with many of them is accepted, because there is nothing that it cannot become.
    pub(crate) fn may_become(
        &self,
        text: &str,
        place: Place,
        accept: impl Fn(&str) -> bool,
    ) -> bool {
        let Ok(parts) = split(text) else { return false };
        let mut fixed = Vec::with_capacity(parts.len());
        for part in &parts {
            let mut filled = Filled::default();
            fixed.push(match part {
                Part::Text(text) => Some((*text).to_owned()),
                Part::Input(path) => match self.value(path, place, &mut filled) {
                    Ok(Node { value: Value::Number(_), .. }) if filled.is_sample => None,
                    Ok(Node { value: Value::Text(text) | Value::Number(text), .. }) => Some(text),
                    Ok(Node { value: Value::Bool(value), .. }) => Some(value.to_string()),
                    _ => return false,
                },
            });
        }
        let numbers = fixed.iter().filter(|part| part.is_none()).count();
        if numbers > NUMBERS_MAX {
            return true;
        }
        let combinations = 0..NUMBER_SAMPLES.len().pow(u32::try_from(numbers).unwrap_or(u32::MAX));
        combinations.into_iter().any(|mut chosen| {
            let mut text = String::new();
            for part in &fixed {
                text.push_str(part.as_deref().unwrap_or_else(|| {
                    let sample = NUMBER_SAMPLES[chosen % NUMBER_SAMPLES.len()];
                    chosen /= NUMBER_SAMPLES.len();
                    sample
                }));
            }
            accept(&text)
        })
    }

    fn value(&self, path: &[&str], place: Place, filled: &mut Filled) -> Result<Node, String> {
        let (name, rest) = path.split_first().map_or(("", &[][..]), |(name, rest)| (*name, rest));
        filled.used.push(name.to_owned());
        let declaration = self.declared.as_ref().map(|declared| match declared.get(name) {
            Some(declaration) => Ok(declaration),
            None => {
                let near = hint(name, declared.keys().map(String::as_str));
                Err(format!("must name an input that is declared, {name} is not{near}"))
            }
        });
        let declaration = declaration.transpose()?;
        let Some(mut value) = self.known.as_ref().and_then(|known| known.get(name)) else {
            filled.is_sample = true;
            let kind = declaration.map_or(Type::Any, |declaration| declaration.kind);
            if !rest.is_empty() && !matches!(kind, Type::Any | Type::Object) {
                return Err(format!("must not look into {name}, which is declared as no object"));
            }
            let value = if rest.is_empty() { kind.sample() } else { Type::Any.sample() };
            filled.is_typed &= rest.is_empty() && kind.has_one_form();
            return Ok(Node { place, value });
        };
        for (depth, field) in rest.iter().enumerate() {
            let entries = match &value.value {
                Value::Map(entries) => entries,
                other => return Err(missing(&path[..=depth], field, other.kind())),
            };
            let found = entries.get(field);
            let (_, inner) = found.ok_or_else(|| missing(&path[..=depth], field, "without it"))?;
            value = inner;
        }
        self.charge(&value.value)?;
        Ok(value.clone())
    }

    /// Counts a value before it is copied.
    fn charge(&self, value: &Value) -> Result<(), String> {
        let left = self.bytes_left.get();
        let after = left.saturating_sub(value.bytes(left + 1));
        self.bytes_left.set(after);
        if after == 0 {
            return Err(format!(
                "must not be so large: the values of all placeholders have more than {VALUES_BYTES_MAX} \
                 bytes together"
            ));
        }
        Ok(())
    }
}

/// Reads a text in which no placeholder is replaced.
///
/// # Errors
/// The rule that the text breaks.
pub(crate) fn plain(text: &str) -> Result<String, String> {
    let part = |part: Part<'_>| match part {
        Part::Text(text) => Ok(text.to_owned()),
        Part::Input(path) => {
            let name = path.join(".");
            Err(format!(
                "must have no placeholder, has ${{input.{name}}}, which is not replaced here; write $${{ \
                 for the text ${{"
            ))
        }
    };
    split(text)?.into_iter().map(part).collect()
}

fn missing(path: &[&str], field: &str, found: &str) -> String {
    format!("needs {field} in the input {}, which is {found}", path.join("."))
}

/// Splits a text at its placeholders. `$${` is the text `${`.
fn split(text: &str) -> Result<Vec<Part<'_>>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            parts.push(Part::Text(&rest[..at - 1]));
            parts.push(Part::Text("${"));
            rest = &rest[at + 2..];
            continue;
        }
        if at > 0 {
            parts.push(Part::Text(&rest[..at]));
        }
        let inner = &rest[at + 2..];
        let end = inner.find('}').ok_or("must close each ${ with }; write $${ for the text ${")?;
        parts.push(Part::Input(path_of(&inner[..end])?));
        rest = &inner[end + 1..];
    }
    if !rest.is_empty() || parts.is_empty() {
        parts.push(Part::Text(rest));
    }
    Ok(parts)
}

fn path_of(placeholder: &str) -> Result<Vec<&str>, String> {
    let rule = || format!("must have placeholders such as ${{input.NAME}}, has ${{{placeholder}}}");
    let path = placeholder.trim().strip_prefix("input.").ok_or_else(rule)?;
    let names: Vec<_> = path.split('.').collect();
    let is_name = |name: &&str| is_input_name(name);
    if names.iter().all(is_name) { Ok(names) } else { Err(rule()) }
}

/// Tells whether a text can be the name of an input.
pub(crate) fn is_input_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree;

    fn fill(text: &str) -> Result<String, String> {
        let Value::Map(entries) =
            tree::parse("f", "{a: 5, n: 1.50, o: {b: [1, x]}, t: \"it's\"}").expect("inputs").value
        else {
            panic!("an object")
        };
        let known = entries.into_iter().map(|(key, node)| (key.name, node)).collect();
        let values = Values::new(Some(known));
        let place = Place { line: 1, column: 1 };
        values.fill(text, place).map(|filled| filled.value.to_json())
    }

    #[test]
    fn a_placeholder_alone_keeps_its_type_and_others_become_text() {
        for (text, expected) in [
            ("${input.a}", "5"),
            ("${ input.n }", "1.50"),
            ("${input.o}", r#"{"b":[1,"x"]}"#),
            ("${input.o.b}", r#"[1,"x"]"#),
            ("account:${input.a}-${input.t}", r#""account:5-it's""#),
            ("cost $5, $${input.a}, $", r#""cost $5, ${input.a}, $""#),
            ("", r#""""#),
        ] {
            assert_eq!(fill(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_replaced_holds_no_placeholder() {
        assert_eq!(plain("image/png").as_deref(), Ok("image/png"));
        assert_eq!(plain("$${input.a} costs $5").as_deref(), Ok("${input.a} costs $5"));
        assert!(
            plain("a ${input.a}").expect_err("one").starts_with("must have no placeholder, has $")
        );
        assert!(plain("${a}").is_err());
    }

    /// A short text can name a large value many times.
    #[test]
    fn the_values_of_placeholders_have_a_bound_together() {
        let large = Value::Text("x".repeat(1 << 20));
        let place = Place { line: 1, column: 1 };
        let known = BTreeMap::from([("a".to_owned(), Node { place, value: large })]);
        let values = Values::new(Some(known));
        for _ in 0..7 {
            assert!(values.fill("${input.a}", place).is_ok());
        }
        let refused = values.fill("${input.a}", place).expect_err("more than a file may have");
        assert!(refused.contains("have more than 8388608 bytes together"), "{refused}");
    }

    #[test]
    fn a_wrong_placeholder_is_told() {
        for (text, expected) in [
            ("${a}", "must have placeholders such as ${input.NAME}, has ${a}"),
            ("${input.}", "must have placeholders such as ${input.NAME}, has ${input.}"),
            ("x ${input.a", "must close each ${ with }; write $${ for the text ${"),
            ("x ${input.o}", "must be ${input.o} and nothing else, because the value is an object"),
            ("${input.o.c}", "needs c in the input o, which is without it"),
            ("${input.a.c}", "needs c in the input a, which is a number"),
        ] {
            assert_eq!(fill(text), Err(expected.to_owned()), "{text}");
        }
    }
}
