//! Connections that come in.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Sleep;
use tokio_stream::Stream;
use tonic::transport::server::TcpIncoming;

/// Pause before the next connection is taken where none could be: the system may have no memory or files
/// left, which passes.
const PAUSE: Duration = Duration::from_millis(100);

/// Errors that say that the listener is none any more: `EBADF`, `EINVAL`, and `ENOTSOCK` and `EOPNOTSUPP` of
/// Linux.
const DEAD: [i32; 4] = [9, 22, 88, 95];

/// Connections of a listener. It ends with the listener, and says why; the server would otherwise try for
/// ever.
#[derive(Debug)]
pub(super) struct Incoming {
    tcp: TcpIncoming,
    pause: Option<Pin<Box<Sleep>>>,
    end: watch::Sender<Option<String>>,
}

impl Incoming {
    pub(super) fn new(tcp: TcpIncoming, end: watch::Sender<Option<String>>) -> Self {
        Self { tcp, pause: None, end }
    }
}

impl Stream for Incoming {
    type Item = io::Result<TcpStream>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            match ready!(Pin::new(&mut self.tcp).poll_next(context)) {
                Some(Err(error)) if error.raw_os_error().is_some_and(|e| DEAD.contains(&e)) => {
                    tracing::error!(%error, "the participant is served no longer: its listener is dead");
                    self.end.send_replace(Some(format!("its listener is dead: {error}")));
                    return Poll::Ready(None);
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "no connection can be taken; trying again");
                    self.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
                }
                other => return Poll::Ready(other),
            }
        }
    }
}
