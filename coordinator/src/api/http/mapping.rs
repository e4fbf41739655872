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
        let wanted =
            wanted(message, &path).map_or_else(String::new, |is| format!("; it must be {is}"));
        Violation::new(field, format!("cannot be read: {error}{wanted}"))
    })
}

/// Tells of a field what it can be, where its name does not tell.
fn wanted(message: &MessageDescriptor, path: &str) -> Option<String> {
    let (mut of, mut kind) = (message.clone(), None);
    for part in path.split('.') {
        let name = part.split('[').next()?;
        let by_name = || of.get_field_by_name(name);
        let field = of.get_field_by_json_name(name).or_else(by_name)?;
        kind = Some(field.kind());
        if let Some(Kind::Message(inner)) = &kind {
            of = inner.clone();
        }
    }
    match kind? {
        Kind::Enum(of) => {
            let names = of.values().filter(|value| value.number() != 0);
            let names: Vec<_> = names.map(|value| value.name().to_owned()).collect();
            Some(format!("one of {}", names.join(", ")))
        }
        Kind::Message(of) => match of.full_name() {
            "google.protobuf.Duration" => Some("seconds as a text, such as \"1.5s\"".to_owned()),
            "google.protobuf.Timestamp" => {
                Some("a time as a text, such as \"2026-01-31T12:00:00Z\"".to_owned())
            }
            _ => None,
        },
        Kind::Uint32 | Kind::Uint64 => Some("a whole number, 0 or more".to_owned()),
        _ => None,
    }
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
        let (of, key) = keyed(&name);
        let by_name = || message.get_field_by_name(of);
        let Some(field) = message.get_field_by_json_name(of).or_else(by_name) else {
            return Err(Violation::new(name, format!("is no field of {}", message.name())));
        };
        if field.is_map() {
            let Some(key) = key.map(str::to_owned) else {
                let rule = format!("must name a key: {of}[KEY]=VALUE");
                return Err(Violation::new(name, rule));
            };
            let map = fields.entry(field.json_name().to_owned());
            let map = map.or_insert_with(|| serde_json::Map::new().into()).as_object_mut();
            if map.expect("it is a map").insert(key, text.into()).is_some() {
                return Err(Violation::new(name, "must not be there twice"));
            }
            continue;
        }
        if key.is_some() {
            let rule = format!("must have no key: {of} is no map");
            return Err(Violation::new(name, rule));
        }
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

/// Parts a name of a query into the field and, for a map, the key in brackets.
fn keyed(name: &str) -> (&str, Option<&str>) {
    let parts = name.strip_suffix(']').and_then(|name| name.split_once('['));
    parts.map_or((name, None), |(of, key)| (of, Some(key)))
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

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_reflect::MapKey;

    use super::super::descriptors::POOL;
    use super::*;

    /// Numbers that look random.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            // SplitMix64.
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        fn below(&mut self, end: u64) -> u64 {
            self.next() % end
        }

        fn text(&mut self) -> String {
            const PARTS: [&str; 8] =
                ["a", "B9", "\u{e4}", "\u{1f980}", "\"", "\\", "\u{0}\n", "</script>"];
            (0..self.below(6))
                .map(|_| PARTS[usize::try_from(self.below(8)).expect("few")])
                .collect()
        }

        fn value(&mut self, kind: &Kind, depth: u32) -> Value {
            match kind {
                Kind::Bool => Value::Bool(self.below(2) == 1),
                Kind::String => Value::String(self.text()),
                Kind::Bytes => Value::Bytes(self.text().into_bytes().into()),
                Kind::Uint32 => Value::U32(u32::try_from(self.next() >> 32).expect("32 bits")),
                Kind::Uint64 => Value::U64(self.next()),
                Kind::Int32 => Value::I32((self.next() >> 33).try_into().expect("31 bits")),
                Kind::Int64 => {
                    Value::I64(i64::MIN / 2 + i64::try_from(self.next() >> 1).expect("63 bits"))
                }
                // One that nobody knows, at times.
                Kind::Enum(_) => Value::EnumNumber(self.below(40).try_into().expect("few")),
                Kind::Message(message) => Value::Message(self.message(message, depth + 1)),
                other => panic!("the contract has no {other:?}"),
            }
        }

        fn message(&mut self, of: &MessageDescriptor, depth: u32) -> DynamicMessage {
            let mut message = DynamicMessage::new(of.clone());
            let of_time = of.full_name().starts_with("google.protobuf.");
            if of_time {
                let seconds = i64::try_from(self.below(4_000_000_000)).expect("few");
                message.set_field_by_name("seconds", Value::I64(seconds));
                let nanos = self.below(1_000_000_000).try_into().expect("few");
                message.set_field_by_name("nanos", Value::I32(nanos));
                return message;
            }
            for field in of.fields() {
                let is_deep = depth > 4 && matches!(field.kind(), Kind::Message(_));
                if is_deep || self.below(3) == 0 {
                    continue;
                }
                let kind = field.kind();
                if let (true, Kind::Message(entry)) = (field.is_map(), &kind) {
                    let of = entry.map_entry_value_field().kind();
                    let pairs = (0..self.below(3))
                        .map(|_| (MapKey::String(self.text()), self.value(&of, depth)));
                    message.set_field(&field, Value::Map(pairs.collect()));
                } else if field.is_list() {
                    let values = (0..self.below(3)).map(|_| self.value(&kind, depth));
                    message.set_field(&field, Value::List(values.collect()));
                } else {
                    let value = self.value(&kind, depth);
                    message.set_field(&field, value);
                }
            }
            message
        }
    }

    /// Every message of every rpc comes back from JSON as it was.
    #[test]
    fn a_message_comes_back_from_json() {
        let mut random = Random(14);
        let methods: Vec<_> =
            POOL.services().flat_map(|service| service.methods().collect::<Vec<_>>()).collect();
        for of in methods.iter().flat_map(|method| [method.input(), method.output()]) {
            for _ in 0..40 {
                let message = random.message(&of, 0);
                let plain = |message: &DynamicMessage| {
                    // A default that was set is one that was not.
                    DynamicMessage::decode(of.clone(), message.encode_to_vec().as_slice())
                };
                let json = write(&of, &message.encode_to_vec()).expect("it can be written");
                let text = String::from_utf8_lossy(&json).into_owned();
                let read = read(&of, &json, &[]).unwrap_or_else(|bad| panic!("{bad} in {text}"));
                assert_eq!(plain(&read), plain(&message), "{text}");
            }
        }
    }
}
