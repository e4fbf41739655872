//! Two tenants that use the same gid, participant and lock at once, over gRPC and HTTP, while the coordinator is killed.

use serde_json::{Value, json};
use tonic::transport::Channel;
use unanimo_proto::v1;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_tests::postgres::Server;
use unanimo_tests::scripted::Scripted;
use unanimo_tests::wait::until;

use super::{Tenants, register};
use crate::coordinator::http::http_call;
use crate::coordinator::process::Process;
use crate::coordinator::{sqlite_url, tcc};

/// The coordinator in a process of its own, and the participant `p` of each tenant.
struct World {
    tenants: Tenants,
    url: String,
    process: Process,
    p: [Scripted; 2],
    endpoints: [String; 2],
}

impl World {
    async fn start(url: String) -> Self {
        let (tenants, p) = (Tenants::new(), [Scripted::default(), Scripted::default()]);
        let endpoints = [p[0].serve().await, p[1].serve().await];
        let process = Process::start(&url, &arguments(&tenants, &endpoints)).await;
        let world = Self { tenants, url, process, p, endpoints };
        // Once: it is found again after a kill.
        register(world.tenants.link(&world.channel(), 0), &world.endpoints[0]).await;
        world
    }

    fn channel(&self) -> Channel {
        self.process.channel.clone()
    }

    async fn kill_and_restart(&mut self) {
        self.process.kill();
        self.process = Process::start(&self.url, &arguments(&self.tenants, &self.endpoints)).await;
    }

    async fn get(&self, column: usize, gid: &str) -> Option<v1::Transaction> {
        let key = Some(v1::get_transaction_request::Key::Gid(gid.into()));
        let request = v1::GetTransactionRequest { key, ..Default::default() };
        let link = self.tenants.link(&self.channel(), column);
        let found = CoordinatorServiceClient::new(link).get_transaction(request).await;
        found.ok().and_then(|found| found.into_inner().transaction)
    }

