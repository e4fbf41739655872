//! Connections that come in.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_stream::Stream;
use tonic::transport::server::TcpIncoming;

/// Pause before the next connection is taken where the system has nothing left for one.
const PAUSE: Duration = Duration::from_millis(100);

/// Errors of a system that has no memory, files or buffers left (`ENOMEM`, `ENFILE`, `EMFILE`, and `ENOBUFS` of
/// Linux and of others). That passes; the listener is well.
const PASSING: [i32; 5] = [12, 23, 24, 105, 55];

/// Connections of a listener, which waits where the system has nothing left for another one: the server would
/// otherwise end at that.
#[derive(Debug)]
pub(super) struct Incoming {
    tcp: TcpIncoming,
    pause: Option<Pin<Box<Sleep>>>,
}

impl From<TcpIncoming> for Incoming {
    fn from(tcp: TcpIncoming) -> Self {
        Self { tcp, pause: None }
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
                Some(Err(error)) if error.raw_os_error().is_some_and(|e| PASSING.contains(&e)) => {
                    tracing::warn!(%error, "no connection can be taken; trying again");
                    self.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
                }
                other => return Poll::Ready(other),
            }
        }
    }
}
