//! TLS to a coordinator.

use std::sync::Once;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint, Uri};
use unanimo_tls::{ClientFiles, HttpConnector, TokenFile};

use super::COMMON;
use super::client::Error;
use crate::error::last_cause;
use crate::output::{self, CAUTION};

/// Tells the warning of [`TlsArgs::check`] once, however often a command connects.
static TOLD: Once = Once::new();

/// Files of TLS.
#[derive(Debug, clap::Args)]
pub(crate) struct TlsArgs {
    /// Authorities of the coordinator, for https: a PEM file [default: the public ones]
    #[arg(
        long,
        global = true,
        help_heading = COMMON,
        env = "UNANIMO_CLIENT_TLS_CA",
        value_name = "FILE"
    )]
    tls_ca: Option<String>,
    /// Certificate to show, for https: a PEM file
    #[arg(
        long,
        global = true,
        help_heading = COMMON,
        env = "UNANIMO_CLIENT_TLS_CERT",
        value_name = "FILE"
    )]
    tls_cert: Option<String>,
    /// Private key of --tls-cert: a PEM file
    #[arg(
        long,
        global = true,
        help_heading = COMMON,
        env = "UNANIMO_CLIENT_TLS_KEY",
        value_name = "FILE"
    )]
    tls_key: Option<String>,
    /// Name in the coordinator's certificate [default: the host of --endpoint]
    #[arg(
        long,
        global = true,
        help_heading = COMMON,
        env = "UNANIMO_CLIENT_TLS_NAME",
        value_name = "NAME"
    )]
    tls_name: Option<String>,
    /// File with a bearer token to send; `unanimo token new` makes one
    #[arg(
        long,
        global = true,
        help_heading = COMMON,
        env = "UNANIMO_CLIENT_TOKEN_FILE",
        value_name = "FILE"
    )]
    token_file: Option<String>,
    /// Call another machine without TLS, with a token and without a warning: others on the way can read it
    #[arg(
        long,
        global = true,
        help_heading = COMMON,
        env = "UNANIMO_CLIENT_INSECURE",
        value_parser = clap::builder::BoolishValueParser::new()
    )]
    insecure: bool,
}

/// Tells whether this address is one with TLS, however its scheme is spelled.
fn has_tls(url: &str) -> bool {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"))
}

/// Options of TLS and of a token, from elsewhere than this command's own flags and variables.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) ca: Option<String>,
    pub(crate) cert: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) token_file: Option<String>,
    pub(crate) insecure: bool,
}

impl From<Given> for TlsArgs {
    fn from(Given { ca, cert, key, name, token_file, insecure }: Given) -> Self {
        Self { tls_ca: ca, tls_cert: cert, tls_key: key, tls_name: name, token_file, insecure }
    }
}

impl TlsArgs {
    fn files(&self) -> Result<ClientFiles, Error> {
        let mut files = ClientFiles::new();
        if let Some(ca) = &self.tls_ca {
            files = files.ca(ca);
        }
        if let Some(name) = &self.tls_name {
            files = files.server_name(name);
        }
        match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => Ok(files.identity(cert, key)),
            (None, None) => Ok(files),
            _ => Err(Error::Tls("use --tls-cert or --tls-key alone: give both".to_owned())),
        }
    }

    /// Tells whether anything is given that only TLS has a use for.
    fn is_given(&self) -> bool {
        let given = [&self.tls_ca, &self.tls_cert, &self.tls_key, &self.tls_name];
        given.into_iter().any(Option::is_some)
    }

    /// Tells whether calls to this address can be read on the way, and nobody has allowed it.
    fn is_open(&self, url: &str) -> bool {
        let uri: Option<Uri> = url.parse().ok();
        let is_here = uri.as_ref().and_then(Uri::host).is_some_and(unanimo_tls::is_loopback);
        !has_tls(url) && !is_here && !self.insecure
    }

    /// Reads the token, if there is to be one, for a coordinator at this address.
    pub(crate) fn token(&self, url: &str) -> Result<Option<TokenFile>, Error> {
        if self.token_file.is_some() && self.is_open(url) {
            let rule = "send a token to another machine without TLS: --endpoint must be https, or --insecure allow it";
            return Err(Error::Tls(rule.to_owned()));
        }
        let token = self.token_file.as_ref().map(TokenFile::load).transpose();
        token.map_err(|error| Error::Tls(error.to_string()))
    }

    /// Checks that nothing of TLS is given for an address without it, and warns of one that others can read.
    fn check(&self, url: &str) -> Result<(), Error> {
        if !has_tls(url) && self.is_given() {
            let rule = "use --tls-* or UNANIMO_CLIENT_TLS_* without TLS: --endpoint must be https";
            return Err(Error::Tls(rule.to_owned()));
        }
        if self.is_open(url) {
            TOLD.call_once(|| {
                output::note(&format!(
                    "{CAUTION}warning:{CAUTION:#} {url} is on another machine and without TLS: whoever is on the way can read \
                     and change what is sent; use https, or --insecure where the network itself encrypts"
                ));
            });
        }
        Ok(())
    }

    /// Makes the connector of a client over HTTP/1.1, for addresses such as this one.
    pub(crate) fn http(&self, url: &str, patience: Duration) -> Result<HttpConnector, Error> {
        self.check(url)?;
        let client = unanimo_tls::Client::load(self.files()?);
        Ok(client.map_err(|error| Error::Tls(error.to_string()))?.http(patience))
    }

    /// Connects to `http://HOST:PORT`, or to `https://HOST:PORT`.
    pub(crate) async fn connect(
        &self,
        url: &str,
        bounded: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Result<Channel, Error> {
        let unreachable = |error: tonic::transport::Error| Error::Unreachable {
            endpoint: url.to_owned(),
            why: last_cause(&error),
        };
        self.check(url)?;
        if !has_tls(url) {
            let endpoint = Endpoint::from_shared(url.to_owned()).map_err(unreachable)?;
            return bounded(endpoint).connect().await.map_err(unreachable);
        }
        let bad = |error: unanimo_tls::Error| Error::Tls(error.to_string());
        let client = unanimo_tls::Client::load(self.files()?).map_err(bad)?;
        let (endpoint, connector) = client.endpoint(url).map_err(bad)?;
        bounded(endpoint).connect_with_connector(connector).await.map_err(unreachable)
    }
}
