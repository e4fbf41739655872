//! Listener of HTTP over TLS.

use std::io;
use std::net::SocketAddr;

use axum::serve::Listener;
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tonic::transport::server::TcpIncoming;
use unanimo_tls::{Handshakes, Server, TlsStream};

use crate::descriptors::Accepting;

/// Connections of a TCP listener, over TLS.
pub(super) struct TlsListener {
    address: io::Result<SocketAddr>,
    handshakes: Handshakes<Accepting<TcpIncoming>>,
}

impl TlsListener {
    pub(super) fn new(listener: TcpListener, server: &Server, handshakes_max: usize) -> Self {
        let address = listener.local_addr();
        let tcp = TcpIncoming::from(listener).with_nodelay(Some(true));
        Self { address, handshakes: server.http(Accepting::new(tcp)).at_most(handshakes_max) }
    }
}

impl Listener for TlsListener {
    type Io = TlsStream;
    type Addr = Option<SocketAddr>;

    async fn accept(&mut self) -> (TlsStream, Option<SocketAddr>) {
        loop {
            match self.handshakes.next().await {
                Some(Ok(stream)) => {
                    let address = stream.peer().address;
                    return (stream, address);
                }
                // The stream below it tells of those that cannot be accepted, and pauses.
                Some(Err(_)) => {}
                // A listener that is open has no end.
                None => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        match &self.address {
            Ok(address) => Ok(Some(*address)),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        }
    }
}
