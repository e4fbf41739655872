//! Answers that are streams, as server-sent events.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body::{Body as _, Frame};
use prost_reflect::{DynamicMessage, MessageDescriptor};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tonic::Status;
use tonic::body::Body;

use super::answer::{Messages, error_in, guarded, json, unbuffered};
use super::problem;
use crate::api::answers::Answers;

/// Interval of the comments by which a connection proves that it is open.
const ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Body of events.
pub(super) struct Events {
    body: Body,
    messages: Messages,
    message: MessageDescriptor,
    answers: Answers,
    alive: Interval,
    is_over: bool,
}

/// Makes the response of a stream that has begun.
pub(super) fn response(
    response: Response<Body>,
    message: MessageDescriptor,
    answers: Answers,
) -> Response<Events> {
    let mut alive = interval_at(Instant::now() + ALIVE_INTERVAL, ALIVE_INTERVAL);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let body = response.into_body();
    let messages = Messages::default();
    let events = Events { body, messages, message, answers, alive, is_over: false };
    let mut response = Response::new(events);
    let media_type = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    guarded(response.headers_mut());
    unbuffered(response.headers_mut());
    response
}

impl Events {
    /// Makes the event of a message. Its id is the revision, after which a reader goes on.
    fn event(&self, bytes: &[u8]) -> Result<String, Status> {
        let text = String::from_utf8(json(&self.message, bytes)?);
        let text = text.map_err(|_| Status::internal("JSON is UTF-8"))?;
        let id = revision(&self.message, bytes).map(|id| format!("id: {id}\n")).unwrap_or_default();
        Ok(format!("event: state\n{id}data: {text}\n\n"))
    }

    fn end(&mut self, status: Option<&Status>) -> String {
        self.is_over = true;
        match status {
            None => "event: end\ndata: {}\n\n".to_owned(),
            Some(status) => format!("event: error\ndata: {}\n\n", problem::of(status)),
        }
    }

    fn poll_text(&mut self, context: &mut Context<'_>) -> Poll<String> {
        loop {
            if let Some(bytes) = self.messages.next() {
                let event = self.event(&bytes);
                return Poll::Ready(event.unwrap_or_else(|status| self.end(Some(&status))));
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
                ready!(self.alive.poll_tick(context));
                return Poll::Ready(":\n\n".to_owned());
            };
            match frame {
                None => return Poll::Ready(self.end(None)),
                Some(Err(status)) => return Poll::Ready(self.end(Some(&status))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.messages.add(&data),
                    Err(frame) => {
                        let status = frame.trailers_ref().and_then(error_in);
                        return Poll::Ready(self.end(status.as_ref()));
                    }
                },
            }
        }
    }
}

/// Returns the revision of a message, or of the transaction in it, if it has one.
fn revision(message: &MessageDescriptor, bytes: &[u8]) -> Option<u64> {
    let message = DynamicMessage::decode(message.clone(), bytes).ok()?;
    if let Some(revision) = message.get_field_by_name("revision") {
        return revision.as_u64();
    }
    let transaction = message.get_field_by_name("transaction")?;
    transaction.as_message()?.get_field_by_name("revision")?.as_u64()
}

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let text = ready!(self.poll_text(context));
        // Where there is no room for it, the connection breaks off, and the reader comes again.
        Poll::Ready(Some(self.answers.counted(text.into()).map(Frame::data)))
    }
}
