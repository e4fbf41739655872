//! WatchTransaction: a stream of states that ends with OK only after the ended one.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::Sleep;
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Status};
use unanimo_core::Namespace;
use unanimo_proto::v1::{self, watch_transaction_request};

use super::access::Access;
use super::convert::{self, Content};
use super::deadline::Deadline;
use super::error::from_engine;
use super::namespace::Told;
use super::query::no_key;
use super::{Api, calls, hidden, parse};
use crate::engine::{Error, View};
use crate::store::Key;

/// States of one transaction.
#[derive(Debug)]
pub(crate) struct Watching {
    first: Option<Box<View>>,
    changes: Option<WatchStream<Result<Box<View>, Error>>>,
    /// Revision of the last state that the caller has seen.
    seen: u64,
    content: Content,
    /// Caller who may not read outputs.
    unread_by: Option<Access>,
    /// The end of the call's time, if it has one.
    over: Option<Pin<Box<Sleep>>>,
    /// The caller's.
    namespace: Option<Namespace>,
}

impl Told for Watching {
    /// Has it taken off each state that comes.
    fn take_off(&mut self, namespace: &Namespace) {
        self.namespace = Some(namespace.clone());
    }
}

impl Api {
    pub(super) async fn watch(
        &self,
        request: Request<v1::WatchTransactionRequest>,
    ) -> Result<Watching, Status> {
        let Deadline { until: by, last, asked } = self.deadline(&request);
        let access = Access::of(&request);
        calls::look_on(&request)?;
        let v1::WatchTransactionRequest { key, after_revision, include_outputs, .. } =
            request.into_inner();
        let key = match key {
            Some(watch_transaction_request::Key::TxId(text)) => Key::Tx(parse::tx_id(&text)?),
            Some(watch_transaction_request::Key::Gid(text)) => {
                Key::Gid(parse::known_gid(&text, access.names())?)
            }
            None => return Err(no_key()),
        };
        self.check_own(&access, &key, by).await?;
        let (view, receiver) = self.engine.watch(key, by).await.map_err(from_engine)?;
        let may_read = self.may_read(&access, &view);
        Ok(Watching {
            first: Some(view),
            changes: receiver.map(WatchStream::from_changes),
            seen: after_revision,
            content: Content { outputs: include_outputs, payloads: false },
            unread_by: (!may_read).then_some(access),
            over: asked.map(|_| Box::pin(tokio::time::sleep_until(last))),
            namespace: None,
        })
    }
}

impl Watching {
    /// Returns the state if the caller has not seen it; the ended one in any case, after which
    /// nothing comes.
    fn news(&mut self, view: &View) -> Option<v1::WatchTransactionResponse> {
        let (revision, ended) = (convert::revision(view), view.tx.phase().ended_at().is_some());
        if ended {
            self.changes = None;
        } else if revision <= self.seen {
            return None;
        }
        self.seen = revision;
        let mut transaction = convert::transaction(view, self.content, None);
        if let Some(access) = &self.unread_by {
            hidden::hide(access, &mut transaction);
        }
        let mut response = v1::WatchTransactionResponse { transaction: Some(transaction) };
        self.namespace.iter().for_each(|namespace| response.take_off(namespace));
        Some(response)
    }
}

impl Stream for Watching {
    type Item = Result<v1::WatchTransactionResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let this = &mut *self;
            let next = match (this.first.take(), &mut this.changes) {
                (Some(first), _) => Ok(first),
                (None, None) => return Poll::Ready(None),
                // Only an engine that ended goes away without a word.
                (None, Some(changes)) => match Pin::new(changes).poll_next(cx) {
                    Poll::Ready(next) => next.unwrap_or(Err(Error::Stopped)),
                    Poll::Pending => {
                        let Some(over) = &mut this.over else { return Poll::Pending };
                        ready!(over.as_mut().poll(cx));
                        Err(Error::Moving)
                    }
                },
            };
            match next {
                Ok(view) => {
                    if let Some(news) = this.news(&view) {
                        return Poll::Ready(Some(Ok(news)));
                    }
                }
                Err(error) => {
                    this.changes = None;
                    return Poll::Ready(Some(Err(from_engine(error))));
                }
            }
        }
    }
}
