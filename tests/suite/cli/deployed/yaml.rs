//! YAML with anchors and merged mappings, as a tree. Every scalar is a text.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser};
use serde_json::{Map, Value};

/// Reads a document.
#[track_caller]
pub(super) fn read(text: &str) -> Value {
    let events = Parser::new_from_str(text).map(|event| event.expect("YAML").0);
    let mut events = events.filter(|event| {
        !matches!(event, Event::Nothing | Event::StreamStart | Event::DocumentStart(_))
    });
    let first = events.next().expect("a document");
    value(first, &mut events, &mut HashMap::new())
}

fn value<'a>(
    event: Event<'a>,
    events: &mut dyn Iterator<Item = Event<'a>>,
    anchors: &mut HashMap<usize, Value>,
) -> Value {
    let (anchor, value) = match event {
        Event::Scalar(text, _, anchor, _) => (anchor, Value::String(text.into_owned())),
        Event::Alias(anchor) => return anchors[&anchor].clone(),
        Event::SequenceStart(anchor, _) => {
            let mut items = Vec::new();
            loop {
                match events.next().expect("the end of a list") {
                    Event::SequenceEnd => break,
                    event => items.push(value(event, events, anchors)),
                }
            }
            (anchor, Value::Array(items))
        }
        Event::MappingStart(anchor, _) => (anchor, Value::Object(mapping(events, anchors))),
        other => panic!("{other:?}"),
    };
    if anchor > 0 {
        anchors.insert(anchor, value.clone());
    }
    value
}

fn mapping<'a>(
    events: &mut dyn Iterator<Item = Event<'a>>,
    anchors: &mut HashMap<usize, Value>,
) -> Map<String, Value> {
    let (mut own, mut merged) = (Map::new(), Map::new());
    loop {
        let name = match events.next().expect("the end of a mapping") {
            Event::MappingEnd => break,
            Event::Scalar(name, ..) => name.into_owned(),
            other => panic!("{other:?} is no name"),
        };
        let event = events.next().expect("a value");
        let found = value(event, events, anchors);
        match (name.as_str(), found) {
            ("<<", Value::Object(fields)) => merged.extend(fields),
            (_, found) => {
                assert!(own.insert(name.clone(), found).is_none(), "{name} is there twice");
            }
        }
    }
    merged.extend(own);
    merged
}

#[test]
fn anchors_and_merged_mappings_are_read() {
    let text = "a: &a { x: 1, y: [2, \"3\"] }\nb: { <<: *a, x: 4 }\nc: *a\n";
    let expected = serde_json::json!({
        "a": {"x": "1", "y": ["2", "3"]}, "b": {"x": "4", "y": ["2", "3"]}, "c": {"x": "1", "y": ["2", "3"]},
    });
    assert_eq!(read(text), expected);
}
