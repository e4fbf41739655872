//! Answers on their way out (promise L5).
//!
//! An answer is in memory until its caller has read it, and a caller that asks and does not read costs nothing itself.
//! So what is handed over and not sent yet is counted: an answer that would go over the bound is replaced by an error.
//! HTTP/2 takes a whole message as soon as there is room for one byte of it, and lets go of it when it is sent. The count
//! goes with the bytes. As with [requests](super::uploads), the first part of each is counted apart.
//!
//! After a message of some size the next one, or the end, waits until it is sent. An answer that is not read for long is
//! given up, and no other one with it. Where there is no room for even one byte, HTTP/2 does not ask for more, so that the
//! stream cannot be reset from here (a test of the suite notices if that changes), and the [connection](super::connections) is
//! closed.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::{Code, Status};
use tower_layer::Layer;

use super::connections::{Call, Readers, Reserved, UNREAD_MAX, connection_of};
use super::error::{for_operators_only, too_many_unread};
use super::rpc;
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

    /// Counts bytes that are handed over, until they are dropped; an error if there is no room for them.
    pub(super) fn counted(&self, data: Bytes) -> Result<Bytes, Status> {
        self.handed(data).map(Bytes::from_owner)
    }

    fn handed(&self, data: Bytes) -> Result<Handed, Status> {
        let bytes = data.len();
        let counted = parts(bytes);
        self.metrics.answer_handed_over(bytes);
        let is_within = self.counts.add_parts(counted);
        let handed = Handed { data, counted, answers: self.clone(), place: None, sent: None };
        if bytes <= SPARED_BYTES || is_within {
            return Ok(handed);
        }
        self.metrics.answer_refused();
        let bytes_max = self.counts.bytes_max();
        Err(too_many_unread(format_args!(
            "too much is in flight: bytes of answers that are not read yet would go over {bytes_max}"
        )))
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
        let (answers, own) = (self.answers.clone(), connection_of(&mut request));
        let (readers, reserved) = own.map_or((None, None), |own| (Some(own.readers), own.reserved));
        let call = match reserved {
            Some(reserved) if !rpc::is_for_operators(request.uri().path()) => {
                reserved.refuse();
                return Box::pin(async { Ok(for_operators_only().into_http()) });
            }
            reserved => reserved.map(Reserved::begin),
        };
        let answering = self.inner.call(request);
        Box::pin(async move {
            let response = answering.await?;
            let call = match call {
                Some(call) if was_not_admitted(response.headers()) => {
                    call.refuse();
                    None
                }
                call => call,
            };
            Ok(response.map(|body| Body::new(Answer::new(body, answers, readers, call))))
        })
    }
}

/// Tells whether an answer is that to somebody who is not known, or has no role for the call.
fn was_not_admitted(headers: &http::HeaderMap) -> bool {
    let code = headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()));
    matches!(code, Some(Code::Unauthenticated | Code::PermissionDenied))
}

/// Body of an answer.
#[derive(Debug)]
struct Answer {
    body: Body,
    answers: Answers,
    readers: Option<Arc<Readers>>,
    /// The call, on a connection for those of operators.
    _call: Option<Call>,
    /// Bytes that were handed over last, if they are of some size: whether they are sent, and the time for that.
    handed: Option<(Arc<Sent>, Pin<Box<Sleep>>)>,
    is_over: bool,
}

/// Knowledge whether bytes that were handed over are sent, or given up.
#[derive(Debug, Default)]
struct Sent {
    is_sent: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Sent {
    fn wait_with(&self, waker: &Waker) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }

    fn note(&self) {
        self.is_sent.store(true, Ordering::Release);
        if let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
    }
}

/// Bytes that are handed over, and counted until they are dropped.
#[derive(Debug)]
struct Handed {
    data: Bytes,
    counted: [usize; 2],
    answers: Answers,
    /// For bytes of some size: where they are among the unread ones of their connection.
    place: Option<(Arc<Readers>, u64)>,
    sent: Option<Arc<Sent>>,
}

impl AsRef<[u8]> for Handed {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        self.answers.metrics.answer_read(self.data.len());
        self.answers.counts.take_off(self.counted);
        if let Some((readers, number)) = &self.place {
            readers.end(*number);
        }
        if let Some(sent) = &self.sent {
            sent.note();
        }
    }
}

impl Answer {
    fn new(
        body: Body,
        answers: Answers,
        readers: Option<Arc<Readers>>,
        call: Option<Call>,
    ) -> Self {
        Self { body, answers, readers, _call: call, handed: None, is_over: false }
    }

    /// Hands bytes over, which are counted from now on.
    fn hand_over(&mut self, data: Bytes) -> Result<Bytes, Status> {
        let bytes = data.len();
        let mut handed = self.answers.handed(data)?;
        if bytes <= SPARED_BYTES {
            return Ok(Bytes::from_owner(handed));
        }
        let sent = Arc::<Sent>::default();
        handed.sent = Some(Arc::clone(&sent));
        let readers = self.readers.as_ref();
        handed.place = readers.map(|all| (Arc::clone(all), all.begin(Instant::now())));
        self.handed = Some((sent, Box::pin(sleep(UNREAD_MAX))));
        Ok(Bytes::from_owner(handed))
    }

    /// Waits until what was handed over is sent, or not for longer.
    fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let Some((sent, patience)) = &mut self.handed else { return Poll::Ready(Ok(())) };
        sent.wait_with(context.waker());
        if sent.is_sent.load(Ordering::Acquire) {
            self.handed = None;
            return Poll::Ready(Ok(()));
        }
        ready!(patience.as_mut().poll(context));
        self.handed = None;
        Poll::Ready(Err(too_many_unread(format_args!(
            "the answer was not read within {UNREAD_MAX:?}"
        ))))
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
        if this.is_over {
            return Poll::Ready(None);
        }
        if let Err(status) = ready!(this.poll_sent(context)) {
            this.is_over = true;
            return Poll::Ready(Some(Err(status)));
        }
        let Some(frame) = ready!(Pin::new(&mut this.body).poll_frame(context)) else {
            return Poll::Ready(None);
        };
        let data = match frame?.into_data() {
            Ok(data) => data,
            Err(frame) => return Poll::Ready(Some(Ok(frame))),
        };
        Poll::Ready(Some(Ok(match this.hand_over(data) {
            Ok(data) => Frame::data(data),
            Err(status) => {
                this.is_over = true;
                let mut trailers = status.into_http::<()>().headers().clone();
                trailers.remove(http::header::CONTENT_TYPE);
                Frame::trailers(trailers)
            }
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || (self.handed.is_none() && self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        // Less may come of it, if it is refused.
        SizeHint::default()
    }
}
