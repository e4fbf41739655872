//! The JSON Schema of a definition, for editors. It is made from the table of fields, and knows the
//! shape only: rules about the order of steps are the reader's.

use serde_json::{Map, Value, json};

use crate::fields::{Field, Form, Object};
use crate::wire;

/// Address of the published schema.
pub const SCHEMA_URL: &str =
    "https://raw.githubusercontent.com/unanimo-tx/unanimo/main/docs/reference/saga.schema.json";

/// Returns the JSON Schema (2020-12) of a definition, as a text with line ends.
#[must_use]
pub fn schema() -> String {
    let mut defs = Map::new();
    for object in Object::ALL {
        if object != Object::Saga {
            defs.insert(object.name().to_owned(), of_object(object));
        }
    }
    let mut root = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_URL,
        "title": "Definition of a saga",
        "description": "For `unanimo saga`; docs/saga-definitions.md explains it",
    });
    let parts = [of_object(Object::Saga), json!({ "$defs": defs })];
    if let Value::Object(root) = &mut root {
        root.extend(
            parts
                .into_iter()
                .filter_map(|part| match part {
                    Value::Object(part) => Some(part),
                    _ => None,
                })
                .flatten(),
        );
    }
    let text = serde_json::to_string_pretty(&root).expect("texts, numbers and lists of them");
    text + "\n"
}

fn of_object(object: Object) -> Value {
    let properties: Map<_, _> =
        object.fields().iter().map(|field| (field.name.to_owned(), of_field(field))).collect();
    let mut schema = json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    if !object.required().is_empty() {
        schema["required"] = json!(object.required());
    }
    match object {
        Object::Step => {
            schema["oneOf"] = json!([
                { "required": ["participant", "action"] },
                { "required": ["child"] },
            ]);
            let excluded = |names: &[&str]| {
                let none = |name: &&str| json!({ "required": [name] });
                json!({ "not": { "anyOf": names.iter().map(none).collect::<Vec<_>>() } })
            };
            schema["dependentSchemas"] = json!({
                "child": excluded(&wire::NOT_WITH_CHILD),
                "payload": excluded(&["payload_base64"]),
            });
        }
        Object::Saga => {
            schema["dependentSchemas"] =
                json!({ "start_at": { "not": { "required": ["start_delay"] } } });
        }
        Object::Child | Object::Retry | Object::Lock | Object::Input => {}
    }
    schema
}

fn of_field(field: &Field) -> Value {
    let mut schema = of_form(field.form);
    schema["description"] = field.help.into();
    schema
}

fn reference(object: Object) -> Value {
    json!({ "$ref": format!("#/$defs/{}", object.name()) })
}

/// Pattern of a name of so many bytes; see `unanimo_core::ids`.
fn name(max: usize) -> Value {
    let pattern = format!("^[A-Za-z0-9_][A-Za-z0-9_.:-]{{0,{}}}$", max - 1);
    json!({ "type": "string", "pattern": pattern })
}

