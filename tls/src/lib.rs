//! TLS of Unanimo's coordinator, participants and command line, over rustls with ring.
//!
//! [`Server`] makes TLS connections of TCP connections, and [`Client`] is the other end. Both read their PEM
//! files again when the files change: a new connection uses the new ones, and connections that are open go
//! on, those of a client with a certificate until its time is over. A file that is bad is told in the log, and by [`Server::stale`] and [`Client::stale`]; until it is
//! mended the last good ones are used.
//!
//! [`Peer`] is what a server knows of the other end: its address, and the names in its certificate, which was
//! verified.

mod client;
mod end;
mod files;
mod handshakes;
mod hashed;
mod peer;
mod places;
mod reload;
mod server;
mod stream;
mod token;

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use self::client::{
    Client, ClientFiles, Connector, HttpConnector, is_loopback, is_server_name,
};
pub use self::files::File;
pub use self::handshakes::{HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, Handshakes};
pub use self::hashed::{BadHash, Token, TokenHashes, bearer};
pub use self::peer::{Peer, is_subject, network_of};
pub use self::reload::{RELOAD_INTERVAL, Reload};
pub use self::server::{Server, ServerFiles};
pub use self::stream::TlsStream;
pub use self::token::{TokenFile, header};

/// Failure to use a file or an address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read.
    #[error("read the {what} {}: {source}", path.display())]
    Read {
        /// Content of the file.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        source: std::io::Error,
    },
    /// A file has another content than it must have.
    #[error("use the {what} {}: {rule}", path.display())]
    Content {
        /// Content that the file must have.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Rule that it breaks.
        rule: String,
    },
    /// Settings do not fit together.
    #[error("{0}")]
    Settings(&'static str),
    /// An address is none.
    #[error("{url:?} must be https://HOST:PORT")]
    Address {
        /// Text that was given.
        url: String,
    },
    /// The name of the server is none.
    #[error("{0:?} is no name of a server: it must be a host name or an IP address")]
    ServerName(String),
}

/// Returns the cryptography that is used, whatever else the process has installed.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
