//! The transaction that a piece of work belongs to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::header::{HeaderMap, HeaderValue};
use tokio::task::futures::TaskLocalFuture;
use unanimo_proto::v1::CommitBranch;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
use unanimo_proto::v1::Vote;

use super::branches::{self, BRANCHES, Branches, CallEnd, REPLY_BYTES_MAX};
use super::client::ClientLayer;
use super::context::{Context, TX_ID, value};
use super::trace::Trace;

tokio::task_local! {
    static AMBIENT: Ambient;
}

/// Transaction and trace that the work at hand is part of.
#[derive(Clone, Debug, Default)]
pub(super) struct Ambient {
    pub(super) trace: Trace,
    pub(super) propagation: Option<Propagation>,
}

impl Ambient {
    /// Runs what is done at once as part of this.
    pub(super) fn enter<T>(self, work: impl FnOnce() -> T) -> T {
        AMBIENT.sync_scope(self, work)
    }

    /// Runs a future as part of this.
    pub(super) fn scope<F: Future>(self, work: F) -> TaskLocalFuture<Self, F> {
        AMBIENT.scope(self, work)
    }
}

impl Trace {
    /// Runs a future as part of this trace, and of no transaction.
    #[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
    pub(crate) fn scope<F: Future>(self, work: F) -> impl Future<Output = F::Output> + use<F> {
        Ambient { trace: self, propagation: None }.scope(work)
    }

    /// Returns the trace of the span that is entered, if a layer of OpenTelemetry follows it; otherwise that of the request
    /// that the code at hand serves.
    pub(crate) fn ambient() -> Self {
        #[cfg(feature = "opentelemetry")]
        if let Some(entered) = Self::of_entered_span() {
            return entered;
        }
        AMBIENT.try_with(|ambient| ambient.trace.clone()).unwrap_or_default()
    }
}

/// A transaction on its way through services: its context, and the branches that have joined so far.
/// Cheap to clone; every clone collects for the same transaction.
///
/// An initiator has it of [`Transaction::propagation`](crate::client::Transaction::propagation); in
/// a service it is the [current](Self::current) one of a request behind a
/// [`ServerLayer`](super::ServerLayer), which also puts it into the request's extensions.
#[derive(Clone, Debug)]
pub struct Propagation {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    context: Context,
    trace: Trace,
    branches: Mutex<Branches>,
    /// Its branches are named on a reply, which bounds them.
    #[cfg_attr(
        not(any(test, feature = "mysql", feature = "postgres", feature = "sqlite")),
        expect(dead_code, reason = "participants alone join, and they need a database")
    )]
    replies: bool,
}

impl Propagation {
    /// That of an initiator.
    pub(crate) fn new(context: Context, trace: Trace) -> Self {
        Self::with(context, trace, false)
    }

    /// That of a request that is being served.
    pub(super) fn serving(context: Context, trace: Trace) -> Self {
        Self::with(context, trace, true)
    }

    fn with(context: Context, trace: Trace, replies: bool) -> Self {
        let branches = Mutex::new(Branches::new(context.mode()));
        Self { inner: Arc::new(Inner { context, trace, branches, replies }) }
    }

    /// The transaction that the code at hand works for. It is known in the task that serves a request
    /// or runs [`Self::scope`], and not in tasks that this one spawns.
    #[must_use]
    pub fn current() -> Option<Self> {
        AMBIENT.try_with(|ambient| ambient.propagation.clone()).ok().flatten()
    }

    /// Does some work for this transaction: in there it is the [current](Self::current) one. Carries
    /// it into a task that is spawned, too.
    pub async fn scope<F: Future>(&self, work: F) -> F::Output {
        self.ambient().scope(work).await
    }

    /// A tower layer for clients: every call belongs to this transaction.
    #[must_use]
    pub fn layer(&self) -> ClientLayer {
        ClientLayer::of(self.clone())
    }

    /// Returns the transaction's context.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.inner.context
    }

    /// Puts context and trace on a request, for clients that take no tower layer. What comes back is
    /// for [`Self::collect`].
    pub fn inject(&self, headers: &mut HeaderMap) {
        self.inner.context.write_to(headers);
        self.inner.trace.add_to(headers);
    }

    /// Notes the branches that a reply names, for clients that take no tower layer. A call has
    /// [succeeded](CallEnd::Succeeded) only once its caller has the whole answer and will not send
    /// it again: a status of 2xx, or OK in gRPC, and a body that was read to its end.
    pub fn collect(&self, reply: &HeaderMap, end: CallEnd) {
        self.take(reply, end);
    }

    /// Notes the branches that a reply names; answers with those whose vote rests on its good end.
    pub(super) fn take(&self, reply: &HeaderMap, end: CallEnd) -> Vec<String> {
        if !reply.contains_key(BRANCHES) {
            return Vec::new();
        }
        let tx_id = self.inner.context.tx_id();
        // Of another transaction, or an answer that a cache has kept: nothing of ours.
        if reply.get(TX_ID).is_none_or(|of| *of != value(&tx_id.to_string())) {
            tracing::warn!(%tx_id, "a reply names branches of another transaction: not listed");
            return Vec::new();
        }
        match branches::read(reply) {
            Ok(named) => self.branches().take(named, end),
            Err(error) => {
                tracing::warn!(%tx_id, %error, "a reply's branches are not listed");
                Vec::new()
            }
        }
    }

    /// The call that a reply came to did not end well after all.
    pub(super) fn withdraw(&self, vouched: &[String]) {
        let mut branches = self.branches();
        vouched.iter().for_each(|id| branches.withdraw(id));
    }

    /// Puts the branches so far on the reply to whoever called.
    pub(super) fn tell(&self, reply: &mut HeaderMap) {
        // A service that passes replies on may have put lines of its own there.
        let there: usize = reply.get_all(BRANCHES).iter().map(HeaderValue::len).sum();
        if let Some(header) = self.branches().header(REPLY_BYTES_MAX.saturating_sub(there)) {
            reply.insert(TX_ID, value(&self.inner.context.tx_id().to_string()));
            reply.append(BRANCHES, header);
        }
    }

    /// Takes a place on the reply for a branch that is about to be enlisted; `None` if there is none.
    #[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
    pub(super) fn reserve(&self, branch_id: &str) -> Option<Place<'_>> {
        let has_place = !self.inner.replies || self.branches().reserve(branch_id);
        has_place.then(|| Place { propagation: self, branch_id: branch_id.to_owned() })
    }

    #[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
    pub(super) fn enlisted(&self, branch_id: &str) {
        self.branches().enlisted(branch_id);
    }

    #[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
    pub(super) fn voted(&self, branch_id: &str, vote: Vote) {
        self.branches().voted(branch_id, vote);
    }

    /// Every branch that joined, as Commit lists it.
    pub(crate) fn listed(&self) -> Vec<CommitBranch> {
        self.branches().listed()
    }

    fn ambient(&self) -> Ambient {
        let Inner { trace, .. } = &*self.inner;
        Ambient { trace: trace.clone(), propagation: Some(self.clone()) }
    }

    fn branches(&self) -> MutexGuard<'_, Branches> {
        // Whatever panicked, the list is whole between two calls.
        self.inner.branches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place on the reply that is kept for a branch until the branch is enlisted, or is not.
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
#[derive(Debug)]
pub(super) struct Place<'p> {
    propagation: &'p Propagation,
    branch_id: String,
}

#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.propagation.branches().unreserve(&self.branch_id);
    }
}
