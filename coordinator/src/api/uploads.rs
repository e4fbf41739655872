//! Requests on their way in (promise L5).
//!
//! A message is in memory as it comes, long before anything is admitted. So what has come of all of them is
//! counted: whoever would go over the bound is refused. A request that does not come on is ended: its bytes are
//! taken from others. The first part of each is counted apart, so that large requests take nothing from small
//! ones, such as Commit and Rollback. Where many small ones do not come on, each of them has less time.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
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

/// Bytes of each request that are counted apart.
const SMALL_BYTES: usize = 64 << 10;

/// Size up to which a request is received however many others stall: most are smaller, and whoever wants to commit or
/// roll back must be heard. It is counted all the same.
pub(super) const SPARED_BYTES: usize = 4 << 10;

/// Memory that a request takes before a byte of its message has come: its stream, its task, its headers. It is counted
/// with the first part.
const REQUEST_BYTES: usize = 16 << 10;

/// Longest time without a byte more.
const STALL_MAX: Duration = Duration::from_secs(10);

/// The same while half of the bytes for small requests are taken.
const STALL_CROWDED: Duration = Duration::from_secs(1);

/// Longest time for the whole of a request.
const TIME_MAX: Duration = Duration::from_secs(60);

/// Layer that counts requests on their way in.
#[derive(Clone, Debug)]
pub(super) struct Uploads {
    counts: Arc<Counts>,
}

/// Counts of bytes that are on their way, in one direction.
#[derive(Debug)]
pub(super) struct Counts {
    /// Of the messages' first parts, and of what goes beyond.
    bytes: [AtomicUsize; 2],
    /// Bound on each.
    bytes_max: usize,
}

/// Returns the bytes of the first part of so many, and of what goes beyond.
pub(super) fn parts(bytes: usize) -> [usize; 2] {
    let small = bytes.min(SMALL_BYTES);
    [small, bytes - small]
}

impl Counts {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes: Default::default(), bytes_max }
    }

    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Counts both parts; `false` if one of them would go over its bound.
    pub(super) fn add_parts(&self, parts: [usize; 2]) -> bool {
        let [small, large] = [0, 1].map(|part| self.add(part, parts[part]));
        small && large
    }

    /// Counts both parts no more.
    pub(super) fn take_off(&self, parts: [usize; 2]) {
        for (bytes, counted) in self.bytes.iter().zip(parts) {
            bytes.fetch_sub(counted, Ordering::Relaxed);
        }
    }

    /// Counts more bytes of small messages or large ones; `false` if they would go over the bound.
    fn add(&self, part: usize, more: usize) -> bool {
        // Added first, so that two at once cannot both take the last place.
        let bytes = self.bytes[part].fetch_add(more, Ordering::Relaxed) + more;
        more == 0 || bytes <= self.bytes_max
    }

    fn is_crowded(&self) -> bool {
        self.bytes[0].load(Ordering::Relaxed) > self.bytes_max / 2
    }
}

impl Uploads {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { counts: Arc::new(Counts::new(bytes_max)) }
    }

    /// Counts a request's body while it comes.
    pub(super) fn counted(&self, body: Body) -> Body {
        Body::new(Upload::new(body, Arc::clone(&self.counts)))
    }
}

impl<S> Layer<S> for Uploads {
    type Service = Receiving<S>;

    fn layer(&self, inner: S) -> Receiving<S> {
        Receiving { inner, uploads: self.clone() }
    }
}

/// Service whose requests are counted while they come.
#[derive(Clone, Debug)]
pub(super) struct Receiving<S> {
    inner: S,
    uploads: Uploads,
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for Receiving<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> S::Future {
        let uploads = &self.uploads;
        self.inner.call(request.map(|body| uploads.counted(body)))
    }
}

/// Body of a request. It is dropped when the message is read, and counted by then.
#[derive(Debug)]
struct Upload {
    body: Body,
    counts: Arc<Counts>,
    received: usize,
    /// Bytes that are counted of it, by part.
    counted: [usize; 2],
    began: Instant,
    /// Since when nothing has come; nothing while nothing is waited for.
    stalled_at: Option<Instant>,
    /// The next look at whether the wait is over.
    look: Option<Pin<Box<Sleep>>>,
}

impl Upload {
    fn new(body: Body, counts: Arc<Counts>) -> Self {
        let began = Instant::now();
        // Never refused for it: nothing that could be let go has come yet.
        counts.add(0, REQUEST_BYTES);
        let counted = [REQUEST_BYTES, 0];
        Self { body, counts, received: 0, counted, began, stalled_at: None, look: None }
    }

    fn receive(&mut self, bytes: usize) -> Result<(), Status> {
        self.received += bytes;
        let [small, large] = parts(self.received);
        let now = [REQUEST_BYTES + small, large];
        let bytes_max = self.counts.bytes_max;
        let mut is_within = true;
        for (part, now) in now.into_iter().enumerate() {
            let more = now - std::mem::replace(&mut self.counted[part], now);
            is_within &= self.counts.add(part, more);
        }
        if !is_within && self.received > SPARED_BYTES {
            return Err(too_many_uploads(format_args!(
                "too much is in flight: bytes of requests on their way in would go over {bytes_max}"
            )));
        }
        Ok(())
    }

    /// Ends the wait for more. It looks again and again, because the others may crowd it in the meantime.
    fn poll_patience(&mut self, context: &mut Context<'_>) -> Poll<Status> {
        loop {
            let now = Instant::now();
            let stalled_at = *self.stalled_at.get_or_insert(now);
            let stall = if self.counts.is_crowded() { STALL_CROWDED } else { STALL_MAX };
            let until = (stalled_at + stall).min(self.began + TIME_MAX);
            if now >= until {
                let (received, took) = (self.received, self.began.elapsed());
                return Poll::Ready(too_many_uploads(format_args!(
                    "the request does not come on: {received} bytes came within {took:?}"
                )));
            }
            let look_at = until.min(now + STALL_CROWDED);
            let look = self.look.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(look_at)));
            ready!(look.as_mut().poll(context));
            self.look = None;
        }
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
                (this.stalled_at, this.look) = (None, None);
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
        self.counts.take_off(self.counted);
    }
}
