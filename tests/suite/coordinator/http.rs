//! Health, metrics and reflection.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use unanimo_tests::wait::until;

use super::{World, tcc};

pub(crate) async fn http_get(world: &World, path: &str) -> (u16, String) {
    let address = world.running.admin_address().unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Response of HTTP, in parts.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) code: u16,
    /// Its first line and its headers.
    pub(crate) head: String,
    /// Its body; of one in chunks their content.
    pub(crate) body: String,
}

/// Makes one request on a connection of its own.
pub(crate) async fn http_call(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Reply {
    let mut stream = begin(address, (method, path), headers, body.len()).await;
    // A server that has answered reads no further.
    let _ = stream.write_all(body).await;
    let mut response = Vec::new();
    let _ = stream.read_to_end(&mut response).await;
    reply(&String::from_utf8(response).unwrap())
}

/// Sends the head of a request on a connection of its own.
pub(crate) async fn begin(
    address: SocketAddr,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    length: usize,
) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let has_host = headers.iter().any(|(name, _)| *name == "host");
    let host = if has_host { String::new() } else { format!("host: {address}\r\n") };
    let headers: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!(
        "{method} {path} HTTP/1.1\r\n{host}connection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// Reads a stream of events to its first one, and returns it with the rest of the stream; an answer that is no stream to
/// its end.
pub(crate) async fn first_event(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
) -> (Reply, TcpStream) {
    // An event ends with an empty line, and is a chunk of its own.
    const END: &str = "\n\n\r\n";
    let mut stream = begin(address, ("GET", path), headers, 0).await;
    let mut response = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&response).into_owned();
        if let Some(end) = text.find(END) {
            return (reply(&text[..end + END.len()]), stream);
        }
        if stream.read_buf(&mut response).await.unwrap() == 0 {
            return (reply(&text), stream);
        }
    }
}

/// Takes a response apart.
pub(crate) fn reply(response: &str) -> Reply {
    let (head, mut rest) = response.split_once("\r\n\r\n").unwrap_or((response, ""));
    let head = head.to_lowercase();
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    if !head.contains("transfer-encoding: chunked") {
        return Reply { code, head, body: rest.to_owned() };
    }
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        body.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    Reply { code, head, body }
}

#[tokio::test]
async fn health_readiness_and_metrics_are_served() {
    let world = World::postgres().await;
    assert_eq!(http_get(&world, "/healthz").await, (200, "ok\n".into()));
    until("readiness", async || (http_get(&world, "/readyz").await.0 == 200).then_some(())).await;
    assert_eq!(http_get(&world, "/nothing").await.0, 404);
    world.submit(tcc("g", &["ok"])).await.unwrap();
    world.get_until("g", "its end", |t| t.ended_at.is_some()).await;
    let (code, text) = http_get(&world, "/metrics").await;
    assert_eq!(code, 200);
    for line in [
        "unanimo_transactions_begun_total{mode=\"tcc\"} 1",
        "unanimo_transactions_decided_total{mode=\"tcc\",outcome=\"committed\"} 1",
        "unanimo_participant_calls_total{participant=\"p\",operation=\"commit\",result=\"answered\"} 1",
        "unanimo_requests_total{method=\"SubmitTransaction\",code=\"Ok\"} 1",
        "unanimo_alarms{alarm=\"transaction_stalled\"} 0",
        "unanimo_transactions_live 0",
        "unanimo_lease_held 1",
        "unanimo_journal_connected 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in:\n{text}");
    }
}

#[tokio::test]
async fn grpc_health_and_reflection_are_served() {
    let world = World::sqlite().await;
    let mut health = HealthClient::new(world.channel.clone());
    for service in ["", "unanimo.v1.CoordinatorService"] {
        let request = HealthCheckRequest { service: service.into() };
        let status = health.check(request).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service}");
    }
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(world.channel.clone());
    let requests = tokio_stream::once(request);
    let mut responses = client.server_reflection_info(requests).await.unwrap().into_inner();
    let response = responses.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = response else { panic!("{response:?}") };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    for service in ["CoordinatorService", "OperatorService", "ParticipantDirectoryService"] {
        assert!(names.contains(&format!("unanimo.v1.{service}").as_str()), "{names:?}");
    }
}

/// Balancers ask for the health of a service by its name.
#[tokio::test]
async fn while_it_drains_no_service_is_healthy() {
    let world = World::sqlite().await;
    world.p.hold(true);
    world.submit(tcc("g", &["ok"])).await.unwrap();
    let mut health = HealthClient::new(world.channel.clone());
    let mut all = async |expected: ServingStatus| {
        for service in ["", "CoordinatorService", "ParticipantDirectoryService", "OperatorService"]
        {
            let name =
                if service.is_empty() { String::new() } else { format!("unanimo.v1.{service}") };
            let request = HealthCheckRequest { service: name };
            let status = health.check(request).await.unwrap().into_inner().status();
            if status != expected {
                return None;
            }
        }
        Some(())
    };
    assert_eq!(all(ServingStatus::Serving).await, Some(()));
    let p = world.p.clone();
    let stopping = tokio::spawn(world.running.stop());
    until("the services to be unhealthy", async || all(ServingStatus::NotServing).await).await;
    assert!(!stopping.is_finished());
    p.hold(false);
    stopping.await.unwrap().unwrap();
}