    async fn http(&self, column: usize, method: &str, path: &str, body: Value) -> (u16, Value) {
        let header = self.tenants.header(column);
        let headers = [("authorization", header.as_str()), ("content-type", "application/json")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let address = self.process.admin_address();
        let reply = http_call(address, method, path, &headers, body.as_bytes()).await;
        (reply.code, serde_json::from_str(&reply.body).unwrap_or_default())
    }
}

/// The participant of the first tenant registers, and that of the second one is configured.
fn arguments(tenants: &Tenants, endpoints: &[String; 2]) -> Vec<String> {
    let file = tenants.path.to_str().unwrap();
    let participant = format!("tenant-b/p={}", endpoints[1]);
    let pause = ["--phase-two-backoff", "50ms", "--keep-alive-interval", "5m"];
    let all = [["--identities", file], ["--participant", &participant]].concat();
    all.into_iter().chain(pause).map(str::to_owned).collect()
}

/// A transaction that holds the lock `stock`.
fn locked(gid: &str) -> v1::SubmitTransactionRequest {
    let mut request = tcc(gid, &["ok", "ok"]);
    let wait_max = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    request.locks = vec![v1::Lock { name: "stock".into(), wait_max, ..Default::default() }];
    request.wait_for = v1::WaitFor::Decided.into();
    request
}

async fn tenants_do_not_meet(url: String) {
    let mut world = World::start(url).await;
    // Each is decided, holds its lock, and its participant does not end it.
    world.p.iter().for_each(|p| p.hold(true));
    let mut ids = Vec::new();
    for column in 0..2 {
        let link = world.tenants.link(&world.channel(), column);
        let submitted = CoordinatorServiceClient::new(link).submit_transaction(locked("g")).await;
        let result = submitted.unwrap().into_inner().result.unwrap();
        assert_eq!(result.outcome(), v1::Outcome::Committed, "the lock of one is not the other's");
        ids.push(result.tx_id);
    }
    assert_ne!(ids[0], ids[1], "one gid, two transactions");
    // Within one namespace the lock is one.
    let link = world.tenants.link(&world.channel(), 0);
    let waiting = CoordinatorServiceClient::new(link).submit_transaction(locked("h")).await;
    let waiting = waiting.unwrap().into_inner().result.unwrap();
    assert_eq!(waiting.abort_cause(), v1::AbortCause::Locked, "{waiting:?}");
    assert!(waiting.abort_detail.contains("lock stock is held by transaction g"), "{waiting:?}");

    world.kill_and_restart().await;
    for (column, tx_id) in ids.iter().enumerate() {
        let own = world.get(column, "g").await.unwrap();
        assert_eq!((&own.tx_id, &*own.gid), (tx_id, "g"));
        assert_eq!(own.branches[0].participant, "p");
        // Over HTTP it is the same one, also when it is submitted again.
        let (code, shown) = world.http(column, "GET", "/v1/transactions/g", Value::Null).await;
        assert_eq!((code, shown["transaction"]["txId"].as_str()), (200, Some(tx_id.as_str())));
        assert!(!shown.to_string().contains("tenant"), "{shown}");
    }
    assert!(world.get(2, "g").await.is_none(), "it is in no other namespace");
    for (column, tenant) in ["tenant-a", "tenant-b"].into_iter().enumerate() {
        let full = world.get(3, &format!("{tenant}/g")).await.unwrap();
        assert_eq!((&full.tx_id, &full.gid), (&ids[column], &format!("{tenant}/g")));
    }
    world.p.iter().for_each(|p| p.hold(false));
    for (column, tx_id) in ids.iter().enumerate() {
        let ended = async || {
            let own = world.get(column, "g").await?;
            (own.state() == v1::TransactionState::Committed).then_some(())
        };
        until("the transaction to end", ended).await;
        // Each participant was called for its own transaction alone, and by the name that it knows.
        let (own, other) = (&world.p[column], &ids[1 - column]);
        assert!(own.calls(tx_id, "a").contains(&"commit") && own.calls(other, "a").is_empty());
        let seen = own.seen();
        assert!(
            seen.iter().all(|seen| seen.participant == "p" && !seen.gid.contains('/')),
            "{seen:?}"
        );
    }

    // The same over HTTP, with a participant that was registered over gRPC.
    let branch = json!({"branchId": "a", "participant": "p", "action": "ok"});
    let body =
        json!({"gid": "w", "mode": "MODE_TCC", "branches": [branch], "waitFor": "WAIT_FOR_ENDED"});
    let mut over_http = Vec::new();
    for column in 0..2 {
        let (code, told) = world.http(column, "POST", "/v1/transactions", body.clone()).await;
        assert_eq!(
            (code, told["result"]["outcome"].as_str()),
            (200, Some("OUTCOME_COMMITTED")),
            "{told}"
        );
        over_http.push(told["result"]["txId"].as_str().unwrap().to_owned());
    }
    assert_ne!(over_http[0], over_http[1]);
    world.kill_and_restart().await;
    for (column, tx_id) in over_http.iter().enumerate() {
        let (code, again) = world.http(column, "POST", "/v1/transactions", body.clone()).await;
        assert_eq!(
            (code, again["result"]["txId"].as_str()),
            (200, Some(tx_id.as_str())),
            "{again}"
        );
        assert_eq!(world.p[column].calls(tx_id, "a"), ["prepare", "commit"]);
        let other = format!("/v1/tx/{}", over_http[1 - column]);
        assert_eq!(world.http(column, "GET", &other, Value::Null).await.0, 404);
    }
}

#[tokio::test]
async fn s9_tenants_with_the_same_names_do_not_meet_on_sqlite() {
    tenants_do_not_meet(sqlite_url()).await;
}

#[tokio::test]
async fn s9_tenants_with_the_same_names_do_not_meet_on_postgres() {
    tenants_do_not_meet(Server::shared().database().await).await;
}
