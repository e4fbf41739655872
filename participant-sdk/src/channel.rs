//! Connections to a coordinator.

mod plain;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use unanimo_tls::{Client, ClientFiles, TokenFile};

use crate::panics::caught_in;
use crate::status::status;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between trials of a silent connection, and longest wait for the answer of each. A peer that has
/// vanished, or a middlebox that swallows everything, is noticed within the two: without that a connection
/// would be used for as long as the operating system believes in it.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Bytes of all headers, or trailers, of an answer. A status with its details takes 4 KiB of them.
const HEADERS_BYTES_MAX: u32 = 64 << 10;

/// A coordinator, by its address `http://HOST:PORT` or `https://HOST:PORT`, or through a channel of the
/// caller's own.
///
/// An address may be given wherever a coordinator is asked for. With `https` the certificate must be one of the
/// public authorities, unless [`Self::tls`] names others. The channel is for what an address cannot
/// say, such as a proxy or a Unix socket. It is used as it is: give it a
/// [bound for connecting](tonic::transport::Endpoint::connect_timeout), and a
/// [keep-alive](tonic::transport::Endpoint::http2_keep_alive_interval), without which a peer that has
/// vanished is noticed late.
///
/// With `http` to another machine calls can be read on the way: the log warns, and a call with a token is not sent, unless
/// [`Self::insecure`] allows it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tonic::transport::Channel;
/// use unanimo_sdk::{Client, Coordinator};
///
/// let token: tonic::metadata::MetadataValue<_> = "Bearer of-this-service".parse()?;
/// let coordinator = Coordinator::at("https://coordinator:7610").intercept(move |mut call| {
///     call.metadata_mut().insert("authorization", token.clone());
///     Ok(call)
/// });
/// let client = Client::of([coordinator])?;
///
/// let files = unanimo_sdk::tls::ClientFiles::new();
/// let files = files.ca("certs/ca.pem").identity("certs/shop.pem", "certs/shop-key.pem");
/// let with_tls = Coordinator::at("https://coordinator:7610").tls(files);
///
/// let channel = Channel::from_static("http://coordinator:7610").connect_lazy();
/// let through = Client::with_channel(channel);
/// # let _ = (client, through, with_tls);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Coordinator {
    name: String,
    channel: Option<Channel>,
    intercept: Intercept,
    tls: Option<ClientFiles>,
    token: Option<PathBuf>,
    insecure: bool,
}

impl Coordinator {
    /// The coordinator at `http://HOST:PORT`, or at `https://HOST:PORT`. It is connected to when it is first
    /// used.
    pub fn at(endpoint: impl Into<String>) -> Self {
        let (name, intercept) = (endpoint.into(), Intercept::default());
        Self { name, channel: None, intercept, tls: None, token: None, insecure: false }
    }

    /// The coordinator behind this channel.
    #[must_use]
    pub fn through(channel: Channel) -> Self {
        let name = "behind a channel of its own".to_owned();
        let intercept = Intercept::default();
        let channel = Some(channel);
        Self { name, channel, intercept, tls: None, token: None, insecure: false }
    }

    /// Calls it over TLS so: with other authorities than the public ones, with a certificate of this program,
    /// or under another name than that of its address. The files are read when the client is made, and again
    /// when they change. The address must begin with `https://`.
    #[must_use]
    pub fn tls(mut self, files: ClientFiles) -> Self {
        self.tls = Some(files);
        self
    }

    /// Sends the bearer token in this file with every call. The file is read when the client is made, and again when
    /// it changes. An address without TLS is refused then, unless it is this machine's loopback, or
    /// [`Self::insecure`] allows it; a channel of the caller's own is not looked at.
    #[must_use]
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token = Some(path.into());
        self
    }

    /// Allows calls without TLS to another machine, without a warning and with tokens, though whoever is on the way can read
    /// and change them. For a network that encrypts by itself, such as a service mesh.
    #[must_use]
    pub fn insecure(mut self) -> Self {
        self.insecure = true;
        self
    }

    /// Names it for log lines. Without it: its address.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        // An address is what it is.
        if self.channel.is_some() {
            self.name = name.into();
        }
        self
    }

    /// Runs this on every call before it is sent, such as to add a token. A status that it answers is
    /// the call's, and nothing is sent; one that panics answers INTERNAL. Called again it adds another one, which runs after those before.
    /// A call with `authorization` is not sent to another machine without TLS, unless [`Self::insecure`] allows it.
    #[must_use]
    pub fn intercept(
        mut self,
        interceptor: impl Fn(Request<()>) -> Result<Request<()>, Status> + Send + Sync + 'static,
    ) -> Self {
        self.intercept.all.push(Arc::new(interceptor));
        self
    }

    /// Makes the way to it.
    ///
    /// # Errors
    /// Its address is none, or a file cannot be used.
    pub(crate) fn route(
        self,
        more: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Result<Route, BadAddress> {
        let Self { name, channel, mut intercept, tls, token, insecure } = self;
        if channel.is_none() && !insecure && plain::is_open(&name)? {
            if token.is_some() {
                return Err(plain::bad(&name));
            }
            plain::tell(&name);
            intercept.open = Some(name.as_str().into());
        }
        if let Some(path) = token {
            let token = TokenFile::load(path);
            let bad = |rule: String| BadAddress { endpoint: name.clone(), rule };
            let token = token.map_err(|error| bad(error.to_string()))?;
            intercept.all.push(Arc::new(move |mut call: Request<()>| {
                token.sign(&mut call);
                Ok(call)
            }));
        }
        let channel = match channel {
            Some(channel) => channel,
            None => lazy(&name, tls, more)?,
        };
        Ok(Route { name, channel, intercept })
    }
}

