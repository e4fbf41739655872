//! Statuses of gRPC, whose texts are bounded: a longer one would end its connection.

use tonic::{Code, Status};

/// Bytes of a status's text, as it is on the wire. The smallest limit of common peers for all headers of a
/// reply is 8 KiB.
const STATUS_BYTES_MAX: usize = 1024;

/// Makes a status whose text is cut off: it travels in trailers, percent-encoded, and a peer ends the whole
/// connection, with every other call on it, where they are too long.
pub(crate) fn status(code: Code, text: &str) -> Status {
    let encoded = |c: char| match c {
        ' '..='~' if c != '%' => 1,
        _ => 3 * c.len_utf8(),
    };
    let mut left = STATUS_BYTES_MAX;
    let fits = |c: &char| {
        let fits = encoded(*c) <= left;
        left = left.saturating_sub(encoded(*c));
        fits
    };
    Status::new(code, text.chars().take_while(fits).collect::<String>())
}
