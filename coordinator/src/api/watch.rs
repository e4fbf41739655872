//! WatchTransaction: a stream of states that ends with OK only after the ended one. It goes on only as long as its caller may
//! read, which is looked at before each state, and once a minute.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Status};
use unanimo_core::Namespace;
use unanimo_proto::v1::{self, watch_transaction_request};

use super::access::{Access, Standing};
use super::convert::{self, Content};
use super::deadline::Deadline;
use super::error::{denied, from_engine};
use super::namespace::Told;
use super::query::no_key;
use super::rpc::Rpc;
use super::{Api, calls, hidden, parse};
use crate::engine::{Error, View};
use crate::store::Key;

/// So often it is looked whether the caller may still read.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// States of one transaction.
pub(crate) struct Watching {
    /// The caller, who is looked at again.
    standing: Standing,
    /// Full gid of the transaction, and full name of who began it.
    of: (String, String),
    look: Pin<Box<Sleep>>,
    first: Option<Box<View>>,
    changes: Option<WatchStream<Result<Box<View>, Error>>>,
    /// Revision of the last state that the caller has seen.
    seen: u64,
    content: Content,
    /// Caller who may not read outputs.
    unread_by: Option<Access>,
    /// The end of the call's time, if it has one.
    over: Option<Pin<Box<Sleep>>>,
    /// The caller's, at the last look.
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
        let standing = self.standing(Rpc::WatchTransaction, &request);
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
        let identity = view.tx.identity();
        let may_read = self.may_read(&access, &view);
        Ok(Watching {
            standing,
            of: (identity.gid.to_string(), identity.initiator.clone()),
            look: Box::pin(tokio::time::sleep(LOOK_INTERVAL)),
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
    /// Looks whether the caller may still read.
    fn look(&mut self) -> Result<(), Status> {
        self.look.as_mut().reset(Instant::now() + LOOK_INTERVAL);
        let sight = self.standing.look()?;
        let (gid, initiator) = &self.of;
        if !sight.has(gid, initiator) {
            return Err(denied(
                "the caller may not read on: it is not its transaction any more".to_owned(),
            ));
        }
        self.namespace = sight.namespace;
        Ok(())
    }

    /// Looks again if it is time for that.
    fn poll_look(&mut self, context: &mut Context<'_>) -> Result<(), Status> {
        while self.look.as_mut().poll(context).is_ready() {
            self.look()?;
        }
        Ok(())
    }

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
            if let Err(status) = this.poll_look(cx) {
                this.changes = None;
                return Poll::Ready(Some(Err(status)));
            }
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
                    if let Err(status) = this.look() {
                        this.changes = None;
                        return Poll::Ready(Some(Err(status)));
                    }
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
