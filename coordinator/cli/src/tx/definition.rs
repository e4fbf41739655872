//! File of a transaction, as `unanimo tx submit` reads it.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use serde_json::value::RawValue;
use unanimo_coordinator::config::Period;
use unanimo_core::{ActionName, BranchId, Gid, ParticipantName};
use unanimo_proto::v1;

use super::json::compact;
use super::words;

/// Failure to read a transaction from a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file cannot be read.
    #[error("read {name}: {source}")]
    Read { name: String, source: std::io::Error },
    /// The file breaks the schema.
    #[error("understand {name}: {}{why}", at(.field))]
    Field { name: String, field: String, why: String },
}

/// Prefix of a message: the path of the field. The root object, `.`, has none.
fn at(field: &str) -> String {
    if field == "." { String::new() } else { format!("{field}: ") }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Definition {
    gid: Gid,
    #[serde(deserialize_with = "mode")]
    mode: v1::Mode,
    timeout: Option<Period>,
    #[serde(default)]
    metadata: HashMap<String, String>,
    branches: Vec<Branch>,
}

/// Reads a mode by the core's name of it.
fn mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<v1::Mode, D::Error> {
    let name = String::deserialize(deserializer)?;
    let mode: unanimo_core::Mode = name.parse().map_err(D::Error::custom)?;
    let all = [v1::Mode::TwoPhaseCommit, v1::Mode::Tcc, v1::Mode::Saga];
    let found = all.into_iter().find(|wire| words::mode((*wire).into()) == mode.name());
    found.ok_or_else(|| D::Error::custom(format!("the contract has no mode {name}")))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Branch {
    branch_id: BranchId,
    participant: ParticipantName,
    action: ActionName,
    /// JSON as it was written: a parsed number could be rounded.
    payload: Option<Box<RawValue>>,
    payload_base64: Option<String>,
}

/// Reads a file, or standard input if the path is `-`.
pub(super) fn read(path: &Path) -> Result<v1::SubmitTransactionRequest, Error> {
    let (name, text) = if path == Path::new("-") {
        let mut text = String::new();
        ("standard input".to_owned(), std::io::stdin().read_to_string(&mut text).map(|_| text))
    } else {
        (path.display().to_string(), std::fs::read_to_string(path))
    };
    match text {
        Ok(text) => parse(&text).map_err(|(field, why)| Error::Field { name, field, why }),
        Err(source) => Err(Error::Read { name, source }),
    }
}

/// Parses a file's text into a request. The error is a field's path and the rule that it breaks.
fn parse(text: &str) -> Result<v1::SubmitTransactionRequest, (String, String)> {
    check_shape(text)?;
    let mut json = serde_json::Deserializer::from_str(text);
    let definition: Definition = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| (error.path().to_string(), error.inner().to_string()))?;
    json.end().map_err(|error| (".".to_owned(), error.to_string()))?;
    let branches = definition.branches.into_iter().enumerate();
    let timeout = definition.timeout.map(|timeout| {
        let wire = prost_types::Duration::try_from(timeout.0);
        wire.map_err(|_| ("timeout".to_owned(), "is too long".to_owned()))
    });
    Ok(v1::SubmitTransactionRequest {
        gid: definition.gid.into(),
        mode: definition.mode.into(),
        branches: branches
            .map(|(index, branch)| branch.to_wire(index))
            .collect::<Result<_, _>>()?,
        timeout: timeout.transpose()?,
        wait_for: v1::WaitFor::Unspecified.into(),
        metadata: definition.metadata,
        requires: Vec::new(),
        include_outputs: true,
        ..Default::default()
    })
}

/// Checks that the text is JSON, and that objects stand where they are wanted: the parser below would name
/// types of this program.
fn check_shape(text: &str) -> Result<(), (String, String)> {
    if text.trim().is_empty() {
        let why = "the file is empty; `unanimo tx submit --help` describes it";
        return Err((".".to_owned(), why.to_owned()));
    }
    let root: serde_json::Value =
        serde_json::from_str(text).map_err(|error| (".".to_owned(), error.to_string()))?;
    let object = "must be an object; `unanimo tx submit --help` describes it".to_owned();
    let Some(definition) = root.as_object() else { return Err((".".to_owned(), object)) };
    let branches = definition.get("branches").and_then(serde_json::Value::as_array);
    let branches = branches.into_iter().flatten();
    match branches.enumerate().find(|(_, branch)| !branch.is_object()) {
        Some((index, _)) => Err((format!("branches[{index}]"), object)),
        None => Ok(()),
    }
}

impl Branch {
    fn to_wire(&self, index: usize) -> Result<v1::BranchSpec, (String, String)> {
        let field = |name: &str| format!("branches[{index}]{name}");
        let payload = match (&self.payload, &self.payload_base64) {
            (None, None) => None,
            (Some(json), None) => Some(v1::Payload {
                data: compact(json.get()).into(),
                media_type: "application/json".to_owned(),
            }),
            (None, Some(text)) => {
                let decoded = BASE64_STANDARD.decode(text);
                let data =
                    decoded.map_err(|error| (field(".payload_base64"), error.to_string()))?.into();
                Some(v1::Payload { data, media_type: String::new() })
            }
            (Some(_), Some(_)) => {
                return Err((field(""), "has both payload and payload_base64".to_owned()));
            }
        };
        Ok(v1::BranchSpec {
            branch_id: self.branch_id.to_string(),
            participant: self.participant.to_string(),
            action: self.action.to_string(),
            payload,
            mode: v1::Mode::Unspecified.into(),
            ..Default::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_sent_as_it_was_written() {
        let text = r#"{"gid": "g", "mode": "tcc", "timeout": "1m 30s", "branches": [
            {"branch_id": "a", "participant": "p", "action": "x",
             "payload": {"z": 1.50, "a": [123456789012345678901234567890, "b  \" c"]}},
            {"branch_id": "b", "participant": "p", "action": "x", "payload_base64": "/wA="},
            {"branch_id": "c", "participant": "p", "action": "x"}]}"#;
        let request = parse(text).expect("a transaction");
        assert_eq!(request.timeout.expect("it").seconds, 90);
        let payloads: Vec<&[u8]> = request
            .branches
            .iter()
            .map(|b| b.payload.as_ref().map_or(&[][..], |payload| &payload.data))
            .collect();
        let json: &[u8] = br#"{"z":1.50,"a":[123456789012345678901234567890,"b  \" c"]}"#;
        assert_eq!(payloads, [json, &[0xff, 0], b""]);
    }

    #[track_caller]
    fn check(text: &str, expected_field: &str, expected_why: &str) {
        let (field, why) = parse(text).expect_err(text);
        assert_eq!(field, expected_field, "{text}: {why}");
        assert!(why.contains(expected_why), "{text}: {why}");
    }

    #[test]
    fn each_mistake_names_its_field() {
        let with = |branch: &str| {
            let good = r#""branch_id":"a","participant":"p","action":"x""#;
            format!(r#"{{"gid":"g","mode":"tcc","branches":[{{{good}}},{{{branch}}}]}}"#)
        };
        for text in ["", " \n"] {
            check(text, ".", "the file is empty; `unanimo tx submit --help` describes it");
        }
        check(r#"{"gid":"#, ".", "EOF while parsing a value at line 1");
        for text in ["[]", "7", r#"["gid", "tcc", null, {}, []]"#, "null"] {
            check(text, ".", "must be an object; ");
        }
        check(
            r#"{"gid":"g","mode":"tcc","branches":[["a"]]}"#,
            "branches[0]",
            "must be an object; ",
        );
        check(
            r#"{"gid":"g","mode":"tcc","branches":[{},7]}"#,
            "branches[1]",
            "must be an object; ",
        );
        check("{}", ".", "missing field `gid`");
        check(r#"{"gid":"g","mode":"tcc"}"#, ".", "missing field `branches`");
        check(r#"{"gid":"a b"}"#, "gid", "must consist of A-Z");
        check(r#"{"gid":7}"#, "gid", "invalid type: integer `7`, expected a string");
        check(r#"{"gid":"g","mode":"xa"}"#, "mode", "must be 2pc");
        check(r#"{"gid":"g","mod":"tcc"}"#, "mod", "unknown field `mod`");
        let rule = "must be a text such as \"30s\" or \"1h 30m\", is 60";
        check(r#"{"gid":"g","timeout":60}"#, "timeout", rule);
        check(r#"{"gid":"g","timeout":"soon"}"#, "timeout", "write 250ms");
        check(r#"{"gid":"g","metadata":{"k":1}}"#, "metadata.k", "invalid type");
        check(r#"{"gid":"g","mode":"tcc","branches":{}}"#, "branches", "invalid type: map");
        check(&with(""), "branches[1]", "missing field `branch_id`");
        check(&with(r#""branch_id":"""#), "branches[1].branch_id", "must not be empty");
        check(&with(r#""paylod":1"#), "branches[1].paylod", "unknown field");
        let named = r#""branch_id":"b","participant":"p","action":"x""#;
        check(
            &with(&format!(r#"{named},"payload_base64":"?""#)),
            "branches[1].payload_base64",
            "Invalid symbol",
        );
        check(
            &with(&format!(r#"{named},"payload_base64":"","payload":1"#)),
            "branches[1]",
            "has both",
        );
        check(r#"{"gid":"g","mode":"tcc","branches":[]} x"#, ".", "trailing characters");
    }
}
