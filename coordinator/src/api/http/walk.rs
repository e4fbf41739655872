//! Look at JSON before a message is made of it.
//!
//! A message in memory is many times as large as `{}`, so values are counted first. And a field that is there twice, or is
//! none, must not be passed over.

use std::collections::HashSet;
use std::fmt;

use prost_reflect::{Cardinality, Kind, MessageDescriptor};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use unanimo_core::Violation;
use unanimo_proto::ELEMENTS_MAX;

/// State of a look.
#[derive(Debug, Default)]
pub(super) struct Walk {
    values: usize,
    /// Steps to the value that is looked at.
    path: Vec<String>,
    /// The field that was found to be wrong, and the rule that it breaks.
    pub(super) bad: Option<Violation>,
}

/// Meaning of a value: of the fields of an object.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    /// A message, or a list of them.
    Message(MessageDescriptor),
    /// A map with such values.
    Map(Box<Shape>),
    /// Anything else.
    Other,
}

impl Shape {
    fn of(kind: &Kind) -> Self {
        match kind {
            Kind::Message(message) if message.full_name().starts_with("google.protobuf.") => {
                Self::Other
            }
            Kind::Message(message) if message.is_map_entry() => {
                let value = Self::of(&message.map_entry_value_field().kind());
                Self::Map(Box::new(value))
            }
            Kind::Message(message) => Self::Message(message.clone()),
            _ => Self::Other,
        }
    }
}

/// Value that is looked at.
pub(super) struct Look<'a> {
    pub(super) shape: Shape,
    pub(super) is_list: bool,
    pub(super) walk: &'a mut Walk,
}

impl Walk {
    fn place(&self) -> String {
        self.path.concat().trim_start_matches('.').to_owned()
    }

    fn refuse<E: de::Error>(&mut self, field: String, rule: impl Into<String>) -> E {
        let bad = self.bad.get_or_insert_with(|| Violation::new(field, rule));
        E::custom(bad.to_string())
    }

    fn count<E: de::Error>(&mut self) -> Result<(), E> {
        self.values += 1;
        if self.values > ELEMENTS_MAX {
            let rule = format!(
                "must not have so many elements: a message may have {ELEMENTS_MAX} of all kinds"
            );
            let place = self.path.first().map_or("the body", |first| first.trim_matches('.'));
            return Err(self.refuse(place.to_owned(), rule));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Look<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.walk.count()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Look<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self { shape, is_list, walk } = self;
        for number in 0.. {
            walk.path.push(format!("[{number}]"));
            // A list where none is wanted is refused when the message is made.
            let shape = if is_list { shape.clone() } else { Shape::Other };
            let next = seq.next_element_seed(Look { shape, is_list: false, walk: &mut *walk })?;
            walk.path.pop();
            if next.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { shape, walk, .. } = self;
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let place = format!("{}.{key}", walk.place());
            let place = place.trim_start_matches('.').to_owned();
            // One field has two spellings.
            let (name, inner, is_list) = match &shape {
                Shape::Message(message) => {
                    let by_name = || message.get_field_by_name(&key);
                    match message.get_field_by_json_name(&key).or_else(by_name) {
                        None => {
                            let of = message.name();
                            return Err(walk.refuse(place, format!("is no field of {of}")));
                        }
                        Some(field) => {
                            let is_list = field.cardinality() == Cardinality::Repeated;
                            (field.name().to_owned(), Shape::of(&field.kind()), is_list)
                        }
                    }
                }
                Shape::Map(value) => (key.clone(), (**value).clone(), false),
                Shape::Other => (key.clone(), Shape::Other, false),
            };
            if !seen.insert(name) {
                return Err(walk.refuse(place, "must not be there twice"));
            }
            walk.path.push(format!(".{key}"));
            map.next_value_seed(Look { shape: inner, is_list, walk: &mut *walk })?;
            walk.path.pop();
        }
        Ok(())
    }
}
