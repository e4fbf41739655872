//! Characters outside the basic plane, as JSON escapes them.

use std::borrow::Cow;

use serde_json::value::RawValue;

/// Rewrites the escapes of a JSON text as YAML has them: JSON writes a character outside the basic plane as two
/// halves, such as `\ud83d\ude00`, which are no characters in YAML. Any other text is as it was: in YAML a
/// backslash escapes something between double quotes only, and is a backslash elsewhere.
pub(super) fn join(text: &str) -> Cow<'_, str> {
    let json = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !text.contains("\\u") || serde_json::from_str::<&RawValue>(json).is_err() {
        return text.into();
    }
    let unit = |at: usize| {
        let escape = text.get(at..at + 6)?;
        u16::from_str_radix(escape.strip_prefix("\\u")?, 16).ok()
    };
    let pair = |at: usize| {
        let halves = [unit(at)?, unit(at + 6)?];
        char::decode_utf16(halves).next()?.ok().filter(|_| (0xd800..0xdc00).contains(&halves[0]))
    };
    let mut joined = String::with_capacity(text.len());
    let mut rest = 0;
    while let Some(found) = text[rest..].find('\\').map(|at| rest + at) {
        joined.push_str(&text[rest..found]);
        if let Some(c) = pair(found) {
            joined.push_str(&format!("\\U{:08x}", u32::from(c)));
            rest = found + 12;
        } else {
            // A backslash, and the character that it escapes.
            let next = text[found + 1..].chars().next().map_or(0, char::len_utf8);
            joined.push_str(&text[found..found + 1 + next]);
            rest = found + 1 + next;
        }
    }
    joined.push_str(&text[rest..]);
    joined.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_joined_in_json_alone() {
        for (text, expected) in [
            (r#"{"a": "\ud83d\ude00"}"#, r#"{"a": "\U0001f600"}"#),
            ("\u{feff}\"\\ud83d\\ude00\"", "\u{feff}\"\\U0001f600\""),
            // A backslash that is escaped escapes nothing.
            (r#"["\\ud83d\ude00"]"#, r#"["\\ud83d\ude00"]"#),
            // Text in YAML.
            (r"a: '\ud83d\ude00'", r"a: '\ud83d\ude00'"),
            (r"a: \ud83d\ude00", r"a: \ud83d\ude00"),
            ("a: |\n  \\ud83d\\ude00\n", "a: |\n  \\ud83d\\ude00\n"),
            ("# \\ud83d\\ude00\na: 1", "# \\ud83d\\ude00\na: 1"),
        ] {
            assert_eq!(join(text), expected, "{text}");
        }
    }
}
