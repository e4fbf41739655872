//! Bounds of a status: whatever it tells of, it is small enough to arrive.

use tonic_types::FieldViolation;
use unanimo_core::Violation;

/// Most bytes of a status's message.
pub const MESSAGE_BYTES_MAX: usize = 1024;

/// Most bytes of a status as it travels: its message, and its details in base64, which hold the
/// message again. Clients bound the headers that they accept, some at 8 KiB, and a connection ends
/// where one is over it.
pub const STATUS_BYTES_MAX: usize = 4096;

/// Most bytes of a bad field's name, and of the rule that it breaks.
const FIELD_BYTES_MAX: usize = 256;

/// Most bytes of all bad fields and rules of a status.
const FIELDS_BYTES_MAX: usize = 640;

/// Most bytes of a value in a status's metadata.
pub(super) const METADATA_BYTES_MAX: usize = 128;

/// Returns the first violations that fit into a status.
pub(super) fn first_fields(violations: &[Violation]) -> Vec<FieldViolation> {
    let mut bytes = 0;
    let fields = violations.iter().map(|violation| {
        let field = bounded(&violation.field, FIELD_BYTES_MAX);
        FieldViolation::new(field, bounded(&violation.rule, FIELD_BYTES_MAX))
    });
    let fits = |field: &FieldViolation| {
        bytes += field.field.len() + field.description.len();
        bytes <= FIELDS_BYTES_MAX
    };
    fields.take_while(fits).collect()
}

/// Cuts a text so that it takes at most so many bytes in a header, where gRPC writes each byte
/// outside printable ASCII as three.
pub(super) fn bounded(text: &str, bytes_max: usize) -> String {
    let in_header = |c: char| if matches!(c, ' '..='~') { 1 } else { 3 * c.len_utf8() };
    if text.chars().map(in_header).sum::<usize>() <= bytes_max {
        return text.to_owned();
    }
    let mut left = bytes_max - in_header('…');
    let fits = |c: &char| {
        let fits = in_header(*c) <= left;
        left = left.saturating_sub(in_header(*c));
        fits
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_on_a_characters_boundary() {
        for (text, expected) in
            [("abc", "abc"), (&*"a".repeat(30), "aaaaaaaaaaa…"), (&*"ä".repeat(30), "ä…")]
        {
            assert_eq!(bounded(text, 20), expected);
        }
        assert_eq!(bounded("äää", 18), "äää");
    }
}
