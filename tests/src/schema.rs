//! Check of JSON against a schema of ours: the part of JSON Schema that our descriptions use, and stricter in one thing.
//! A field that the schema does not have is wrong, although a receiver passes over it: it would be missing there.

use serde_json::{Map, Value};

/// Returns what is wrong with a value, by its place. `document` has the schemas that are referred to.
#[must_use]
pub fn wrong(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    look(document, schema, value, "$", &mut found);
    found
}

fn look(document: &Value, schema: &Value, value: &Value, place: &str, found: &mut Vec<String>) {
    if let Some(path) = schema["$ref"].as_str() {
        let path = path.strip_prefix('#').expect("a reference into the document");
        let schema = document.pointer(path).unwrap_or_else(|| panic!("no {path}"));
        return look(document, schema, value, place, found);
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        other => panic!("{place}: a schema has a type, and this has {other}"),
    };
    let own = match value {
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::Null => "null",
    };
    if !types.contains(&own) {
        found.push(format!("{place}: {value} is none of {types:?}"));
        return;
    }
    if let Some(values) = schema["enum"].as_array()
        && !values.contains(value)
    {
        found.push(format!("{place}: {value} is none of {values:?}"));
    }
    match value {
        Value::Object(fields) => look_at_fields(document, schema, fields, place, found),
        Value::Array(items) => {
            for (number, item) in items.iter().enumerate() {
                look(document, &schema["items"], item, &format!("{place}[{number}]"), found);
            }
        }
        _ => {}
    }
}

fn look_at_fields(
    document: &Value,
    schema: &Value,
    fields: &Map<String, Value>,
    place: &str,
    found: &mut Vec<String>,
) {
    for name in schema["required"].as_array().into_iter().flatten() {
        if !fields.contains_key(name.as_str().expect("a name")) {
            found.push(format!("{place}: {name} is missing"));
        }
    }
    for (name, value) in fields {
        let place = format!("{place}.{name}");
        match schema["properties"].get(name) {
            Some(schema) => look(document, schema, value, &place, found),
            None if schema["additionalProperties"].is_object() => {
                look(document, &schema["additionalProperties"], value, &place, found);
            }
            None => found.push(format!("{place} is no field")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_is_found() {
        let document = json!({ "of": { "B": { "type": "string", "enum": ["x"] } } });
        let schema = json!({ "type": "object", "required": ["a"], "properties": {
            "a": { "type": ["string", "integer"] },
            "b": { "$ref": "#/of/B" },
            "c": { "type": "array", "items": { "type": "boolean" } },
            "d": { "type": "object", "additionalProperties": { "type": "integer" } },
        } });
        let good = json!({ "a": "1", "b": "x", "c": [true], "d": { "any": 1 } });
        assert_eq!(wrong(&document, &schema, &good), [""; 0]);
        let bad = json!({ "b": "y", "c": [1], "d": { "any": "1" }, "e": null });
        let found = wrong(&document, &schema, &bad);
        for place in ["$: \"a\" is missing", "$.b: ", "$.c[0]: ", "$.d.any: ", "$.e is no field"] {
            assert!(found.iter().any(|one| one.starts_with(place)), "{place}: {found:?}");
        }
        assert_eq!(found.len(), 5, "{found:?}");
    }
}
