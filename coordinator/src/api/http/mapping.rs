//! The contract's JSON mapping, by its descriptors.

use prost_reflect::{DeserializeOptions, DynamicMessage, Kind, MessageDescriptor, Value};
use serde::de::{DeserializeSeed, Deserializer};
use unanimo_core::Violation;

use super::table::decoded;
use super::walk::{Look, Shape, Walk};

/// Name of the body in an error about all of it.
const BODY: &str = "the body";

/// Reads a message from JSON, and takes these fields from the path. Nothing at all is a message without fields.
pub(super) fn read(
    message: &MessageDescriptor,
    json: &[u8],
    of_path: &[(&'static str, String)],
) -> Result<DynamicMessage, Violation> {
    if json.trim_ascii().is_empty() {
        return with_path(DynamicMessage::new(message.clone()), of_path);
    }
    let mut walk = Walk::default();
    let look = Look { shape: Shape::Message(message.clone()), is_list: false, walk: &mut walk };
    let mut reader = serde_json::Deserializer::from_slice(json);
    let looked = look.deserialize(&mut reader).and_then(|()| reader.end());
    match (looked, walk.bad) {
        (Ok(()), _) => {}
        (Err(error), Some(bad)) => return Err(at(bad, &error)),
        (Err(error), None) => {
            return Err(Violation::new(BODY, format!("must be JSON: {error}")));
        }
    }
    let read = made(message, &mut serde_json::Deserializer::from_slice(json));
    with_path(read?, of_path)
}

/// Adds the place in the text to a rule.
fn at(bad: Violation, error: &serde_json::Error) -> Violation {
    let rule = format!("{} (line {}, column {})", bad.rule, error.line(), error.column());
    Violation::new(bad.field, rule)
}

/// Makes a message of what was looked at.
fn made<'de, D>(message: &MessageDescriptor, reader: D) -> Result<DynamicMessage, Violation>
where
    D: Deserializer<'de, Error = serde_json::Error>,
{
    let mut track = serde_path_to_error::Track::new();
    let reader = serde_path_to_error::Deserializer::new(reader, &mut track);
    let options = DeserializeOptions::new();
    let read = DynamicMessage::deserialize_with_options(message.clone(), reader, &options);
    read.map_err(|error| {
        let path = track.path().to_string();
        let field = if path == "." { BODY } else { path.as_str() };
        Violation::new(field, format!("cannot be read: {error}"))
    })
}

/// Reads a message from the query of an address, and its path.
pub(super) fn read_query(
    message: &MessageDescriptor,
    query: &str,
    of_path: &[(&'static str, String)],
) -> Result<DynamicMessage, Violation> {
    let mut fields = serde_json::Map::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, text) = part.split_once('=').unwrap_or((part, ""));
        let decoded = |text: &str| decoded(&text.replace('+', " "));
        let (Some(name), Some(text)) = (decoded(name), decoded(text)) else {
            return Err(Violation::new("the query", "must be UTF-8, percent-encoded"));
        };
        let by_name = || message.get_field_by_name(&name);
        let Some(field) = message.get_field_by_json_name(&name).or_else(by_name) else {
            return Err(Violation::new(name, format!("is no field of {}", message.name())));
        };
        let value = match field.kind() {
            Kind::Bool if text == "true" || text.is_empty() => true.into(),
            Kind::Bool if text == "false" => false.into(),
            _ => serde_json::Value::from(text),
        };
        let entry = fields.entry(field.json_name().to_owned());
        if field.is_list() {
            let list = entry.or_insert_with(|| serde_json::Value::Array(Vec::new()));
            list.as_array_mut().expect("it is a list").push(value);
        } else if let serde_json::map::Entry::Vacant(entry) = entry {
            entry.insert(value);
        } else {
            return Err(Violation::new(name, "must not be there twice"));
        }
    }
    with_path(made(message, serde_json::Value::Object(fields))?, of_path)
}

/// Sets the fields that are in the path, and nowhere else.
fn with_path(
    mut message: DynamicMessage,
    of_path: &[(&'static str, String)],
) -> Result<DynamicMessage, Violation> {
    use prost_reflect::ReflectMessage;
    for (name, text) in of_path {
        let descriptor = message.descriptor();
        let field = descriptor.get_field_by_name(name).expect("the table names fields");
        let rivals: Vec<_> = match field.containing_oneof() {
            Some(oneof) => oneof.fields().collect(),
            None => vec![field.clone()],
        };
        if let Some(rival) = rivals.iter().find(|rival| message.has_field(rival)) {
            let rule = format!("must be absent: the path has {name}");
            return Err(Violation::new(rival.name(), rule));
        }
        message.set_field(&field, Value::String(text.clone()));
    }
    Ok(message)
}

/// Writes a message as JSON.
pub(super) fn write(message: &MessageDescriptor, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let message = DynamicMessage::decode(message.clone(), bytes).map_err(|e| e.to_string())?;
    serde_json::to_vec(&message).map_err(|error| error.to_string())
}