fn of_form(form: Form) -> Value {
    use unanimo_core::ids::{ID_BYTES_MAX, NAME_BYTES_MAX};
    match form {
        Form::Text => json!({ "type": "string" }),
        Form::Name => name(NAME_BYTES_MAX),
        Form::Duration => json!({ "type": "string", "examples": ["250ms", "15s", "1h 30m"] }),
        Form::Time => json!({ "type": "string", "examples": ["2026-01-31T12:00:00Z"] }),
        Form::Flag => json!({ "type": "boolean" }),
        Form::Count => json!({ "type": "integer", "minimum": 1, "maximum": u32::MAX }),
        Form::Json => json!({}),
        Form::Base64 => json!({ "type": "string", "contentEncoding": "base64" }),
        Form::Choice(words) => json!({ "enum": words }),
        Form::Object(object) => reference(object),
        Form::Ids => {
            let id = name(ID_BYTES_MAX);
            json!({ "anyOf": [id, { "type": "array", "items": id, "uniqueItems": true }] })
        }
        Form::Locks => {
            let lock =
                json!({ "anyOf": [{ "type": "string", "minLength": 1 }, reference(Object::Lock)] });
            json!({ "type": "array", "items": lock, "maxItems": 16 })
        }
        Form::Texts => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        Form::Inputs => json!({
            "type": "object",
            "propertyNames": name(NAME_BYTES_MAX),
            "additionalProperties": name(ID_BYTES_MAX),
        }),
        Form::Declarations => {
            let kind = json!({ "enum": crate::fields::TYPES });
            json!({
                "type": "object",
                "propertyNames": { "pattern": "^[A-Za-z0-9_-]+$" },
                "additionalProperties": { "anyOf": [kind, reference(Object::Input)] },
            })
        }
        Form::Steps => json!({
            "type": "object",
            "propertyNames": name(ID_BYTES_MAX),
            "additionalProperties": reference(Object::Step),
            "minProperties": 1,
            "maxProperties": unanimo_core::Limits::default().branches_max,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::definition::SagaFile;
    use crate::tree;

    fn validator() -> jsonschema::Validator {
        let schema: Value = serde_json::from_str(&schema()).expect("JSON");
        jsonschema::draft202012::meta::validate(&schema).expect("a schema");
        jsonschema::draft202012::new(&schema).expect("a schema")
    }

    fn instance(text: &str) -> Value {
        let node = tree::parse("f", text).expect("YAML");
        serde_json::from_str(&node.value.to_json()).expect("JSON")
    }

    /// Returns the definitions in a folder and in those below it.
    fn definitions(folder: &Path) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            let is_yaml =
                path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
            if path.is_dir() {
                found.extend(definitions(&path));
            } else if is_yaml {
                let text = std::fs::read_to_string(&path).expect("a text");
                found.push((path.display().to_string(), text));
            }
        }
        found
    }

    #[test]
    fn the_schema_accepts_every_definition_without_mistakes() {
        let validator = validator();
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let own = definitions(&here.join("tests/definitions"));
        assert!(own.len() >= 2);
        // The examples are not in the package of this crate.
        for (file, text) in own.into_iter().chain(definitions(&here.join("../../examples/sagas"))) {
            if let Err(problems) = SagaFile::parse(&file, &text) {
                panic!("{problems}");
            }
            let errors: Vec<_> =
                validator.iter_errors(&instance(&text)).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{file}: {errors:?}");
        }
    }

    #[test]
    fn the_schema_refuses_what_has_a_wrong_shape() {
        let validator = validator();
        let with = |step: &str| format!("{{saga: a, steps: {{s: {{{step}}}}}}}");
        let good = "participant: p, action: a";
        assert!(validator.is_valid(&instance(&with(good))));
        let many: String = (0..65).map(|at| format!("s{at}: {{{good}}}, ")).collect();
        for text in [
            "{saga: a}".to_owned(),
            "{steps: {s: {participant: p, action: a}}}".to_owned(),
            "{saga: a, steps: {}}".to_owned(),
            "{saga: a b, steps: {s: {participant: p, action: a}}}".to_owned(),
            "{saga: -a, steps: {s: {participant: p, action: a}}}".to_owned(),
            with(&format!("{good}, locks: [{{name: 1}}]")),
            format!("{{saga: a, steps: {{{many}}}}}"),
            format!("{{saga: a, steps: {{'s s': {{{good}}}}}}}"),
            format!("{{saga: a, steps: {{s: {{{good}}}}}, start_at: x, start_delay: y}}"),
            format!("{{saga: a, steps: {{s: {{{good}}}}}, input: {{x: text}}}}"),
            with("participant: p"),
            with(&format!("{good}, acton: a")),
            with(&format!("{good}, pivot: yes")),
            with(&format!("{good}, mode: xa")),
            with(&format!("{good}, after: 1")),
            with(&format!("{good}, retry: {{attempts: 0}}")),
            with(&format!("{good}, retry: {{tries: 1}}")),
            with(&format!("{good}, locks: [{{mode: shared}}]")),
            with(&format!("{good}, payload: 1, payload_base64: YQ==")),
            with(&format!("{good}, child: {{steps: {{t: {{{good}}}}}}}")),
            with("child: {steps: {}}"),
            format!(
                "{{saga: a, steps: {{t: {{{good}}}, s: {{child: {{steps: {{t: {{{good}}}}}}}, after: [t], inputs: {{o: t}}}}}}}}"
            ),
        ] {
            assert!(!validator.is_valid(&instance(&text)), "{text}");
            assert!(SagaFile::parse("f", &text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_field_of_the_table_is_read() {
        // A field that is in the table and that nobody reads would be silently ignored: the
        // definitions of the tests use each, and the reader has a name for each.
        let source = [
            include_str!("reader.rs"),
            include_str!("reader/step.rs"),
            include_str!("reader/parts.rs"),
        ]
        .concat();
        for field in Object::ALL.into_iter().flat_map(Object::fields) {
            let is_read = source.contains(&format!("\"{}\"", field.name));
            assert!(is_read || field.name == "$schema", "{}", field.name);
        }
    }
}
