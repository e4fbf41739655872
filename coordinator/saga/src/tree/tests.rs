use super::*;

fn json(text: &str) -> String {
    parse("f", text)
        .map(|node| node.value.to_json())
        .unwrap_or_else(|problems| problems[0].to_string())
}

#[test]
fn values_keep_their_types_and_numbers_their_digits() {
    for (text, expected) in [
        (
            "{a: 1.50, b: [123456789012345678901234567890, -1e9, yes, ~]}",
            r#"{"a":1.50,"b":[123456789012345678901234567890,-1e9,"yes",null]}"#,
        ),
        (
            "a: '1'\nb: \"x\\ny\"\nc: |\n  two\n  lines\n",
            r#"{"a":"1","b":"x\ny","c":"two\nlines\n"}"#,
        ),
        (
            "{\n\t\"a\": \"\\ud83d\\ude00\\\\ud83d\",\n\t\"b\": true}",
            "{\"a\":\"😀\\\\ud83d\",\"b\":true}",
        ),
        ("2026-01-01", "\"2026-01-01\""),
        ("a: 1.2.3", "{\"a\":\"1.2.3\"}"),
        ("\u{feff}a: 1", "{\"a\":1}"),
    ] {
        assert_eq!(json(text), expected, "{text}");
    }
}

#[test]
fn what_is_not_plain_is_refused_at_its_place() {
    for (text, expected) in [
        ("", "f:1:1: is empty"),
        ("a: 1\n---\nb: 2\n", "f:2:1: must be one document, has a second one"),
        ("a: 1\nb: 2\na: 3\n", "f:3:1: a must be unique, it is in line 1 already"),
        ("a: [1, 007]", "f:1:8: a[1] must be a number as JSON writes it, or a text in quotes"),
        ("a: .inf", "f:1:4: a must be a number as JSON writes it, or a text in quotes"),
        ("a: &x 1\nb: *x", "f:2:4: b must be written out: aliases are not read"),
        ("a: !!str 1", "f:1:4: a must have no tag"),
        ("a: !!map {b: 1}", "f:1:4: a must have no tag"),
        ("a: [!mine [1]]", "f:1:5: a[0] must have no tag"),
        ("a:\n  !!seq\n  - 1\n", "f:2:3: a must have no tag"),
        ("!!str a: 1", "f:1:1: a must have no tag"),
        ("- !!set {}", "f:1:3: [0] must have no tag"),
        ("[1]: 2", "f:1:1: must have names as keys"),
        ("a: [1", "f:2:1: must be YAML or JSON: while parsing a flow sequence, expected "),
        ("a: b: c", "f:1:5: must be YAML or JSON: "),
    ] {
        let found = json(text);
        assert!(found.starts_with(expected), "{text}: {found}");
    }
    let deep = "[".repeat(70) + &"]".repeat(70);
    assert_eq!(json(&deep), "f:1:66: must not be more than 64 values deep");
}

/// JSON has white space between any two of its parts, in the indentation or not.
#[test]
fn json_is_read_with_all_of_its_white_space() {
    let parts = [
        "{",
        "\"a\"",
        ":",
        "[",
        "-1.5e3",
        ",",
        "true",
        ",",
        "null",
        ",",
        "\"x\\t#\\ud83d\\ude00 - y: z\"",
        ",",
        "{",
        "}",
        ",",
        "[",
        "]",
        "]",
        ",",
        "\"---\"",
        ":",
        "{",
        "\"- b\"",
        ":",
        "-7",
        "}",
        "}",
    ];
    let expected = r##"{"a":[-1.5e3,true,null,"x\t#😀 - y: z",{},[]],"---":{"- b":-7}}"##;
    for space in ["", " ", "\t", "\n", "\r\n", "\r", " \t", "\n\t", "\t\n \r\n\t"] {
        assert_eq!(json(&parts.join(space)), expected, "{space:?} everywhere");
        for at in 0..=parts.len() {
            let text = format!("{}{space}{}", parts[..at].concat(), parts[at..].concat());
            assert_eq!(json(&text), expected, "{space:?} before part {at}");
        }
    }
    assert_eq!(json("\t42\n"), "42");
}

#[test]
fn a_mistake_in_json_is_told_in_its_line() {
    for (text, expected) in [
        ("{\n\t\"a\":\t1,\n\t\"a\":\t2\n}", "f:3:2: a must be unique, it is in line 2 already"),
        ("{\r\n\"a\": 1,\r\n \"a\":\r\n2}", "f:3:2: a must be unique, it is in line 2 already"),
        ("\u{feff}{\n \"ä\": 1, \"ä\": 2}", "f:2:10: ä must be unique, it is in line 2 already"),
    ] {
        assert_eq!(json(text), expected, "{text:?}");
    }
}
