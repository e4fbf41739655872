//! Requests on their way in (promise L5).
//!
//! A message is in memory as it comes, long before anything is admitted. So what has come of all of them is
//! counted: whoever would go over the bound is refused. A request that does not come on is ended: its bytes are
//! taken from others. Small requests are always received, so that votes, Commit and Rollback are never
//! refused.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tower_layer::Layer;

use super::error::too_many_uploads;

/// Bytes of each request that are not counted.
const SMALL_BYTES: usize = 64 << 10;

/// Longest time without a byte more.
const STALL_MAX: Duration = Duration::from_secs(10);

/// Longest time for the whole of a request.
const TIME_MAX: Duration = Duration::from_secs(60);

/// Path of the requests that are counted. Others are streams, of few bytes.
const OWN: &str = "/unanimo.";

/// Layer that counts requests on their way in.
#[derive(Clone, Debug)]
pub(super) struct Uploads {
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct Counts {
    bytes: AtomicUsize,
    bytes_max: usize,
}

impl Uploads {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { counts: Arc::new(Counts { bytes: AtomicUsize::new(0), bytes_max }) }
    }
}

impl<S> Layer<S> for Uploads {
    type Service = Receiving<S>;

    fn layer(&self, inner: S) -> Receiving<S> {
        Receiving { inner, counts: Arc::clone(&self.counts) }
    }
}

/// Service whose requests are counted while they come.
#[derive(Clone, Debug)]
pub(super) struct Receiving<S> {
    inner: S,
    counts: Arc<Counts>,
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for Receiving<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> S::Future {
        let counted = request.uri().path().starts_with(OWN);
        self.inner.call(match counted {
            true => request.map(|body| Body::new(Upload::new(body, Arc::clone(&self.counts)))),
            false => request,
        })
    }
}

/// Body of a request. It is dropped when the message is read, and counted by then.
#[derive(Debug)]
struct Upload {
    body: Body,
    counts: Arc<Counts>,
    received: usize,
    counted: usize,
    began: Instant,
    /// Ends the wait for more; none while nothing is waited for.
    patience: Option<Pin<Box<Sleep>>>,
}

impl Upload {
    fn new(body: Body, counts: Arc<Counts>) -> Self {
        let (received, counted, patience) = (0, 0, None);
        Self { body, counts, received, counted, began: Instant::now(), patience }
    }

    fn receive(&mut self, bytes: usize) -> Result<(), Status> {
        self.received += bytes;
        let more = self.received.saturating_sub(SMALL_BYTES) - self.counted;
        self.counted += more;
        let bytes_max = self.counts.bytes_max;
        // Added first, so that two at once cannot both take the last place.
        if self.counts.bytes.fetch_add(more, Ordering::Relaxed) + more > bytes_max && more > 0 {
            return Err(too_many_uploads(format_args!(
                "too much is in flight: bytes of requests on their way in would go over {bytes_max}"
            )));
        }
        Ok(())
    }

    fn poll_patience(&mut self, context: &mut Context<'_>) -> Poll<Status> {
        let until = (Instant::now() + STALL_MAX).min(self.began + TIME_MAX);
        let patience =
            self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        patience.as_mut().poll(context).map(|()| {
            let received = self.received;
            too_many_uploads(format_args!(
                "the request does not come on: {received} bytes came within {:?}",
                self.began.elapsed()
            ))
        })
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                this.patience = None;
                let received = this.receive(frame.data_ref().map_or(0, Bytes::len));
                Poll::Ready(Some(received.map(|()| frame)))
            }
            Poll::Ready(end) => Poll::Ready(end),
            Poll::Pending => this.poll_patience(context).map(|status| Some(Err(status))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.counts.bytes.fetch_sub(self.counted, Ordering::Relaxed);
    }
}
