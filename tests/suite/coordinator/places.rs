//! Effects of one participant, one instance or one name on the others.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::net::TcpSocket;
use tonic::Status;
use unanimo_coordinator::Config;
use unanimo_coordinator::config::Period;
use unanimo_proto::v1::{
    DeregisterEndpointRequest, ListParticipantsRequest, ParticipantEndpoint,
    RegisterEndpointRequest, SubmitTransactionRequest, TransactionResult,
};
use unanimo_tests::postgres::Server;

use super::{World, config, millis, sqlite_url, tcc};

mod aside;
mod backlog;
mod busy;
mod failing;
mod instances;
mod lasting;
mod names;
mod parked;
mod parked_acts;
mod poison;
mod replicas;
mod skew;
mod statuses;

/// A configuration with quick probes, in which nobody has to register again for as long as a test may take.
fn lasting(database_url: &str) -> Config {
    Config { keep_alive_interval: Period::secs(60), ..config(database_url) }
}

fn on_sqlite() -> Config {
    lasting(&sqlite_url())
}

async fn on_both() -> [Config; 2] {
    [on_sqlite(), lasting(&Server::shared().database().await)]
}

/// A TCC of one branch at this participant, which has so much time.
pub(super) fn at(name: &str, gid: &str, action: &str, timeout_ms: i64) -> SubmitTransactionRequest {
    let mut request = tcc(gid, &[action]);
    request.branches[0].participant = name.into();
    request.timeout = millis(timeout_ms);
    request
}

async fn register_as(
    world: &World,
    name: &str,
    endpoint: &str,
    instance: &str,
) -> Result<(), Status> {
    let request = RegisterEndpointRequest {
        participant: name.into(),
        endpoint: endpoint.into(),
        instance_id: instance.into(),
        ..Default::default()
    };
    world.directory().register_endpoint(request).await.map(drop)
}

async fn leave(world: &World, name: &str, endpoint: &str, instance: &str) {
    let request = DeregisterEndpointRequest {
        participant: name.into(),
        endpoint: endpoint.into(),
        instance_id: instance.into(),
        ..Default::default()
    };
    world.directory().deregister_endpoint(request).await.unwrap();
}

/// Endpoints of a participant, as they are listed.
async fn endpoints(world: &World, name: &str) -> Vec<ParticipantEndpoint> {
    let listed =
        world.directory().list_participants(ListParticipantsRequest::default()).await.unwrap();
    let listed = listed.into_inner().participants.into_iter();
    listed.filter(|listed| listed.name == name).flat_map(|listed| listed.endpoints).collect()
}

/// Submits at the same time, and returns the results with the time that each took.
pub(super) async fn submit_all(
    world: &World,
    requests: impl IntoIterator<Item = SubmitTransactionRequest>,
) -> Vec<(Result<TransactionResult, Status>, Duration)> {
    let mut submits = tokio::task::JoinSet::new();
    for request in requests {
        let mut client = world.client();
        submits.spawn(async move {
            let started = Instant::now();
            let answered = client.submit_transaction(request).await;
            (answered.map(|answer| answer.into_inner().result.unwrap()), started.elapsed())
        });
    }
    submits.join_all().await
}

/// An address at which nobody listens. Its port is held, so that no other test's server gets it.
fn dead_endpoint() -> String {
    static HELD: Mutex<Vec<TcpSocket>> = Mutex::new(Vec::new());
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    HELD.lock().unwrap().push(socket);
    format!("http://{address}")
}
