//! Parts of Rust source: code, comments and strings.

/// Three texts of the same shape as the source. A part that does not belong to a text is blank in
/// it, so that lines and offsets are those of the source.
#[derive(Debug)]
pub(super) struct Masked {
    pub(super) code: String,
    /// Comments, with their `//`, `///` or `/*`.
    pub(super) comments: String,
    /// Texts between quotes.
    pub(super) strings: String,
}

/// Text to which a byte belongs.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Code,
    Comment,
    Text,
    /// Character literal, which is in none of the three.
    Character,
}

impl Masked {
    pub(super) fn new(source: &str) -> Self {
        let kinds = kinds(source.as_bytes());
        let only = |kind: Kind| {
            let bytes = source.bytes().zip(&kinds);
            let kept = bytes.map(|(byte, k)| if *k == kind || byte == b'\n' { byte } else { b' ' });
            String::from_utf8_lossy(&kept.collect::<Vec<_>>()).into_owned()
        };
        Self { code: only(Kind::Code), comments: only(Kind::Comment), strings: only(Kind::Text) }
    }
}

fn kinds(source: &[u8]) -> Vec<Kind> {
    let mut kinds = Vec::with_capacity(source.len());
    while kinds.len() < source.len() {
        let at = kinds.len();
        let rest = &source[at..];
        let starts_word = at == 0 || !is_word(source[at - 1]);
        if rest.starts_with(b"//") {
            let length = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            kinds.resize(at + length, Kind::Comment);
        } else if rest.starts_with(b"/*") {
            kinds.resize(at + block_comment(rest), Kind::Comment);
        } else if let Some(hashes) = raw_string(rest).filter(|_| starts_word) {
            let open = rest.iter().position(|byte| *byte == b'"').unwrap_or(0) + 1;
            let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
            let length = find(&rest[open..], &close).unwrap_or(rest.len() - open);
            string(&mut kinds, open, length, close.len());
        } else if rest[0] == b'"' {
            let length = until_quote(&rest[1..], b'"');
            string(&mut kinds, 1, length, 1);
        } else if rest[0] == b'\'' && is_character(rest) {
            kinds.resize(at + 2 + until_quote(&rest[1..], b'\''), Kind::Character);
        } else {
            kinds.push(Kind::Code);
        }
    }
    kinds.truncate(source.len());
    kinds
}

/// Marks a string's quotes as code, so that `""` stays an expression.
fn string(kinds: &mut Vec<Kind>, open: usize, length: usize, close: usize) {
    kinds.resize(kinds.len() + open, Kind::Code);
    kinds.resize(kinds.len() + length, Kind::Text);
    kinds.resize(kinds.len() + close, Kind::Code);
}

/// Returns the length of a comment, which may have others inside.
fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// Returns the number of `#` of a raw string that begins here.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let rest = rest.strip_prefix(b"b").or_else(|| rest.strip_prefix(b"c")).unwrap_or(rest);
    let rest = rest.strip_prefix(b"r")?;
    let hashes = rest.iter().take_while(|byte| **byte == b'#').count();
    (rest.get(hashes) == Some(&b'"')).then_some(hashes)
}

/// Returns the length up to the closing quote.
fn until_quote(rest: &[u8], quote: u8) -> usize {
    let mut at = 0;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    at.min(rest.len())
}

/// Tells `'a'` and `'\n'` from the lifetime `'a`.
fn is_character(rest: &[u8]) -> bool {
    let Some(first) = rest.get(1) else { return false };
    let width = match first {
        0..0x80 => 1,
        0x80..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    };
    *first == b'\\' || rest.get(1 + width) == Some(&b'\'')
}

fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len()).position(|window| window == needle)
}

/// Tells whether a byte can be part of an identifier.
pub(super) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Returns every identifier with its offset.
pub(super) fn identifiers(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let bytes = code.as_bytes();
        while at < bytes.len() && !is_word(bytes[at]) {
            at += 1;
        }
        let start = at;
        while at < bytes.len() && is_word(bytes[at]) {
            at += 1;
        }
        (start < at).then(|| (start, &code[start..at]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_comments_and_strings_come_apart() {
        let masked = Masked::new("let a = \"x // {\\\" y\"; // z\n/* b /* c */ d */ e");
        assert_eq!(masked.code, "let a = \"          \";     \n                  e");
        assert_eq!(masked.comments.trim(), "// z\n/* b /* c */ d */");
        assert_eq!(masked.strings.trim(), "x // {\\\" y");
    }

    #[test]
    fn raw_strings_and_raw_identifiers() {
        let masked = Masked::new("r#\"a \" {\"# r#fn br\"b\" for\"");
        assert_eq!(masked.strings.split_whitespace().collect::<Vec<_>>(), ["a", "\"", "{", "b"]);
        assert!(masked.code.contains("r#fn"), "{}", masked.code);
    }

    #[test]
    fn characters_are_told_from_lifetimes() {
        let masked = Masked::new("fn f<'a>(x: &'a str) { '{'; '\\''; 'ä'; b'\"' }");
        assert_eq!(masked.code.matches(['{', '}']).count(), 2, "{}", masked.code);
        assert_eq!(masked.strings.trim(), "");
    }

    #[test]
    fn unfinished_text_ends_with_the_file() {
        for source in ["\"a", "r#\"a", "/* a", "'\\", "b'"] {
            assert_eq!(Masked::new(source).code.len(), source.len(), "{source}");
        }
    }
}
