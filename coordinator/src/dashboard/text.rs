//! Bytes of users as texts that a page shows, with little work whatever they are.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::de::IgnoredAny;

/// Most bytes of a payload that a page shows.
const TEXT_MAX: usize = 20_000;

/// Most bytes of the same with indents.
const INDENTED_MAX: usize = 2 * TEXT_MAX;

/// Characters of base64 that hold more than a page shows, in whole groups.
const BASE64_MAX: usize = (TEXT_MAX / 3 + 2) * 4;

/// Returns bytes in base64 as a text: JSON with indents, other texts as they are, and the rest by its size.
pub(super) fn shown(base64: &str, media_type: &str) -> String {
    let padding = base64.bytes().rev().take_while(|byte| *byte == b'=').count();
    let size = (base64.len() / 4 * 3).saturating_sub(padding);
    let head = base64.get(..BASE64_MAX).unwrap_or(base64);
    let bytes = BASE64_STANDARD.decode(head).unwrap_or_default();
    let text = match std::str::from_utf8(&bytes) {
        Ok(text) => text,
        // The end of what is shown may be in the middle of a character.
        Err(error) if head.len() < base64.len() && error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return format!("{size} bytes, {media_type}"),
    };
    if size <= TEXT_MAX {
        return indented(text).unwrap_or_else(|| text.to_owned());
    }
    let end = text.floor_char_boundary(TEXT_MAX);
    format!("{}…\n({size} bytes in all)", &text[..end])
}

/// Returns JSON with indents, each of its tokens as it is; nothing for other texts, and if it would be long.
fn indented(text: &str) -> Option<String> {
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    let mut out = String::with_capacity(text.len() * 2);
    let (mut depth, mut rest) = (0, text.trim_start());
    while let Some(first) = rest.chars().next() {
        let token = token(rest);
        rest = rest[token.len()..].trim_start();
        match first {
            '{' | '[' => {
                out.push(first);
                // What is empty stays in one line.
                match rest.chars().next().filter(|next| matches!(next, '}' | ']')) {
                    Some(end) => {
                        out.push(end);
                        rest = rest[1..].trim_start();
                    }
                    None => {
                        depth += 1;
                        line(&mut out, depth)?;
                    }
                }
            }
            '}' | ']' => {
                depth -= 1;
                line(&mut out, depth)?;
                out.push(first);
            }
            ',' => {
                out.push(first);
                line(&mut out, depth)?;
            }
            ':' => out.push_str(": "),
            _ => out.push_str(token),
        }
    }
    (out.len() <= INDENTED_MAX).then_some(out)
}

/// Begins a line, as long as there is room for it.
fn line(out: &mut String, depth: usize) -> Option<()> {
    if out.len() + 2 * depth >= INDENTED_MAX {
        return None;
    }
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
    Some(())
}

/// Returns the first token of a text that is JSON.
fn token(text: &str) -> &str {
    let mut others = text.char_indices().skip(1);
    let end = if text.starts_with('"') {
        let mut is_escaped = false;
        let end = others.find(|(_, c)| {
            let is_end = *c == '"' && !is_escaped;
            is_escaped = *c == '\\' && !is_escaped;
            is_end
        });
        end.map(|(at, _)| at + 1)
    } else if text.starts_with(['{', '}', '[', ']', ',', ':']) {
        Some(1)
    } else {
        let ends = |c: char| c.is_whitespace() || ",:{}[]\"".contains(c);
        others.find(|(_, c)| ends(*c)).map(|(at, _)| at)
    };
    &text[..end.unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> String {
        shown(&BASE64_STANDARD.encode(bytes), "image/png")
    }

    /// Nothing is rounded, and no key is dropped.
    #[test]
    fn json_is_shown_with_indents_and_otherwise_as_it_is() {
        for (text, expected) in [
            ("{}", "{}"),
            (" [ ] ", "[]"),
            ("[{},[]]", "[\n  {},\n  []\n]"),
            (
                "{\"a\":1.10000000000000000001,\"a\":18446744073709551617 ,\"b\" : null}",
                "{\n  \"a\": 1.10000000000000000001,\n  \"a\": 18446744073709551617,\n  \"b\": null\n}",
            ),
            (r#"["{,:}\"[ \\", "\u00e9é"]"#, "[\n  \"{,:}\\\"[ \\\\\",\n  \"\\u00e9é\"\n]"),
            ("-1e5", "-1e5"),
            ("\"\"", "\"\""),
            ("{not json", "{not json"),
            ("{} {}", "{} {}"),
            ("", ""),
        ] {
            assert_eq!(of(text.as_bytes()), expected, "{text}");
        }
        assert_eq!(of(&[0xff, 0xfe, 0xfd, 0xfc]), "4 bytes, image/png");
    }

    /// Lists in lists around many numbers would be a hundred times as long with indents.
    #[test]
    fn what_would_grow_is_shown_without_indents() {
        let (open, close) = ("[".repeat(120), "]".repeat(120));
        let deep = format!("{open}{}1{close}", "1,".repeat(9_000));
        assert_eq!(of(deep.as_bytes()), deep);
        let pairs = format!("[{}1]", "1,".repeat(5_000));
        let text = of(pairs.as_bytes());
        assert!(text.starts_with("[\n  1,\n") && text.len() <= INDENTED_MAX, "{}", text.len());
        let large = format!("{open}{}1{close}", "1,".repeat(500_000));
        let text = of(large.as_bytes());
        assert!(text.len() < TEXT_MAX + 100, "{}", text.len());
        assert!(text.ends_with("…\n(1000241 bytes in all)"), "{}", &text[TEXT_MAX - 20..]);
    }

    #[test]
    fn a_long_text_is_cut_between_two_characters() {
        for start in ["", "a", "ab", "abc"] {
            let long = format!("{start}{}", "€".repeat(9_000));
            let text = of(long.as_bytes());
            let end = format!("…\n({} bytes in all)", long.len());
            let head = text.strip_suffix(&end).expect("its end says how long it is");
            assert!(long.starts_with(head), "{start}");
            assert!((TEXT_MAX - 3..=TEXT_MAX).contains(&head.len()), "{}", head.len());
        }
        let full = "a".repeat(TEXT_MAX);
        assert_eq!(of(full.as_bytes()), full);
        let binary = vec![0xff; 50_000];
        assert_eq!(of(&binary), "50000 bytes, image/png");
    }
}
