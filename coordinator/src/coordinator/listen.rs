//! Addresses of a coordinator.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

use super::StartError;
use crate::config::Config;

/// Connections that the system accepts before the server does.
const BACKLOG: u32 = 1024;

/// The socket of gRPC, which is bound and refuses connections, and the address of the other one.
pub(super) struct Sockets {
    grpc: TcpSocket,
    admin: SocketAddr,
}

impl Sockets {
    /// Binds both addresses, and listens on that of health and metrics.
    ///
    /// The other one refuses connections until the coordinator can serve: whoever probes the port, or
    /// has a second coordinator to try, is told the truth.
    pub(super) async fn bind(config: &Config) -> Result<(Self, TcpListener), StartError> {
        let grpc = bind_only(config).map_err(|source| failed(config.listen, source))?;
        let admin = TcpListener::bind(config.admin_listen)
            .await
            .map_err(|source| failed(config.admin_listen, source))?;
        let address = admin.local_addr().unwrap_or(config.admin_listen);
        tracing::info!(admin = %address, "health and metrics are served");
        Ok((Self { grpc, admin: address }, admin))
    }

    /// Listens on the address of gRPC, and returns both addresses.
    pub(super) fn listen(
        self,
        asked: SocketAddr,
    ) -> Result<(TcpListener, (SocketAddr, SocketAddr)), StartError> {
        let grpc = self.grpc.listen(BACKLOG).map_err(|source| failed(asked, source))?;
        let address = grpc.local_addr().unwrap_or(asked);
        Ok((grpc, (address, self.admin)))
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

fn failed(address: SocketAddr, source: io::Error) -> StartError {
    StartError::Listen { address, source }
}
