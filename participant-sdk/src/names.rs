//! The alphabet of names, and the longest length of each.

/// Bytes of a gid and of a branch id.
pub(crate) const ID_BYTES_MAX: usize = 128;

/// Bytes of names of participants and actions.
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub(crate) const NAME_BYTES_MAX: usize = 64;

/// Bytes of a cluster's id.
pub(crate) const CLUSTER_BYTES_MAX: usize = 32;

/// Tells whether a text is 1 to `bytes_max` bytes of the alphabet of names.
pub(crate) fn is_name(text: &str, bytes_max: usize) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte);
    (1..=bytes_max).contains(&text.len()) && text.bytes().all(allowed)
}