impl From<&str> for Coordinator {
    fn from(endpoint: &str) -> Self {
        Self::at(endpoint)
    }
}

impl From<&String> for Coordinator {
    fn from(endpoint: &String) -> Self {
        Self::at(endpoint)
    }
}

impl From<String> for Coordinator {
    fn from(endpoint: String) -> Self {
        Self::at(endpoint)
    }
}

impl From<Channel> for Coordinator {
    fn from(channel: Channel) -> Self {
        Self::through(channel)
    }
}

/// The way to a coordinator.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    /// Its name in log lines.
    pub(crate) name: String,
    channel: Channel,
    intercept: Intercept,
}

/// Service that calls are sent through.
pub(crate) type Link = InterceptedService<Channel, Intercept>;

impl Route {
    pub(crate) fn intercept(
        &mut self,
        interceptor: impl Fn(Request<()>) -> Result<Request<()>, Status> + Send + Sync + 'static,
    ) {
        self.intercept.all.push(Arc::new(interceptor));
    }

    pub(crate) fn link(&self) -> Link {
        InterceptedService::new(self.channel.clone(), self.intercept.clone())
    }
}

type Interception = dyn Fn(Request<()>) -> Result<Request<()>, Status> + Send + Sync;

/// Functions that are run on each call before it is sent, in this order.
#[derive(Clone, Default)]
pub(crate) struct Intercept {
    all: Vec<Arc<Interception>>,
    /// Address to which no token may go, because it can be read on the way.
    open: Option<Arc<str>>,
}

impl fmt::Debug for Intercept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Intercept").field(&self.all.len()).finish()
    }
}

impl Interceptor for Intercept {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let intercepted =
            || self.all.iter().try_fold(request, |request, interceptor| interceptor(request));
        // Some calls are made by tasks that nobody waits for.
        let intercepted = caught_in(intercepted).unwrap_or_else(|text| {
            tracing::error!(error = text, "an interceptor panicked; its call is not sent");
            Err(status(Code::Internal, &format!("an interceptor panicked: {text}")))
        });
        match &self.open {
            None => intercepted,
            Some(address) => intercepted.and_then(|call| plain::check(address, call)),
        }
    }
}

/// An address that is none, and the rule that it breaks.
#[derive(Debug)]
pub(crate) struct BadAddress {
    pub(crate) endpoint: String,
    pub(crate) rule: String,
}

/// Tells whether it is called over TLS. Fails if this is neither `http://HOST:PORT` nor `https://HOST:PORT`.
pub(crate) fn is_address(endpoint: &str) -> Result<bool, BadAddress> {
    let bad = |rule: &str| BadAddress { endpoint: endpoint.to_owned(), rule: rule.to_owned() };
    let uri: http::Uri = endpoint.parse().map_err(|error: http::uri::InvalidUri| BadAddress {
        endpoint: endpoint.to_owned(),
        rule: format!("it is no URI ({error})"),
    })?;
    let tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        Some(_) => return Err(bad("its scheme is another one")),
        None => return Err(bad("it does not begin with http:// or https://")),
    };
    let host = uri.host().unwrap_or_default();
    if host.is_empty() {
        return Err(bad("it names no host"));
    }
    if tls && !unanimo_tls::is_server_name(host) {
        return Err(bad("its host cannot be in a certificate"));
    }
    if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
        return Err(bad("it has a path"));
    }
    Ok(tls)
}

