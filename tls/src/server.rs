//! The server's end.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::TlsAcceptor;

use crate::files::Shown;
use crate::handshakes::Handshakes;
use crate::reload::Reload;
use crate::{Error, File, provider};

/// PEM files of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFiles {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

impl ServerFiles {
    /// A certificate, with those of the authorities between it and the root after it, and its private key.
    pub fn new(cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self { cert: cert.into(), key: key.into(), client_ca: None }
    }

    /// Demands a certificate of every client, signed by one of the authorities in this file (mTLS).
    #[must_use]
    pub fn client_ca(mut self, client_ca: impl Into<PathBuf>) -> Self {
        self.client_ca = Some(client_ca.into());
        self
    }

    /// Tells whether a certificate of every client is demanded.
    #[must_use]
    pub fn has_client_ca(&self) -> bool {
        self.client_ca.is_some()
    }
}

/// Accepts TLS connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Server {
    configs: Arc<Reload<Configs>>,
}

/// Configurations for each protocol.
pub(crate) struct Configs {
    grpc: Arc<ServerConfig>,
    http: Arc<ServerConfig>,
}

/// Protocol that is spoken inside of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Grpc,
    Http,
}

impl Server {
    /// Reads the files, and reads them again when they change.
    ///
    /// # Errors
    /// A file cannot be read, or is not what it must be.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn load(files: ServerFiles) -> Result<Self, Error> {
        let ServerFiles { cert, key, client_ca } = files;
        let (cert, key) = (File::new("certificate", cert), File::new("private key", key));
        let client_ca = client_ca.map(|path| File::new("authorities of clients", path));
        let all = [&cert, &key].into_iter().chain(&client_ca).cloned().collect();
        let shown = Shown::default();
        let make = move |contents: &[Vec<u8>]| {
            cert.check_times(&cert.certificates(&contents[0])?, &shown)?;
            let make = |protocol| config(&cert, &key, client_ca.as_ref(), contents, protocol);
            Ok(Configs { grpc: make(Protocol::Grpc)?, http: make(Protocol::Http)? })
        };
        Ok(Self { configs: Reload::start(all, make)? })
    }

    /// Makes TLS connections for gRPC of TCP connections. If clients need a certificate, there is no connection
    /// without one.
    pub fn grpc<S>(&self, tcp: S) -> Handshakes<S> {
        Handshakes::new(self.clone(), Protocol::Grpc, tcp)
    }

    /// Makes TLS connections for HTTP/1.1 of TCP connections. A client may show no certificate, such as a
    /// probe: see [`Peer::names`](crate::Peer::names). One that it does show must be good.
    pub fn http<S>(&self, tcp: S) -> Handshakes<S> {
        Handshakes::new(self.clone(), Protocol::Http, tcp)
    }

    /// Returns why the files that are there now are not used; `None` if they are.
    #[must_use]
    pub fn stale(&self) -> Option<String> {
        self.configs.stale()
    }

    /// Tells of each change of the files that takes effect from now on; the first one who asks is told.
    pub fn on_change(&self, told: impl Fn() + Send + Sync + 'static) {
        self.configs.on_change(move |_, _| told());
    }

    pub(crate) fn acceptor(&self, protocol: Protocol) -> TlsAcceptor {
        let configs = self.configs.current();
        TlsAcceptor::from(match protocol {
            Protocol::Grpc => Arc::clone(&configs.grpc),
            Protocol::Http => Arc::clone(&configs.http),
        })
    }
}

fn config(
    cert: &File,
    key: &File,
    client_ca: Option<&File>,
    contents: &[Vec<u8>],
    protocol: Protocol,
) -> Result<Arc<ServerConfig>, Error> {
    let chain = cert.certificates(&contents[0])?;
    let private = key.key(&contents[1])?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| cert.breaks(error.to_string()))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let roots = Arc::new(file.roots(&contents[2])?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            let verifier = match protocol {
                Protocol::Grpc => verifier,
                Protocol::Http => verifier.allow_unauthenticated(),
            };
            let verifier = verifier.build().map_err(|error| file.breaks(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, private).map_err(|error| {
        key.breaks(format!("it does not belong to {}: {error}", cert.path.display()))
    })?;
    if client_ca.is_some() {
        // A session that is resumed brings the client's certificate along, and nobody judges that again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    config.alpn_protocols = vec![match protocol {
        Protocol::Grpc => b"h2".to_vec(),
        Protocol::Http => b"http/1.1".to_vec(),
    }];
    Ok(Arc::new(config))
}
