//! The check as a caller: its TLS and its token, by which a participant takes it for a coordinator.

use std::sync::Arc;
use std::time::Duration;

use tonic::transport::Endpoint;
use tonic::{Request, Status, async_trait};
use unanimo_conformance::{OverHttp, Remote, Target};
use unanimo_proto::over_http;
use unanimo_proto::v1::{
    CancelRequest, CancelResponse, CommitRequest, CommitResponse, PrepareRequest, PrepareResponse,
};
use unanimo_tls::TokenFile;

use super::Error;
use crate::tx::client;
use crate::tx::tls::{Given, TlsArgs};

/// Longest time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Files by which the participant knows its caller. They have no variables: those of the other commands are for a
/// coordinator, and its token is nothing for a participant.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct CallerArgs {
    /// Authorities of the participant, for https: a PEM file [default: the public ones]
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<String>,
    /// Certificate to show, for https: a PEM file, such as the coordinator's `participant-tls-cert`
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<String>,
    /// Private key of --tls-cert: a PEM file
    #[arg(long, value_name = "FILE")]
    tls_key: Option<String>,
    /// Name in the participant's certificate [default: the host of --endpoint]
    #[arg(long, value_name = "NAME")]
    tls_name: Option<String>,
    /// File with the bearer token of a coordinator that the participant accepts
    #[arg(long, value_name = "FILE")]
    token_file: Option<String>,
    /// Call another machine without TLS, with a token and without a warning: others on the way can read it
    #[arg(long)]
    insecure: bool,
}

impl CallerArgs {
    /// Connects to the participant.
    pub(super) async fn connect(self, url: &str) -> Result<Signing, Error> {
        let Self { tls_ca, tls_cert, tls_key, tls_name, token_file, insecure } = self;
        let (ca, cert, key, name) = (tls_ca, tls_cert, tls_key, tls_name);
        let given = Given { ca, cert, key, name, token_file, insecure };
        let args = TlsArgs::from(given);
        let bounded =
            |endpoint: Endpoint| endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
        let plain = over_http::base(url);
        let token = args.token(plain.as_deref().unwrap_or(url)).map_err(of_participant)?;
        let remote: Arc<dyn Target> = match plain {
            Some(plain) => {
                let connector = args.http(&plain, CONNECT_TIMEOUT).map_err(of_participant)?;
                let connected = OverHttp::over(url, connector).await;
                Arc::new(connected.map_err(|error| Error::Unreachable {
                    endpoint: url.to_owned(),
                    why: error.to_string(),
                })?)
            }
            None => {
                let channel = args.connect(url, bounded).await.map_err(of_participant)?;
                Arc::new(Remote::over(channel))
            }
        };
        Ok(Signing { remote, token })
    }
}

fn of_participant(error: client::Error) -> Error {
    match error {
        client::Error::Unreachable { endpoint, why } => Error::Unreachable { endpoint, why },
        client::Error::Tls(why) => Error::Caller(why),
        error => Error::Caller(error.to_string()),
    }
}

/// A participant that is called with a token, if there is one.
pub(super) struct Signing {
    remote: Arc<dyn Target>,
    token: Option<TokenFile>,
}

impl Signing {
    fn signed<T>(&self, mut request: Request<T>) -> Request<T> {
        if let Some(token) = &self.token {
            token.sign(&mut request);
        }
        request
    }
}

#[async_trait]
impl Target for Signing {
    async fn prepare(&self, request: Request<PrepareRequest>) -> Result<PrepareResponse, Status> {
        self.remote.prepare(self.signed(request)).await
    }

    async fn commit(&self, request: Request<CommitRequest>) -> Result<CommitResponse, Status> {
        self.remote.commit(self.signed(request)).await
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<CancelResponse, Status> {
        self.remote.cancel(self.signed(request)).await
    }
}