/// Makes a connection to `http://HOST:PORT` or `https://HOST:PORT`, which is opened when it is first used.
fn lazy(
    endpoint: &str,
    files: Option<ClientFiles>,
    more: impl FnOnce(Endpoint) -> Endpoint,
) -> Result<Channel, BadAddress> {
    let bad = |rule: String| BadAddress { endpoint: endpoint.to_owned(), rule };
    let bounded = |made: Endpoint| {
        more(
            made.connect_timeout(CONNECT_TIMEOUT)
                .tcp_nodelay(true)
                .tcp_keepalive(Some(KEEP_ALIVE))
                .http2_keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE)
                .keep_alive_while_idle(true)
                .http2_max_header_list_size(HEADERS_BYTES_MAX),
        )
    };
    match (is_address(endpoint)?, files) {
        (true, files) => {
            let tls = Client::load(files.unwrap_or_default());
            let tls = tls.map_err(|error| bad(error.to_string()))?;
            tls.lazy(endpoint, bounded).map_err(|error| bad(error.to_string()))
        }
        (false, None) => {
            let made = Endpoint::from_shared(endpoint.to_owned());
            Ok(bounded(made.map_err(|error| bad(error.to_string()))?).connect_lazy())
        }
        (false, Some(_)) => {
            Err(bad("files of TLS are given for it, so it must be https".to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_none_is_refused_with_its_rule() {
        for (endpoint, rule) in [
            ("https://coordinator..x:7610", "cannot be in a certificate"),
            ("coordinator:7610", "does not begin with http:// or https://"),
            ("127.0.0.1:7610", "does not begin with http://"),
            ("", "no URI"),
            ("ftp://coordinator", "its scheme is another one"),
            ("http://coordinator:7610/path", "has a path"),
            ("http://", "no URI"),
        ] {
            let error = is_address(endpoint).expect_err(endpoint);
            assert!(error.rule.contains(rule), "{endpoint}: {}", error.rule);
            assert_eq!(error.endpoint, endpoint);
        }
        for endpoint in ["http://c:7610", "http://c:7610/", "http://[::1]:1", "http://c"] {
            assert!(!is_address(endpoint).expect(endpoint), "{endpoint}");
        }
        for endpoint in ["https://c:7610", "HTTPS://c:7610/", "https://[::1]:1", "https://10.0.0.1"]
        {
            assert!(is_address(endpoint).expect(endpoint), "{endpoint}");
        }
    }

    #[tokio::test]
    async fn a_token_is_not_sent_where_it_can_be_read() {
        let signed = |mut call: Request<()>| {
            call.metadata_mut().insert("authorization", "Bearer x".parse().expect("a header"));
            Ok(call)
        };
        let rule = "a token is sent to it, so it must be https";
        let sends = |at: Coordinator| {
            let mut route = at.route(std::convert::identity).expect("an address");
            // As the client's own is added.
            route.intercept(signed);
            route.intercept.call(Request::new(()))
        };
        for endpoint in ["http://c:1", "http://10.0.0.1:1"] {
            let at = || Coordinator::at(endpoint);
            let error = at().token_file("no-such-file").route(std::convert::identity);
            let error = error.expect_err(endpoint);
            assert!(error.rule.starts_with(rule), "{}", error.rule);
            let error = at().insecure().token_file("no-such-file").route(std::convert::identity);
            let error = error.expect_err("no file").rule;
            assert!(error.starts_with("read the token no-such-file"), "{error}");
            for at in [at(), at().intercept(signed)] {
                let status = sends(at).expect_err(endpoint);
                assert_eq!(status.code(), Code::Unauthenticated);
                assert!(status.message().starts_with(&format!("{endpoint}: {rule}")), "{status}");
            }
            sends(at().insecure()).expect("it is allowed");
            let mut route = at().route(std::convert::identity).expect("an address");
            route.intercept.call(Request::new(())).expect("no token");
        }
        for at in ["https://c:1", "http://127.0.0.1:1"].map(Coordinator::at) {
            sends(at).expect("nobody can read it");
        }
        let own = Channel::from_static("http://c:1").connect_lazy();
        sends(Coordinator::through(own)).expect("it is not looked at");
    }

    #[test]
    fn files_of_tls_are_for_an_address_with_tls() {
        let files = || Some(ClientFiles::new().ca("no-such-file.pem"));
        let lazy = |endpoint, files| lazy(endpoint, files, std::convert::identity);
        let error = lazy("http://c:1", files()).expect_err("without TLS");
        assert_eq!(error.rule, "files of TLS are given for it, so it must be https");
        let error = lazy("https://c:1", files()).expect_err("no file");
        assert!(
            error.rule.starts_with("read the authorities no-such-file.pem: "),
            "{}",
            error.rule
        );
    }
}
