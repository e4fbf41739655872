//! Defaults of the settings, as the documentation has them.

use serde::Serialize;

/// Formats a default for the documentation, the same on every machine.
pub(super) fn documented(name: &str, default: &impl Serialize) -> String {
    match name {
        "node" => "the host's name".to_owned(),
        _ => to_toml(default),
    }
}

/// Formats a value as in the file.
fn to_toml(value: &impl Serialize) -> String {
    let value = toml::Value::try_from(value).expect("settings have plain values");
    value.to_string()
}
