//! A reply that is watched to its end: the votes that came with it count while it is good.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::scope::Propagation;

pin_project! {
    /// The body of a reply that a [`ClientLayer`](super::ClientLayer) has seen: the one that it was.
    #[derive(Debug)]
    pub struct Reply<B> {
        #[pin]
        body: B,
        watch: Option<Watch>,
    }
}

/// Votes that rest on the reply's good end.
#[derive(Debug)]
struct Watch {
    propagation: Propagation,
    vouched: Vec<String>,
    /// The status comes at the end.
    grpc: bool,
    progress: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Nobody looks at it: the headers have told the caller that the call succeeded.
    Unread,
    /// Somebody reads it, or has to: the call is given up if it is dropped now.
    Reading,
    Succeeded,
}

impl<B: Body> Reply<B> {
    /// `told` says that the headers have told how the call has ended.
    pub(super) fn new(
        body: B,
        (grpc, told): (bool, bool),
        vouched: Option<(Propagation, Vec<String>)>,
    ) -> Self {
        let watch = vouched.map(|(propagation, vouched)| {
            let progress = if told { Progress::Unread } else { Progress::Reading };
            Watch { propagation, vouched, grpc, progress }
        });
        Self { body, watch }
    }
}

impl<B: Body> Body for Reply<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        if let Some(watch) = this.watch
            && watch.progress == Progress::Unread
        {
            watch.progress = Progress::Reading;
        }
        let frame = ready!(this.body.as_mut().poll_frame(context));
        if let Some(watch) = this.watch {
            watch.saw(frame.as_ref(), this.body.is_end_stream());
            if matches!(frame, Some(Err(_))) {
                // At once, and not when the body is dropped: its reader is about to hear of it.
                *this.watch = None;
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Watch {
    fn saw<D, E>(&mut self, frame: Option<&Result<Frame<D>, E>>, is_end: bool) {
        let succeeded = match frame {
            Some(Err(_)) => false,
            Some(Ok(frame)) if self.grpc => {
                let status = frame.trailers_ref().and_then(|t| t.get(tonic::Status::GRPC_STATUS));
                status.is_some_and(|status| status.as_bytes() == b"0")
            }
            // Whoever has read all of it may ask no more.
            Some(Ok(_)) => is_end,
            // A gRPC reply without a status broke off.
            None => !self.grpc,
        };
        if succeeded {
            self.progress = Progress::Succeeded;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.progress == Progress::Reading {
            self.propagation.withdraw(&self.vouched);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::future::Ready;
    use std::pin::pin;
    use std::task::Waker;

    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, Request, Response};
    use tower_layer::Layer;
    use tower_service::Service;
    use unanimo_proto::v1::{Mode, Vote};

    use super::super::context::Context as TxContext;
    use super::super::trace::Trace;
    use super::*;

    const TX: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    #[derive(Clone, Copy)]
    enum Piece {
        Data,
        Status(&'static str),
        Broken,
        Nothing,
    }

    struct Pieces(VecDeque<Piece>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = ();

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
            Poll::Ready(match self.0.pop_front() {
                Some(Piece::Data) => Some(Ok(Frame::data(Bytes::from_static(b"data")))),
                Some(Piece::Status(status)) => {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", HeaderValue::from_static(status));
                    Some(Ok(Frame::trailers(trailers)))
                }
                Some(Piece::Broken) => Some(Err(())),
                Some(Piece::Nothing) => return Poll::Pending,
                None => None,
            })
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }
    }

    /// A server that answers every request in the same way.
    #[derive(Clone)]
    struct Server {
        status: u16,
        headers: Vec<(&'static str, &'static str)>,
        pieces: Vec<Piece>,
    }

    impl Service<Request<()>> for Server {
        type Response = Response<Pieces>;
        type Error = Infallible;
        type Future = Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<()>) -> Self::Future {
            let mut response = Response::builder().status(self.status);
            // A transaction's own reply echoes it.
            if let Some(tx_id) = request.headers().get("unanimo-tx-id") {
                response = response.header("unanimo-tx-id", tx_id);
            }
            for (name, value) in &self.headers {
                response = response.header(*name, *value);
            }
            let body = Pieces(self.pieces.clone().into());
            std::future::ready(Ok(response.body(body).expect("a response")))
        }
    }

    /// The vote that counts after the reply was read so far, and dropped.
    fn vote(server: Server, read: usize) -> Vote {
        let context = TxContext::new(TX, "g", Mode::Tcc, "c").expect("a context");
        let propagation = Propagation::new(context, Trace::default());
        let mut client = propagation.layer().layer(server);
        let mut context = Context::from_waker(Waker::noop());
        let call = pin!(client.call(Request::new(())));
        let Poll::Ready(Ok(response)) = call.poll(&mut context) else { panic!("no response") };
        {
            let mut body = pin!(response.into_body());
            for _ in 0..read {
                let _ = body.as_mut().poll_frame(&mut context);
            }
        }
        let listed = propagation.listed();
        let [branch] = &listed[..] else { panic!("one branch: {listed:?}") };
        branch.vote()
    }

    const ALL: usize = 9;

    #[test]
    fn s2_a_vote_of_an_http_call_counts_if_the_call_went_well() {
        use Piece::{Broken, Data, Nothing};
        for (status, pieces, read, counts) in [
            (200, &[Data, Data][..], ALL, true),
            (204, &[], ALL, true),
            (201, &[Data, Data], 0, true),
            (200, &[Data, Data], 1, false),
            (200, &[Data], 1, true),
            (200, &[Data, Broken], 2, false),
            (200, &[Nothing], 1, false),
            (302, &[], ALL, false),
            (409, &[Data], ALL, false),
            (500, &[Data], 0, false),
        ] {
            let headers = vec![("unanimo-branches", "a=prepared")];
            let counted = vote(Server { status, headers, pieces: pieces.to_vec() }, read);
            assert_eq!(counted == Vote::Prepared, counts, "{status}, {read} read");
        }
    }

    #[test]
    fn s2_a_vote_of_a_grpc_call_counts_if_its_status_is_ok() {
        use Piece::{Broken, Data, Status};
        for (in_headers, pieces, read, counts) in [
            (None, &[Data, Status("0")][..], ALL, true),
            (None, &[Data, Status("0")], 1, false),
            (None, &[Data, Status("13")], ALL, false),
            (None, &[Data], ALL, false),
            (None, &[Data, Broken], 2, false),
            (Some("9"), &[], ALL, false),
            (Some("0"), &[Status("0")], ALL, true),
            // Nobody knows how it has ended unless the headers say so.
            (None, &[Data, Status("0")], 0, false),
            (Some("0"), &[], 0, true),
        ] {
            for content in ["application/grpc+x", "application/grpc-web", "application/grpc-web+x"]
            {
                let mut headers =
                    vec![("unanimo-branches", "a=prepared"), ("content-type", content)];
                headers.extend(in_headers.map(|status| ("grpc-status", status)));
                let counted = vote(Server { status: 200, headers, pieces: pieces.to_vec() }, read);
                let case = format!("{content}: {in_headers:?}, {read} read");
                assert_eq!(counted == Vote::Prepared, counts, "{case}");
            }
        }
    }

    #[test]
    fn s2_a_no_counts_however_the_call_ends() {
        let headers = vec![("unanimo-branches", "a=refused")];
        let pieces = vec![Piece::Data, Piece::Broken];
        assert_eq!(vote(Server { status: 500, headers, pieces }, ALL), Vote::Refused);
    }
}
