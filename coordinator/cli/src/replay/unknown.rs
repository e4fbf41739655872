//! Fields of a history that this version passes over.

use serde_json::Value;
use unanimo_core::history::Document;

/// Fields that are told. Whoever has more has another format.
const UNKNOWN_MAX: usize = 20;

/// Returns the paths of the fields of a text that are not in the document that was read of it.
pub(super) fn fields(text: &str, document: &Document) -> Vec<String> {
    let mut unknown = Vec::new();
    let values = (serde_json::from_str(text), serde_json::to_value(document));
    if let (Ok(written), Ok(understood)) = values {
        passed_over(&written, &understood, "", &mut unknown);
    }
    unknown
}

/// Finds the fields of a text that are not in what was understood of it. One that says nothing, such as `false`, may
/// be left out there, and so may the number of the first rules.
fn passed_over(written: &Value, understood: &Value, path: &str, found: &mut Vec<String>) {
    let says_nothing = |name: &str, value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        value => name == "rules" && path.ends_with(".settings") && *value == 0,
    };
    match (written, understood) {
        (Value::Object(written), Value::Object(understood)) => {
            for (name, value) in written {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match understood.get(name) {
                    Some(known) => passed_over(value, known, &path, found),
                    None if says_nothing(name, value) || found.len() >= UNKNOWN_MAX => {}
                    None => found.push(path),
                }
            }
        }
        (Value::Array(written), Value::Array(understood)) => {
            for (index, (value, known)) in written.iter().zip(understood).enumerate() {
                passed_over(value, known, &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_are_passed_over_are_told() {
        let unknown = |change: &dyn Fn(&mut Value)| {
            let mut value: Value =
                serde_json::from_str(include_str!("example.json")).expect("JSON");
            change(&mut value);
            let text = value.to_string();
            fields(&text, &serde_json::from_str(&text).expect("a history"))
        };
        assert_eq!(unknown(&|_| ()), [""; 0]);
        let found = unknown(&|document| {
            document["later"] = 1.into();
            document["branches"][1]["pivto"] = true.into();
            document["branches"][1]["pivot"] = false.into();
            document["branches"][1]["payload"]["media_type"] = "".into();
            document["entries"][0]["steps"][0]["input"]["begin"]["settings"]["rules"] = 0.into();
            document["entries"][2]["steps"][0]["rules"] = 0.into();
            document["entries"][2]["steps"][0]["wake"] = "up".into();
        });
        let steps = ["entries[2].steps[0].rules", "entries[2].steps[0].wake"];
        assert_eq!(found, ["branches[1].pivto", steps[0], steps[1], "later"]);
        let many = unknown(&|document| {
            for index in 0..30 {
                document[format!("later-{index}")] = 1.into();
            }
        });
        assert_eq!(many.len(), UNKNOWN_MAX);
    }
}
