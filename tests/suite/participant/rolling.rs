//! Replicas of a participant that are started again one by one, under load.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

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

/// Time of a call: longer than a replica needs for all else that it does to leave.
const WORK: Duration = Duration::from_millis(150);

/// Takes its time, so that each replica is told to stop while calls are under way.
struct Slow;

impl<R: Resource> Tcc<R> for Slow {
    type Payload = bytes::Bytes;
    type Output = ();

    async fn try_(
        &self,
        _: &mut R::Connection,
        _: &Call<bytes::Bytes>,
    ) -> Result<(), PrepareError> {
        tokio::time::sleep(WORK).await;
        Ok(())
    }

    async fn confirm(
        &self,
        _: &mut R::Connection,
        _: &Call<bytes::Bytes>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        tokio::time::sleep(WORK).await;
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
}

impl Replica {
    async fn start(url: &str, coordinator: &str) -> Self {
        let mut threads = Builder::new_multi_thread();
        let runtime = threads.worker_threads(1).enable_all().build().unwrap();
        let (url, coordinator) = (url.to_owned(), coordinator.to_owned());
        let serving = runtime.spawn(async move {
            let database = over::connect(PostgresOptions::default(), &url).await.unwrap();
            let participant = Participant::new("p", database);
            let serve = Serve::on("127.0.0.1:0").register_with(coordinator);
            let mut serving = participant.tcc("ok", Slow).serve(serve).await.unwrap();
            serving.registered().await.unwrap();
            serving
        });
        Self { serving: Some(serving.await.unwrap()), runtime: Some(runtime) }
    }

    async fn stop(mut self) {
        let (serving, runtime) = (self.serving.take().unwrap(), self.runtime.as_ref().unwrap());
        runtime.spawn(serving.stop()).await.unwrap();
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
        old.stop().await;
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
