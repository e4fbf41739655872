//! Bytes of a user with their media type: arguments of actions, and outputs of Prepares.

use bytes::Bytes;

use crate::definition::Violation;

/// Most bytes of a media type. RFC 6838 allows names of 127 bytes on each side of the slash, and
/// those in use are far shorter; it is held in memory and stored once for each branch.
pub const MEDIA_TYPE_BYTES_MAX: usize = 128;

/// Bytes of a user. Nothing here looks into them. An absent payload is an empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// The bytes.
    pub data: Bytes,
    /// Their media type (RFC 6838), such as `application/json`; empty if it is not known.
    pub media_type: String,
}

impl Payload {
    /// Tells whether there is nothing: no bytes, and no type.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.data.is_empty() && self.media_type.is_empty()
    }

    /// Bytes that it holds in memory and takes in the store.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.data.len() + self.media_type.len()
    }

    /// The violation of the rule for media types, if it is one; `field` is the payload's path.
    #[must_use]
    pub fn bad_media_type(&self, field: &str) -> Option<Violation> {
        let text = self.media_type.as_str();
        let rule = if text.len() > MEDIA_TYPE_BYTES_MAX {
            format!("must be at most {MEDIA_TYPE_BYTES_MAX} bytes, has {}", text.len())
        } else if let Some(at) = text.bytes().position(|byte| !matches!(byte, b' '..=b'~')) {
            format!("must be printable ASCII, is not at byte {at}")
        } else if text.starts_with(' ') || text.ends_with(' ') {
            "must be printable ASCII without a space at either end".to_owned()
        } else {
            return None;
        };
        Some(Violation::new(format!("{field}.media_type"), rule))
    }

    /// Returns the payload without its media type if that breaks the rule. A participant's output
    /// is taken so: its vote must not be lost for a label.
    #[must_use]
    pub fn without_bad_media_type(mut self) -> Self {
        if self.bad_media_type("").is_some() {
            self.media_type = String::new();
        }
        self
    }
}

impl From<Bytes> for Payload {
    fn from(data: Bytes) -> Self {
        Self { data, media_type: String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_media_type_is_short_printable_and_not_padded() {
        for (text, rule) in [
            ("", None),
            ("application/json; charset=utf-8", None),
            (&"x".repeat(128), None),
            (&"x".repeat(129), Some("must be at most 128 bytes, has 129")),
            ("text/é", Some("must be printable ASCII, is not at byte 5")),
            ("a\nb", Some("must be printable ASCII, is not at byte 1")),
            (" a", Some("must be printable ASCII without a space at either end")),
            ("a ", Some("must be printable ASCII without a space at either end")),
        ] {
            let payload = Payload { data: Bytes::from_static(b"1"), media_type: text.to_owned() };
            let found = payload.bad_media_type("branches[1].payload");
            let expected = rule.map(|rule| Violation::new("branches[1].payload.media_type", rule));
            assert_eq!(found, expected, "{text:?}");
            let kept = payload.clone().without_bad_media_type();
            assert_eq!(kept.data, payload.data);
            assert_eq!(kept.media_type.is_empty(), text.is_empty() || rule.is_some());
        }
    }
}
