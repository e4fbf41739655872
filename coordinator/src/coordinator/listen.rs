//! Addresses of a coordinator.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

use super::{Running, StartError};
use crate::config::Config;

/// Connections that the system accepts before the server does.
const BACKLOG: u32 = 1024;

/// Addresses on which a coordinator serves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub(super) grpc: SocketAddr,
    pub(super) admin: SocketAddr,
    /// That of the API over HTTP; none where it is served with health and metrics.
    pub(super) http: Option<SocketAddr>,
    /// Address of the pages for people, which are served where the API over HTTP is.
    pub(super) pages: Option<SocketAddr>,
}

/// Listeners of HTTP.
pub(super) struct Listeners {
    pub(super) admin: TcpListener,
    pub(super) http: Option<TcpListener>,
}

/// The socket of gRPC, which is bound and refuses connections, and the addresses of the others.
pub(super) struct Sockets {
    grpc: TcpSocket,
    admin: SocketAddr,
    http: Option<SocketAddr>,
    pages: Option<SocketAddr>,
}

impl Sockets {
    /// Binds all addresses, and listens on those of HTTP.
    ///
    /// That of gRPC refuses connections until the coordinator can serve: whoever probes the port, or
    /// has a second coordinator to try, is told the truth.
    pub(super) async fn bind(config: &Config) -> Result<(Self, Listeners), StartError> {
        config.descriptors().tell(config.callers());
        let grpc = bind_only(config).map_err(|source| failed("listen", config.listen, source))?;
        let admin = TcpListener::bind(config.admin_listen)
            .await
            .map_err(|source| failed("admin-listen", config.admin_listen, source))?;
        let address = admin.local_addr().unwrap_or(config.admin_listen);
        tracing::info!(admin = %address, "health and metrics are served");
        let http = match config.http_listen.0 {
            None => None,
            Some(asked) => {
                let bound = TcpListener::bind(asked).await;
                Some(bound.map_err(|source| failed("http-listen", asked, source))?)
            }
        };
        let of_http = http.as_ref().and_then(|http| http.local_addr().ok());
        let pages = of_http.or_else(|| config.admin_serves_api().then_some(address));
        Ok((Self { grpc, admin: address, http: of_http, pages }, Listeners { admin, http }))
    }

    /// Listens on the address of gRPC, and returns all addresses.
    pub(super) fn listen(self, asked: SocketAddr) -> Result<(TcpListener, Addresses), StartError> {
        let Self { grpc, admin, http, pages } = self;
        let grpc = grpc.listen(BACKLOG).map_err(|source| failed("listen", asked, source))?;
        let address = grpc.local_addr().unwrap_or(asked);
        Ok((grpc, Addresses { grpc: address, admin, http, pages }))
    }
}

impl Running {
    /// Returns the address on which the API over HTTP is served alone; `None` without such an address.
    #[must_use]
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.addresses.and_then(|of| of.http)
    }

    /// Returns the address of the dashboard; `None` where it is not served.
    #[must_use]
    pub fn dashboard_address(&self) -> Option<SocketAddr> {
        self.addresses.and_then(|of| of.pages)
    }
}

fn bind_only(config: &Config) -> io::Result<TcpSocket> {
    let address = config.listen;
    if !config.knows_clients() && !address.ip().is_loopback() {
        tracing::warn!(
            %address,
            "other machines can reach this address, and clients need no certificate: every program that \
             reaches it can start, commit and roll back transactions"
        );
    }
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As a listener does: connections of an earlier process may not have ended yet.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn failed(setting: &'static str, address: SocketAddr, source: io::Error) -> StartError {
    StartError::Listen { setting, address, source }
}
