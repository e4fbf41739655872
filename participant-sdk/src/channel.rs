//! Connections to a coordinator.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between trials of a silent connection, and longest wait for the answer of each. A peer that has
/// vanished, or a middlebox that swallows everything, is noticed within the two: without that a connection
/// would be used for as long as the operating system believes in it.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Bytes of all headers, or trailers, of an answer. A status with its details takes 4 KiB of them.
const HEADERS_BYTES_MAX: u32 = 64 << 10;

/// Makes a connection to `http://HOST:PORT`, which is opened when it is first used.
///
/// # Errors
/// The endpoint is none.
pub(crate) fn lazy(
    endpoint: String,
    more: impl FnOnce(Endpoint) -> Endpoint,
) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(endpoint)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(KEEP_ALIVE))
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .http2_max_header_list_size(HEADERS_BYTES_MAX);
    Ok(more(endpoint).connect_lazy())
}
