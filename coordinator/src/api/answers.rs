//! Answers on their way out (promise L5).
//!
//! An answer is in memory until its caller has read it, and a caller that asks and does not read costs nothing itself.
//! So what is handed over and not read yet is counted: an answer that would go over the bound is replaced by an error.
//! HTTP/2 asks a body for more once there is room for it, so whatever was handed over before is read, but for a window.
//! As with [requests](super::uploads), the first part of each is counted apart.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tower_layer::Layer;

use super::connections::{Readers, readers_of};
use super::error::too_many_unread;
use super::uploads::{Counts, SPARED_BYTES, parts};
use crate::metrics::Metrics;

/// Layer that counts answers on their way out.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    counts: Arc<Counts>,
    metrics: Arc<Metrics>,
}

impl Answers {
    pub(super) fn new(bytes_max: usize, metrics: Arc<Metrics>) -> Self {
        Self { counts: Arc::new(Counts::new(bytes_max)), metrics }
    }
}

impl<S> Layer<S> for Answers {
    type Service = Sending<S>;

    fn layer(&self, inner: S) -> Sending<S> {
        Sending { inner, answers: self.clone() }
    }
}

/// Service whose answers are counted while they are read.
#[derive(Clone, Debug)]
pub(super) struct Sending<S> {
    inner: S,
    answers: Answers,
}

impl<S> Service<Request<Body>> for Sending<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let (readers, answers) = (readers_of(&mut request), self.answers.clone());
        let answering = self.inner.call(request);
        Box::pin(async move {
            let response = answering.await?;
            Ok(response.map(|body| Body::new(Answer::new(body, answers, readers))))
        })
    }
}

/// Body of an answer.
#[derive(Debug)]
struct Answer {
    body: Body,
    answers: Answers,
    readers: Option<Arc<Readers>>,
    /// Bytes that were handed over last, by part.
    counted: [usize; 2],
    /// Its number among the unread ones of its connection.
    number: Option<u64>,
    is_over: bool,
}

impl Answer {
    fn new(body: Body, answers: Answers, readers: Option<Arc<Readers>>) -> Self {
        Self { body, answers, readers, counted: [0, 0], number: None, is_over: false }
    }

    /// Counts what is handed over.
    fn hand_over(&mut self, bytes: usize) -> Result<(), Status> {
        self.counted = parts(bytes);
        let Answers { counts, metrics } = &self.answers;
        metrics.answer_handed_over(bytes);
        if !counts.add_parts(self.counted) && bytes > SPARED_BYTES {
            metrics.answer_refused();
            let bytes_max = counts.bytes_max();
            return Err(too_many_unread(format_args!(
                "too much is in flight: bytes of answers that are not read yet would go over {bytes_max}"
            )));
        }
        if bytes > SPARED_BYTES {
            self.number = self.readers.as_ref().map(|readers| readers.begin(Instant::now()));
        }
        Ok(())
    }

    /// Counts no more what was handed over: it is read, or given up.
    fn was_read(&mut self) {
        let counted = std::mem::take(&mut self.counted);
        self.answers.metrics.answer_read(counted.iter().sum());
        self.answers.counts.take_off(counted);
        if let Some((readers, number)) = self.readers.as_ref().zip(self.number.take()) {
            readers.end(number);
        }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        this.was_read();
        if this.is_over {
            return Poll::Ready(None);
        }
        let Some(frame) = ready!(Pin::new(&mut this.body).poll_frame(context)) else {
            return Poll::Ready(None);
        };
        let frame = frame?;
        if let Err(status) = this.hand_over(frame.data_ref().map_or(0, Bytes::len)) {
            this.was_read();
            this.is_over = true;
            let mut trailers = status.into_http::<()>().headers().clone();
            trailers.remove(http::header::CONTENT_TYPE);
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // Less may come of it, if it is refused.
        SizeHint::default()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.was_read();
    }
}
