//! Answers on their way in (promise L5).
//!
//! An answer is in memory as it comes, before anything of it is counted with a transaction. So what has come of all of
//! them is counted, and one that would go over the bound is given up. Those of one server have a part of what the others'
//! leave: a server that sends much, or stops in the midst of it, takes nothing from others. Small answers, as most are,
//! are never given up.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tonic::Status;
use tonic::codegen::Service;

/// Part of the bytes that others leave which one server's answers may take: so many in so many.
const SHARE: (usize, usize) = (3, 4);

/// Size up to which an answer is taken however much there is: a vote with an output of some size.
const SPARED_BYTES: usize = 64 << 10;

/// Bytes of the answers of all servers.
#[derive(Debug)]
pub(crate) struct Replies {
    bytes: AtomicUsize,
    bytes_max: usize,
}

/// Bytes of the answers of one server.
#[derive(Debug)]
pub(crate) struct OfServer {
    all: Arc<Replies>,
    bytes: AtomicUsize,
}

impl Replies {
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicUsize::new(0), bytes_max })
    }

    /// Makes the count of one more server.
    pub(crate) fn of_server(self: &Arc<Self>) -> Arc<OfServer> {
        Arc::new(OfServer { all: Arc::clone(self), bytes: AtomicUsize::new(0) })
    }
}

impl OfServer {
    /// Counts more bytes; `false` if they would go over the server's share.
    fn add(&self, more: usize) -> bool {
        // Added first, so that two at once cannot both take the last place.
        let own = self.bytes.fetch_add(more, Ordering::Relaxed) + more;
        let all = self.all.bytes.fetch_add(more, Ordering::Relaxed) + more;
        let (part, whole) = SHARE;
        own <= self.all.bytes_max.saturating_sub(all.saturating_sub(own)) / whole * part
    }

    fn take_off(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.all.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// There is no memory for an answer.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("answers on their way in would go over this server's share of {0} bytes (live-bytes-max)")]
pub(crate) struct TooMuch(usize);

/// Body of an answer, counted until it is dropped: when it is read, or given up.
#[derive(Debug)]
pub(crate) struct Reply<B> {
    body: B,
    server: Option<Arc<OfServer>>,
    received: usize,
}

impl<B> Reply<B> {
    /// Counts a body of this server's; of none it is not counted.
    pub(crate) fn new(body: B, server: Option<Arc<OfServer>>) -> Self {
        Self { body, server, received: 0 }
    }

    fn receive(&mut self, bytes: usize) -> Result<(), TooMuch> {
        let Some(server) = &self.server else { return Ok(()) };
        self.received += bytes;
        match server.add(bytes) || self.received <= SPARED_BYTES {
            true => Ok(()),
            false => Err(TooMuch(server.all.bytes_max)),
        }
    }
}

impl<B> Drop for Reply<B> {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.take_off(self.received);
        }
    }
}

type AnyError = Box<dyn Error + Send + Sync>;

impl<B> Body for Reply<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<AnyError>,
{
    type Data = Bytes;
    type Error = AnyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnyError>>> {
        Poll::Ready(match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => {
                let received = self.receive(frame.data_ref().map_or(0, Bytes::len));
                Some(received.map(|()| frame).map_err(Into::into))
            }
            Some(Err(error)) => Some(Err(error.into())),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Connection over gRPC whose answers are counted.
#[derive(Clone, Debug)]
pub(crate) struct Counted<S> {
    inner: S,
    server: Arc<OfServer>,
}

impl<S> Counted<S> {
    pub(crate) fn new(inner: S, server: Arc<OfServer>) -> Self {
        Self { inner, server }
    }
}

impl<S> Service<Request<tonic::body::Body>> for Counted<S>
where
    S: Service<Request<tonic::body::Body>, Response = Response<tonic::body::Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<tonic::body::Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let (answering, server) = (self.inner.call(request), Arc::clone(&self.server));
        Box::pin(async move {
            let counted = |body| Reply::new(body, Some(server)).map_err(in_words);
            Ok(answering.await?.map(|body| tonic::body::Body::new(counted(body))))
        })
    }
}

/// Makes a status of an answer that is too much: it is that call's failure, and not its connection's.
fn in_words(error: AnyError) -> AnyError {
    match error.downcast::<TooMuch>() {
        Ok(too_much) => Status::out_of_range(too_much.to_string()).into(),
        Err(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(reply: &mut Reply<()>, kib: usize) -> bool {
        reply.receive(kib << 10).is_ok()
    }

    #[test]
    fn l5_answers_of_one_server_leave_memory_to_those_of_others() {
        let replies = Replies::new(16 << 20);
        let (greedy, other) = (replies.of_server(), replies.of_server());
        let reply = |server: &Arc<OfServer>| Reply::new((), Some(Arc::clone(server)));
        let mut held: Vec<_> = (0..12).map(|_| reply(&greedy)).collect();
        assert!(held.iter_mut().all(|reply| receive(reply, 1024)), "three quarters of 16 MiB");
        let mut more = reply(&greedy);
        assert!(receive(&mut more, 64), "a small one is taken");
        assert!(!receive(&mut more, 1));
        drop(more);
        let mut others = reply(&other);
        assert!(receive(&mut others, 3 * 1024), "three quarters of what is left");
        assert!(!receive(&mut others, 1));
        drop((held, others));
        assert_eq!(replies.bytes.load(Ordering::Relaxed), 0);
        assert_eq!(greedy.bytes.load(Ordering::Relaxed), 0);
        assert!(receive(&mut reply(&other), 12 * 1024));
    }
}
