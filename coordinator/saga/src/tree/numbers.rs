//! Numbers of JSON, and of YAML alone.

/// Tells whether a text is a number by the grammar of JSON (RFC 8259).
pub(super) fn is_json_number(text: &str) -> bool {
    // Digits other than `0`, a sign, and nothing else can begin a number.
    text.starts_with(|c: char| c == '-' || c.is_ascii_digit())
        && serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok()
}

/// Tells whether a text is a number in YAML that JSON does not know: `+5`, `007`, `0x1f`, `.5`, `.inf`.
pub(super) fn is_other_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let all = |text: &str, is: fn(&char) -> bool| !text.is_empty() && text.chars().all(|c| is(&c));
    if let Some(hex) = digits.strip_prefix("0x") {
        return all(hex, char::is_ascii_hexdigit);
    }
    if let Some(octal) = digits.strip_prefix("0o") {
        return all(octal, |c| ('0'..='7').contains(c));
    }
    if matches!(digits, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => {
            (mantissa, exponent.strip_prefix(['-', '+']).unwrap_or(exponent))
        }
        None => (digits, "0"),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    !(whole.is_empty() && fraction.is_empty())
        && is_digits(whole)
        && is_digits(fraction)
        && all(exponent, char::is_ascii_digit)
}
