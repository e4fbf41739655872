//! The alphabet of names, and the longest length of each.

/// Bytes of a gid and of a branch id.
pub(crate) const ID_BYTES_MAX: usize = 128;

/// Bytes of names of participants and actions.
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub(crate) const NAME_BYTES_MAX: usize = 64;

/// Bytes of a cluster's id.
pub(crate) const CLUSTER_BYTES_MAX: usize = 32;

/// Tells whether a text is 1 to `bytes_max` bytes of the alphabet of names, and begins with a letter,
/// a digit or `_`.
pub(crate) fn is_name(text: &str, bytes_max: usize) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte);
    let begins = text.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_');
    begins && text.len() <= bytes_max && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn names_begin_with_a_letter_a_digit_or_an_underscore() {
        for good in ["a", "Z9", "0", "_x", "a-b.c:d_", "abcd"] {
            assert!(is_name(good, 8), "{good}");
        }
        for bad in ["", "-a", ".a", ":a", "a b", "a/b", "é", "ab\0", "123456789"] {
            assert!(!is_name(bad, 8), "{bad}");
        }
    }
}
