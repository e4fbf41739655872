//! A TLS connection of a server.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::server::Connected;

use crate::Peer;
use crate::end::End;
use crate::peer::{names, not_after};

/// A TLS connection that a server has accepted. It ends when the time of the certificate is over that the other end
/// has shown.
#[derive(Debug)]
pub struct TlsStream {
    io: tokio_rustls::server::TlsStream<TcpStream>,
    peer: Peer,
    /// The end of the time of the other end's certificate, if it has shown one.
    end: Option<End>,
}

impl TlsStream {
    pub(crate) fn new(io: tokio_rustls::server::TlsStream<TcpStream>) -> Self {
        let (tcp, session) = io.get_ref();
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        let peer = Peer { address: tcp.peer_addr().ok(), names: certificate.map(names) };
        let end = certificate.and_then(not_after).map(End::new);
        Self { io, peer, end }
    }

    /// Returns what is known of the other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Fails once there was time to send what was left at the end of the certificate.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.end.as_mut().is_some_and(|end| end.is_long_past(context)) {
            true => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "the client's certificate has expired"))
            }
            false => Ok(()),
        }
    }
}

impl Connected for TlsStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.end.as_mut().is_some_and(|end| end.is_past(context)) {
            // As if the other end had closed it: what is to be sent is sent, and nothing more is read.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
