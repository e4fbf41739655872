//! `values.schema.json`, with which Helm refuses a value that is misspelt or of another kind.

use anyhow::{Result, bail};
use serde_json::{Map, Value as Json, json};

use super::values::{Kind, Value};

/// Settings for which the chart has values of its own.
const OWN: [&str; 15] = [
    "admin-listen",
    "database-url",
    "endpoint-allow",
    "identities",
    "insecure",
    "listen",
    "node",
    "participant-tls-ca",
    "participant-tls-cert",
    "participant-tls-key",
    "participant-tokens",
    "participants",
    "tls-cert",
    "tls-client-ca",
    "tls-key",
];

/// Takes the keys of settings from their reference page, without those of [`OWN`].
pub(super) fn settings(page: &str) -> Result<Vec<String>> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let keys: Vec<&str> = rows.filter_map(|row| row.split('`').next()).collect();
    if let Some(own) = OWN.iter().find(|own| !keys.contains(own)) {
        bail!("there is no setting {own} any more: the chart has a value for it");
    }
    Ok(keys.into_iter().filter(|key| !OWN.contains(key)).map(str::to_owned).collect())
}

/// Makes the schema.
pub(super) fn schema(values: &[Value], settings: &[String]) -> String {
    let mut root = section(values, "");
    root["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    root["properties"]["settings"] = json!({
        "type": "object",
        "description": root["properties"]["settings"]["description"],
        "propertyNames": { "enum": settings },
        "additionalProperties": { "type": ["string", "integer", "boolean"] },
    });
    // Values for the charts of which this one is a part.
    root["properties"]["global"] = json!({ "type": "object" });
    format!("{root:#}\n")
}

/// Makes the schema of the values of a section; that of the root has an empty path.
fn section(values: &[Value], path: &str) -> Json {
    let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
    let mut properties = Map::new();
    for value in values {
        let Some(name) = value.path.strip_prefix(&prefix) else { continue };
        if name.contains('.') {
            continue;
        }
        let kind = match value.kind {
            Kind::Section => {
                properties.insert(name.to_owned(), section(values, &value.path));
                continue;
            }
            Kind::Text => json!({ "type": "string" }),
            Kind::Number => json!({ "type": "integer", "minimum": 0 }),
            Kind::Flag => json!({ "type": "boolean" }),
            Kind::Map => json!({ "type": "object" }),
            Kind::List => json!({ "type": "array" }),
        };
        let mut property = kind;
        property["description"] = json!(value.about);
        properties.insert(name.to_owned(), property);
    }
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}
