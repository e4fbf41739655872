//! Harness of the tests: PostgreSQL and MariaDB servers, connections that lose acknowledgements,
//! and processes. All of it belongs to the test process and is removed when that process ends,
//! however it ends.

pub mod alarms;
pub mod bank;
pub mod browser;
pub mod clock;
#[cfg(feature = "failpoints")]
pub mod crash;
pub mod driven;
pub mod faulty;
pub mod forward;
pub mod guard;
pub mod installed;
pub mod joining;
pub mod mariadb;
pub mod plain_driver;
pub mod postgres;
pub mod proxy;
pub mod reaper;
pub mod recorder;
pub mod relay;
pub mod schema;
pub mod scripted;
mod server;
pub mod small_disk;
pub mod wait;

use bytes::Bytes;
use unanimo_proto::v1::Payload;

/// Makes a payload without a media type; `None` of no bytes.
#[must_use]
pub fn payload(data: impl Into<Bytes>) -> Option<Payload> {
    let data = data.into();
    (!data.is_empty()).then(|| Payload { data, media_type: String::new() })
}

/// Returns the bytes of a payload; empty for `None`.
#[must_use]
pub fn bytes_of(payload: Option<&Payload>) -> Bytes {
    payload.map(|payload| payload.data.clone()).unwrap_or_default()
}
