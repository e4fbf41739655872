//! JSON Schemas of the contract's messages.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor};
use serde_json::{Map, Value, json};

use super::descriptors::POOL;

/// Comments of the contract, by file and place.
pub(super) struct Comments(HashMap<(String, Vec<i32>), String>);

impl Comments {
    pub(super) fn new() -> Self {
        let locations = POOL.file_descriptor_protos().flat_map(|file| {
            let info = file.source_code_info.iter();
            info.flat_map(|info| &info.location).map(|location| (file.name().to_owned(), location))
        });
        Self(
            locations
                .map(|(file, of)| ((file, of.path.clone()), plain(of.leading_comments())))
                .collect(),
        )
    }

    fn at(&self, file: &str, path: &[i32]) -> String {
        self.0.get(&(file.to_owned(), path.to_vec())).cloned().unwrap_or_default()
    }

    pub(super) fn of_method(&self, method: &MethodDescriptor) -> String {
        self.at(method.parent_file().name(), method.path())
    }

    pub(super) fn of_field(&self, field: &FieldDescriptor) -> String {
        let text = self.at(field.parent_file().name(), field.path());
        match field.containing_oneof().filter(|oneof| oneof.fields().len() > 1) {
            None => text,
            Some(oneof) => {
                let names: Vec<_> = oneof.fields().map(|f| f.json_name().to_owned()).collect();
                format!("{text} One of {} is given.", names.join(" and ")).trim_start().to_owned()
            }
        }
    }

    fn of_message(&self, message: &MessageDescriptor) -> String {
        self.at(message.parent_file().name(), message.path())
    }

    fn of_enum(&self, of: &EnumDescriptor) -> String {
        let file = of.parent_file();
        let values = of
            .values()
            .map(|value| format!("- `{}`: {}", value.name(), self.at(file.name(), value.path())));
        let values: Vec<_> = values.collect();
        format!("{}\n\n{}", self.at(file.name(), of.path()), values.join("\n"))
    }
}

/// Joins the lines of a comment.
fn plain(comment: &str) -> String {
    let paragraphs = comment.trim().split("\n\n");
    let joined = paragraphs.map(|text| text.lines().map(str::trim).collect::<Vec<_>>().join(" "));
    joined.collect::<Vec<_>>().join("\n\n")
}

/// Returns the first sentence of a text.
pub(super) fn first_sentence(text: &str) -> &str {
    text.split_inclusive(". ").next().unwrap_or(text).trim_end()
}

/// Makes the reference of a schema.
pub(super) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// Messages and enums that are referred to.
#[derive(Debug, Default)]
pub(super) struct Used {
    messages: BTreeMap<String, MessageDescriptor>,
    enums: BTreeMap<String, EnumDescriptor>,
}

impl Used {
    /// Returns the schemas of all that are referred to, also by one another.
    pub(super) fn schemas(mut self, comments: &Comments) -> Map<String, Value> {
        let (mut schemas, mut done) = (Map::new(), BTreeSet::new());
        while let Some(message) = self.messages.values().find(|m| !done.contains(m.name())) {
            let message = message.clone();
            done.insert(message.name().to_owned());
            let fields: Vec<_> = message.fields().collect();
            let mut schema = object(&fields, comments, &mut self);
            schema["description"] = comments.of_message(&message).into();
            schemas.insert(message.name().to_owned(), schema);
        }
        for (name, of) in &self.enums {
            let values: Vec<_> = of.values().map(|value| value.name().to_owned()).collect();
            let description = comments.of_enum(of);
            let schema = json!({ "type": "string", "enum": values, "description": description });
            schemas.insert(name.clone(), schema);
        }
        schemas
    }

    pub(super) fn of_message(&mut self, message: &MessageDescriptor) -> Value {
        match message.full_name() {
            "google.protobuf.Timestamp" => json!({ "type": "string", "format": "date-time" }),
            "google.protobuf.Duration" => json!({
                "type": "string", "pattern": "^-?[0-9]+(\\.[0-9]{1,9})?s$", "examples": ["1.5s"],
            }),
            _ => {
                self.messages.insert(message.name().to_owned(), message.clone());
                reference(message.name())
            }
        }
    }

    fn of_kind(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::Bool => json!({ "type": "boolean" }),
            Kind::String => json!({ "type": "string" }),
            Kind::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
            Kind::Double | Kind::Float => json!({ "type": "number" }),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                json!({ "type": ["string", "integer"], "format": "int64" })
            }
            Kind::Uint64 | Kind::Fixed64 => {
                json!({ "type": ["string", "integer"], "format": "uint64" })
            }
            Kind::Uint32 | Kind::Fixed32 => {
                json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX })
            }
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({ "type": "integer" }),
            Kind::Message(message) => self.of_message(message),
            Kind::Enum(of) => {
                self.enums.insert(of.name().to_owned(), of.clone());
                reference(of.name())
            }
        }
    }

    pub(super) fn of_field(&mut self, field: &FieldDescriptor) -> Value {
        match field.kind() {
            Kind::Message(entry) if entry.is_map_entry() => {
                let values = self.of_kind(&entry.map_entry_value_field().kind());
                json!({ "type": "object", "additionalProperties": values })
            }
            kind if field.is_list() => json!({ "type": "array", "items": self.of_kind(&kind) }),
            kind => self.of_kind(&kind),
        }
    }
}

/// Makes the schema of an object with these fields.
pub(super) fn object(fields: &[FieldDescriptor], comments: &Comments, used: &mut Used) -> Value {
    let properties = fields.iter().map(|field| {
        let mut schema = used.of_field(field);
        schema["description"] = comments.of_field(field).into();
        (field.json_name().to_owned(), schema)
    });
    let properties: Map<_, _> = properties.collect();
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}
