//! Lives of a participant's process: each in a runtime of its own, so that its end is the end of
//! everything that it was doing, wherever it stood.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinSet};
use tonic::{Request, Response, Status};
use unanimo_conformance::Target;
use unanimo_proto::v1::participant_service_server::ParticipantService;
use unanimo_proto::v1::{
    CancelRequest, CancelResponse, CommitRequest, CommitResponse, PrepareRequest, PrepareResponse,
};
use unanimo_sdk::{BoxError, Interrupt, Service};

use crate::subject::Subject;

/// Threads of a life: what is sent at once is to be done at once.
const THREADS: usize = 2;

/// Comes between a handler's success and the commit of its work.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interruptions {
    state: Arc<Mutex<Armed>>,
}

#[derive(Debug, Default)]
struct Armed {
    operation: Option<&'static str>,
    /// It stands still there, until it is released.
    halt: Option<Halt>,
    /// Output of the handler that was interrupted.
    output: Option<Bytes>,
}

/// End of a halt that the handler's thread has.
#[derive(Debug)]
struct Halt {
    reached: oneshot::Sender<()>,
    released: mpsc::Receiver<()>,
}

/// An operation that is to stand still between its handler and the commit of its work. Dropping it lets the
/// operation go on, with its work rolled back.
#[derive(Debug)]
pub(crate) struct Halted {
    reached: oneshot::Receiver<()>,
    _release: mpsc::Sender<()>,
}

impl Halted {
    /// Waits until it stands there; `false` if it never will.
    pub(crate) async fn reached(&mut self) -> bool {
        (&mut self.reached).await.is_ok()
    }
}

impl Interruptions {
    /// The next handler of `operation` (`prepare`, `commit`, `cancel`) that succeeds is rolled back.
    pub(crate) fn arm(&self, operation: &'static str) {
        *self.lock() = Armed { operation: Some(operation), halt: None, output: None };
    }

    /// The next handler of `operation` that succeeds stands still before the commit of its work.
    pub(crate) fn halt(&self, operation: &'static str) -> Halted {
        let (reached, is_reached) = oneshot::channel();
        let (release, released) = mpsc::channel();
        let halt = Some(Halt { reached, released });
        *self.lock() = Armed { operation: Some(operation), halt, output: None };
        Halted { reached: is_reached, _release: release }
    }

    /// Returns the output of the handler that was interrupted, if one was.
    pub(crate) fn interrupted(&self) -> Option<Bytes> {
        self.lock().output.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Armed> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hook(&self) -> Interrupt {
        let this = self.clone();
        Arc::new(move |operation, output| {
            let mut armed = this.lock();
            if armed.operation != Some(operation) {
                return false;
            }
            let halt = armed.halt.take();
            *armed = Armed { operation: None, halt: None, output: Some(output.clone()) };
            drop(armed);
            if let Some(Halt { reached, released }) = halt {
                // An error says that nobody waits for it any more, or that it is let go.
                let _ = reached.send(());
                let _ = released.recv();
            }
            true
        })
    }
}

/// A participant's process, which can crash.
pub(crate) struct Lives<S: Subject> {
    subject: Arc<S>,
    interruptions: Interruptions,
    life: Mutex<Option<Life<S>>>,
    /// Calls that were under way when their life ended.
    cut_off: AtomicU32,
}

struct Life<S: Subject> {
    runtime: Option<Runtime>,
    service: Service<S::Resource>,
}

impl<S: Subject> Drop for Life<S> {
    /// Drops every task at its next await, with the connections that it holds.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl<S: Subject> fmt::Debug for Lives<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lives").field("interruptions", &self.interruptions).finish_non_exhaustive()
    }
}

impl<S: Subject> Lives<S> {
    /// The first life.
    pub(crate) async fn begin(
        subject: Arc<S>,
        interruptions: Interruptions,
    ) -> Result<Self, BoxError> {
        let (life, cut_off) = (Mutex::new(None), AtomicU32::new(0));
        let lives = Self { subject, interruptions, life, cut_off };
        lives.begin_again().await?;
        Ok(lives)
    }

    /// Ends the life at once, with whatever it is doing, and begins another. What stands still is let go in
    /// between: it is over, and holds locks that the next life may need.
    pub(crate) async fn crash(&self, halted: Option<Halted>) -> Result<(), BoxError> {
        drop(self.lock().take());
        drop(halted);
        self.begin_again().await
    }

    /// Returns how many calls were under way when a life ended.
    pub(crate) fn cut_off(&self) -> u32 {
        self.cut_off.load(Ordering::Relaxed)
    }

    /// The participant's name.
    pub(crate) fn participant(&self) -> Result<String, Status> {
        Ok(self.current()?.1.participant().to_owned())
    }

    async fn begin_again(&self) -> Result<(), BoxError> {
        let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
        let (subject, hook) = (Arc::clone(&self.subject), self.interruptions.hook());
        // In the new runtime: its connections are to end with it.
        let made = runtime.spawn(async move {
            let participant = subject.participant().await?;
            Ok::<_, BoxError>(participant.interrupted(&hook).service()?)
        });
        match made.await.map_err(BoxError::from).and_then(|made| made) {
            Ok(service) => {
                *self.lock() = Some(Life { runtime: Some(runtime), service });
                Ok(())
            }
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Life<S>>> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Result<(Handle, Service<S::Resource>), Status> {
        let life = self.lock();
        let life = life.as_ref().ok_or_else(|| Status::unavailable("the participant is down"))?;
        let runtime =
            life.runtime.as_ref().ok_or_else(|| Status::unavailable("the participant is down"))?;
        Ok((runtime.handle().clone(), life.service.clone()))
    }

    /// Runs a call in the present life. It ends with that, and with its caller.
    async fn call<T: Send + 'static, F>(
        &self,
        call: impl FnOnce(Service<S::Resource>) -> F + Send,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send + 'static,
    {
        let (handle, service) = self.current()?;
        let mut task = JoinSet::new();
        task.spawn_on(call(service), &handle);
        match task.join_next().await {
            Some(Ok(answered)) => answered.map(Response::into_inner),
            ended => {
                if ended
                    .is_none_or(|ended| ended.is_err_and(|error| JoinError::is_cancelled(&error)))
                {
                    self.cut_off.fetch_add(1, Ordering::Relaxed);
                }
                Err(Status::unavailable("the participant crashed"))
            }
        }
    }
}

#[async_trait]
impl<S: Subject> Target for Lives<S> {
    async fn prepare(&self, request: Request<PrepareRequest>) -> Result<PrepareResponse, Status> {
        self.call(|service| async move { ParticipantService::prepare(&service, request).await })
            .await
    }

    async fn commit(&self, request: Request<CommitRequest>) -> Result<CommitResponse, Status> {
        self.call(|service| async move { ParticipantService::commit(&service, request).await })
            .await
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<CancelResponse, Status> {
        self.call(|service| async move { ParticipantService::cancel(&service, request).await })
            .await
    }
}
