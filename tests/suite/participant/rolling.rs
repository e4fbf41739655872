//! Replicas of a participant that are started again one by one, under load.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use unanimo_sdk::{
    Call, Client, Participant, PhaseTwoError, PostgresOptions, PrepareError, Resource, Serve,
    Serving, Tcc,
};
use unanimo_tests::postgres::Server;

use super::over;
use crate::coordinator::http::http_call;
use crate::coordinator::{config, sqlite_url};

const REPLICAS: usize = 3;

const CLIENTS: usize = 4;

/// Work of a call that was held: much more than a replica needs to end that waits for no call.
const WORK: Duration = Duration::from_millis(500);

/// Calls of a replica, which are held while it is told to stop.
#[derive(Clone, Debug, Default)]
struct Calls {
    holds: Arc<AtomicBool>,
    held: Arc<AtomicUsize>,
}

impl Calls {
    async fn work(&self) {
        if self.holds.load(Ordering::SeqCst) {
            self.held.fetch_add(1, Ordering::SeqCst);
            while self.holds.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::time::sleep(WORK).await;
        }
    }
}

impl<R: Resource> Tcc<R> for Calls {
    type Payload = bytes::Bytes;
    type Output = ();

    async fn try_(
        &self,
        _: &mut R::Connection,
        _: &Call<bytes::Bytes>,
    ) -> Result<(), PrepareError> {
        self.work().await;
        Ok(())
    }

    async fn confirm(
        &self,
        _: &mut R::Connection,
        _: &Call<bytes::Bytes>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        self.work().await;
        Ok(())
    }

    async fn cancel(
        &self,
        _: &mut R::Connection,
        _: &Call<bytes::Bytes>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }
}

/// A replica on threads of its own. They end with it, whatever is at work on them, as those of a process do.
struct Replica {
    serving: Option<Serving>,
    runtime: Option<Runtime>,
    address: SocketAddr,
    calls: Calls,
}

impl Replica {
    async fn start(url: &str, coordinator: &str) -> Self {
        let mut threads = Builder::new_multi_thread();
        let runtime = threads.worker_threads(1).enable_all().build().unwrap();
        let (url, coordinator) = (url.to_owned(), coordinator.to_owned());
        let calls = Calls::default();
        let handler = calls.clone();
        let serving = runtime.spawn(async move {
            let database = over::connect(PostgresOptions::default(), &url).await.unwrap();
            let participant = Participant::new("p", database);
            // An address of its own: what has left it, nobody else takes.
            let serve = Serve::on("127.0.0.2:0").register_with(coordinator);
            let mut serving = participant.tcc("ok", handler).serve(serve).await.unwrap();
            serving.registered().await.unwrap();
            serving
        });
        let serving = serving.await.unwrap();
        let address = serving.address();
        Self { serving: Some(serving), runtime: Some(runtime), address, calls }
    }

    /// Stops it while calls are at work on it, which go on once it takes no others.
    async fn stop_at_work(self) {
        let (calls, address) = (self.calls.clone(), self.address);
        calls.holds.store(true, Ordering::SeqCst);
        unanimo_tests::wait::until("a call", async || {
            (calls.held.load(Ordering::SeqCst) > 0).then_some(())
        })
        .await;
        let stopping = tokio::spawn(self.stop());
        unanimo_tests::wait::until("it to leave", async || {
            let leaves = stopping.is_finished() || TcpStream::connect(address).await.is_err();
            leaves.then_some(())
        })
        .await;
        calls.holds.store(false, Ordering::SeqCst);
        stopping.await.unwrap();
    }

    async fn stop(mut self) {
        let (serving, runtime) = (self.serving.take().unwrap(), self.runtime.as_ref().unwrap());
        runtime.spawn(serving.stop()).await.unwrap().unwrap();
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

/// Calls to participants that have ended so, as the coordinator counts them.
async fn calls(admin: SocketAddr, result: &str) -> u64 {
    let metrics = http_call(admin, "GET", "/metrics", &[], b"").await.body;
    let result = format!("result=\"{result}\"");
    let of_calls = metrics.lines().filter(|line| {
        line.starts_with("unanimo_participant_calls_total{") && line.contains(&result)
    });
    of_calls.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// No transaction is lost, refused or aborted by it, and no call fails: each is answered by the replica that took it. A
/// transaction that waits for a replica that has left shows as a call that failed, at the latest when its connection is
/// found out. So there is no bound on their time, which would only measure the machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_no_transaction_and_no_call() {
    let url = Server::shared().database().await;
    let coordinator =
        unanimo_coordinator::Builder::new(config(&sqlite_url())).start().await.unwrap();
    let admin = coordinator.admin_address().unwrap();
    let endpoint = format!("http://{}", coordinator.grpc_address().unwrap());
    let mut replicas = Vec::new();
    for _ in 0..REPLICAS {
        replicas.push(Replica::start(&url, &endpoint).await);
    }
    let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let client = Client::new(endpoint.as_str()).unwrap();
        let (over, done) = (Arc::clone(&over), Arc::clone(&done));
        clients.spawn(async move {
            for n in 0.. {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                let draft = client.tcc(format!("c{number}-{n}"));
                let draft = draft.branch("a", "p", "ok", bytes::Bytes::from("x"));
                let draft = draft.branch("b", "p", "ok", bytes::Bytes::from("x"));
                let outcome = draft.wait_until_ended().submit().await.unwrap();
                assert!(outcome.is_committed(), "{outcome:?}");
                done.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    for round in 0..2 * REPLICAS {
        let before = done.load(Ordering::SeqCst);
        let old = std::mem::replace(
            &mut replicas[round % REPLICAS],
            Replica::start(&url, &endpoint).await,
        );
        old.stop_at_work().await;
        unanimo_tests::wait::until("the load to go on", async || {
            (done.load(Ordering::SeqCst) >= before + 20).then_some(())
        })
        .await;
    }
    over.store(true, Ordering::SeqCst);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let answered = calls(admin, "answered").await;
    assert!(answered >= 400, "{answered} calls were counted");
    assert_eq!(calls(admin, "failed").await, 0, "calls were lost with the replica that had them");
    for replica in replicas {
        replica.stop().await;
    }
    coordinator.stop().await.unwrap();
}
