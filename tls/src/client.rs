//! The client's end.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_rustls::{
    FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream,
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use crate::files::Shown;
use crate::reload::Reload;
use crate::{Error, File, provider};

/// PEM files of a client, and the name of the server. Nothing of it need be set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFiles {
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    server_name: Option<String>,
}

impl ClientFiles {
    /// The public authorities, as browsers know them, and no certificate.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the authorities in this file alone.
    #[must_use]
    pub fn ca(mut self, ca: impl Into<PathBuf>) -> Self {
        self.ca = Some(ca.into());
        self
    }

    /// Shows this certificate (mTLS), whose private key is in the second file.
    #[must_use]
    pub fn identity(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((cert.into(), key.into()));
        self
    }

    /// Expects this name in the server's certificate, instead of the host of its address.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }
}

/// Makes TLS connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    config: Arc<Reload<Arc<ClientConfig>>>,
    server_name: Option<ServerName<'static>>,
}

impl Client {
    /// Reads the files, and reads them again when they change.
    ///
    /// # Errors
    /// A file cannot be read or is not what it must be, or the server's name is none.
    ///
    /// # Panics
    /// Outside a tokio runtime, if there is a file.
    pub fn load(files: ClientFiles) -> Result<Self, Error> {
        let ClientFiles { ca, identity, server_name } = files;
        let server_name = server_name.map(name_of).transpose()?;
        let ca = ca.map(|path| File::new("authorities", path));
        let identity = identity
            .map(|(cert, key)| (File::new("certificate", cert), File::new("private key", key)));
        let pair = identity.iter().flat_map(|(cert, key)| [cert, key]);
        let all = ca.iter().chain(pair).cloned().collect();
        let shown = Shown::default();
        let make =
            move |contents: &[Vec<u8>]| config(ca.as_ref(), identity.as_ref(), contents, &shown);
        Ok(Self { config: Reload::start(all, make)?, server_name })
    }

    /// Returns why the files that are there now are not used; `None` if they are.
    #[must_use]
    pub fn stale(&self) -> Option<String> {
        self.config.stale()
    }

    /// Makes an endpoint of `https://HOST:PORT`, to be given bounds, and the connector for it:
    /// [`Endpoint::connect_with_connector_lazy`].
    ///
    /// # Errors
    /// The address is none.
    pub fn endpoint(&self, url: &str) -> Result<(Endpoint, Connector), Error> {
        let bad = || Error::Address { url: url.to_owned() };
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("https"));
        let authority = authority.ok_or_else(bad)?;
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => name_of(authority.host().trim_matches(['[', ']']).to_owned())?,
        };
        // The connector makes TLS of it. tonic, if a program has its TLS switched on, would refuse to hand an
        // address with `https` to a connector.
        let port = authority.port_u16().unwrap_or(443);
        let plain = format!("http://{}:{port}", authority.host());
        let endpoint = Endpoint::from_shared(plain).map_err(|_| bad())?.origin(uri);
        Ok((endpoint, Connector { config: Arc::clone(&self.config), name }))
    }

    /// Makes a channel to `https://HOST:PORT`, which connects when it is first used.
    ///
    /// # Errors
    /// The address is none.
    pub fn lazy(
        &self,
        url: &str,
        more: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Result<Channel, Error> {
        let (endpoint, connector) = self.endpoint(url)?;
        Ok(more(endpoint).connect_with_connector_lazy(connector))
    }

    /// Makes the connector of a client of HTTP/1.1, for `https` and `http`. A connection that is not there after
    /// `patience` is given up.
    #[must_use]
    pub fn http(&self, patience: Duration) -> HttpConnector {
        let mut plain = hyper_util::client::legacy::connect::HttpConnector::new();
        plain.enforce_http(false);
        plain.set_nodelay(true);
        plain.set_connect_timeout(Some(patience));
        HttpConnector { client: self.clone(), plain }
    }
}

/// Connects to any server, with TLS where the address is `https`, for HTTP/1.1.
#[derive(Clone, Debug)]
pub struct HttpConnector {
    client: Client,
    plain: hyper_util::client::legacy::connect::HttpConnector,
}

impl HttpConnector {
    fn now(&self) -> HttpsConnector<hyper_util::client::legacy::connect::HttpConnector> {
        // The files may have changed since the last connection.
        let mut config = ClientConfig::clone(&self.client.config.current());
        // The builder says itself which protocols there are.
        config.alpn_protocols.clear();
        let https = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http();
        let https = match &self.client.server_name {
            Some(name) => {
                https.with_server_name_resolver(FixedServerNameResolver::new(name.clone()))
            }
            None => https,
        };
        https.enable_http1().wrap_connector(self.plain.clone())
    }
}

impl Service<Uri> for HttpConnector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.now().call(uri))
    }
}

/// Tells whether this host of an address is this machine, by its loopback.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    match host.trim_matches(['[', ']']).parse::<std::net::IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

/// Tells whether this is a host name or an IP address, in brackets or not, which a certificate can have.
#[must_use]
pub fn is_server_name(host: &str) -> bool {
    ServerName::try_from(host.trim_matches(['[', ']'])).is_ok()
}

fn name_of(name: String) -> Result<ServerName<'static>, Error> {
    ServerName::try_from(name.clone()).map_err(|_| Error::ServerName(name))
}

fn config(
    ca: Option<&File>,
    identity: Option<&(File, File)>,
    contents: &[Vec<u8>],
    shown: &Shown,
) -> Result<Arc<ClientConfig>, Error> {
    let mut contents = contents.iter();
    let roots = match ca.zip(contents.as_slice().first()) {
        Some((file, pem)) => {
            contents.next();
            file.roots(pem)?
        }
        None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|_| Error::Settings("TLS 1.2 and 1.3 are not available"))?
        .with_root_certificates(roots);
    let mut config = match identity.zip(contents.next().zip(contents.next())) {
        None => builder.with_no_client_auth(),
        Some(((cert, key), (chain, private))) => {
            let (chain, private) = (cert.certificates(chain)?, key.key(private)?);
            cert.check_times(&chain, shown)?;
            builder.with_client_auth_cert(chain, private).map_err(|error| {
                key.breaks(format!("it does not belong to {}: {error}", cert.path.display()))
            })?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// Connects to one server.
#[derive(Clone, Debug)]
pub struct Connector {
    config: Arc<Reload<Arc<ClientConfig>>>,
    name: ServerName<'static>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<tokio_rustls::client::TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        // The files may have changed since the last connection.
        let connector = TlsConnector::from(Arc::clone(&*self.config.current()));
        let name = self.name.clone();
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
            let tcp = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
            tcp.set_nodelay(true)?;
            connector.connect(name, tcp).await.map(TokioIo::new)
        })
    }
}
