//! The rpcs over grpc-web: frames by hand, answers as over gRPC, and pages of other sites.

use base64::Engine as _;
use prost::Message;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::Status;
use tonic::codegen::http::{HeaderMap, HeaderName};
use tonic_types::StatusExt;
use unanimo_proto::v1::{
    GetTransactionRequest, GetTransactionResponse, SubmitTransactionResponse,
    WatchTransactionRequest, WatchTransactionResponse, get_transaction_request,
    watch_transaction_request,
};

use unanimo_tests::browser::{Browser, Page};

use super::http::http_call;
use super::{World, config, sqlite_url, tcc};

pub(crate) const MEDIA_TYPE: (&str, &str) = ("content-type", "application/grpc-web+proto");

/// Makes one request, and returns the head and the body of its response.
async fn send(
    world: &World,
    method: &str,
    rpc: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (String, Vec<u8>) {
    let address = world.running.admin_address().unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let lines: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let (service, rpc) = rpc.split_once('/').unwrap_or(("unanimo.v1.CoordinatorService", rpc));
    let length = body.len();
    let head = format!(
        "{method} /{service}/{rpc} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-length: {length}\r\n{lines}\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.unwrap();
    let end = response.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(response[..end].to_vec()).unwrap().to_lowercase();
    let mut rest = &response[end + 4..];
    if !head.contains("transfer-encoding: chunked") {
        return (head, rest.to_vec());
    }
    let mut whole = Vec::new();
    loop {
        let line = rest.windows(2).position(|window| window == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        if size == 0 {
            return (head, whole);
        }
        whole.extend_from_slice(&rest[line + 2..line + 2 + size]);
        rest = &rest[line + 2 + size + 2..];
    }
}

const BASE64: base64::engine::GeneralPurpose = base64::engine::general_purpose::STANDARD;

fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// Decodes texts that stand one behind the other, each with its own end.
fn from_base64(text: &[u8]) -> Vec<u8> {
    text.chunks(4).flat_map(|part| BASE64.decode(part).unwrap()).collect()
}

fn framed(message: &impl Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&[0][..], &length, &bytes].concat()
}

/// Parts a body into its messages and its trailers.
fn parted(mut body: &[u8]) -> (Vec<Vec<u8>>, String) {
    let mut messages = Vec::new();
    loop {
        let length = u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize;
        let (frame, rest) = body[5..].split_at(length);
        match body[0] {
            0 => messages.push(frame.to_vec()),
            0x80 => {
                assert!(rest.is_empty(), "the trailers are last");
                return (messages, String::from_utf8(frame.to_vec()).unwrap());
            }
            other => panic!("a frame of kind {other}"),
        }
        body = rest;
    }
}

async fn call(world: &World, rpc: &str, message: &impl Message) -> (Vec<Vec<u8>>, String) {
    call_with(world, rpc, &[MEDIA_TYPE], message).await
}

pub(crate) async fn call_with(
    world: &World,
    rpc: &str,
    headers: &[(&str, &str)],
    message: &impl Message,
) -> (Vec<Vec<u8>>, String) {
    let (head, body) = send(world, "POST", rpc, headers, &framed(message)).await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("content-type: application/grpc-web+proto"), "{head}");
    assert!(head.contains("x-accel-buffering: no"), "{head}");
    parted(&body)
}

fn of_gid(gid: &str) -> GetTransactionRequest {
    let key = Some(get_transaction_request::Key::Gid(gid.to_owned()));
    GetTransactionRequest {
        key,
        include_outputs: true,
        include_timeline: true,
        ..Default::default()
    }
}

#[tokio::test]
async fn a_call_over_grpc_web_is_answered_as_over_grpc() {
    let world = World::sqlite().await;
    let (messages, trailers) = call(&world, "SubmitTransaction", &tcc("g", &["typed", "ok"])).await;
    assert_eq!(trailers, "grpc-status:0\r\n");
    let submitted = SubmitTransactionResponse::decode(messages[0].as_slice()).unwrap();
    world.get_until("g", "its end", |tx| tx.ended_at.is_some()).await;
    let (messages, trailers) = call(&world, "GetTransaction", &of_gid("g")).await;
    assert_eq!((messages.len(), trailers.as_str()), (1, "grpc-status:0\r\n"));
    let over_web = GetTransactionResponse::decode(messages[0].as_slice()).unwrap();
    let over_grpc = world.client().get_transaction(of_gid("g")).await.unwrap().into_inner();
    assert_eq!(over_web, over_grpc);
    assert_eq!(over_web.transaction.clone().unwrap().tx_id, submitted.result.unwrap().tx_id);

    // The same in base64, of which the frames are encoded apart.
    let text =
        [("content-type", "application/grpc-web-text"), ("accept", "application/grpc-web-text")];
    let body = base64(&framed(&of_gid("g")));
    let (head, body) = send(&world, "POST", "GetTransaction", &text, body.as_bytes()).await;
    assert!(head.contains("content-type: application/grpc-web-text+proto"), "{head}");
    let (messages, trailers) = parted(&from_base64(&body));
    assert_eq!(GetTransactionResponse::decode(messages[0].as_slice()).unwrap(), over_web);
    assert_eq!(trailers, "grpc-status:0\r\n");

    // A stream: each state, and the trailers at its end.
    let key = Some(watch_transaction_request::Key::Gid("g".to_owned()));
    let watch = WatchTransactionRequest { key, ..Default::default() };
    let (messages, trailers) = call(&world, "WatchTransaction", &watch).await;
    assert_eq!(trailers, "grpc-status:0\r\n");
    let last = WatchTransactionResponse::decode(messages.last().unwrap().as_slice()).unwrap();
    assert!(last.transaction.unwrap().ended_at.is_some());
}

#[tokio::test]
async fn an_error_over_grpc_web_is_that_of_grpc() {
    let world = World::sqlite().await;
    for gid in ["never-seen", "", "a b"] {
        let (messages, trailers) = call(&world, "GetTransaction", &of_gid(gid)).await;
        assert!(messages.is_empty(), "{gid}");
        let status = world.client().get_transaction(of_gid(gid)).await.unwrap_err();
        let lines = trailers.lines().map(|line| line.split_once(':').unwrap());
        let headers: HeaderMap = lines
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
            .collect();
        assert!(headers.contains_key("grpc-status-details-bin"), "{trailers}");
        let told = Status::from_header_map(&headers).unwrap();
        assert_eq!((told.code(), told.message()), (status.code(), status.message()));
        let (told, expected) = (told.get_error_details(), status.get_error_details());
        assert_eq!(format!("{:?}", told.bad_request()), format!("{:?}", expected.bad_request()));
        let [told, expected] =
            [told, expected].map(|details| details.error_info().unwrap().clone());
        assert_eq!((told.reason, told.metadata), (expected.reason, expected.metadata), "{gid}");
    }
    let (_, trailers) = call(&world, "NoSuchRpc", &of_gid("g")).await;
    assert!(trailers.starts_with("grpc-status:12\r\n"), "{trailers}");
    let body = framed(&of_gid("g"));
    for (method, media_type, code) in [
        ("POST", "application/json", "415"),
        ("POST", "application/grpc", "415"),
        ("POST", "text/plain", "415"),
        ("GET", MEDIA_TYPE.1, "405"),
    ] {
        let headers = [("content-type", media_type)];
        let (head, _) = send(&world, method, "GetTransaction", &headers, &body).await;
        assert!(head.starts_with(&format!("http/1.1 {code}")), "{media_type}: {head}");
    }
    let (_, body) = send(
        &world,
        "POST",
        "GetTransaction",
        &[("content-type", "application/grpc-web-text")],
        b"no base64!!!",
    )
    .await;
    assert!(parted(&from_base64(&body)).1.starts_with("grpc-status:13\r\n"), "{body:?}");
    // A message that is larger than any may be, and one that is none.
    let long = [&[0, 0xff, 0xff, 0xff, 0xff][..], &[0; 100]].concat();
    let (_, body) = send(&world, "POST", "GetTransaction", &[MEDIA_TYPE], &long).await;
    assert!(parted(&body).1.starts_with("grpc-status:11\r\n"), "{:?}", parted(&body));
}

/// Pages of other sites are refused, unless the setting has their origin, which opens nothing to others.
#[tokio::test]
async fn pages_of_other_sites_use_the_api_where_the_setting_has_them() {
    const SHOP: &str = "https://shop.example";
    let closed = World::sqlite().await;
    let mut config = config(&sqlite_url());
    config.http_origins = SHOP.parse().unwrap();
    let open = World::start(config).await;
    let body = framed(&of_gid("g"));
    for (world, origin, is_open) in
        [(&closed, SHOP, false), (&open, SHOP, true), (&open, "https://evil.example", false)]
    {
        let page = [("origin", origin), ("sec-fetch-site", "cross-site")];
        let asked = [page[0], page[1], ("access-control-request-method", "POST")];
        let (head, _) = send(world, "OPTIONS", "GetTransaction", &asked, b"").await;
        let allows = format!("access-control-allow-origin: {origin}");
        assert_eq!(head.starts_with("http/1.1 204"), is_open, "{origin}: {head}");
        assert_eq!(head.contains(&allows), is_open, "{origin}: {head}");
        assert_eq!(head.contains("access-control-allow-headers: authorization"), is_open, "{head}");
        let headers = [page[0], page[1], MEDIA_TYPE];
        let (head, _) = send(world, "POST", "GetTransaction", &headers, &body).await;
        let code = if is_open { "200" } else { "403" };
        assert!(head.starts_with(&format!("http/1.1 {code}")), "{origin}: {head}");
        assert_eq!(head.contains(&allows), is_open, "{origin}: {head}");
        assert!(!head.contains("allow-credentials"), "{head}");
        let expected =
            if is_open { "vary: origin" } else { "content-type: application/problem+json" };
        assert!(head.contains(expected), "{head}");
        let admin = world.running.admin_address().unwrap();
        let reply = http_call(admin, "GET", "/v1/server", &page, b"").await;
        assert_eq!(reply.code == 200, is_open, "{origin}: {reply:?}");
        // A browser sends what is no JSON without asking, and shows the certificate of whoever looks at the page.
        let act = "/v1/transactions/nobodys:rollback";
        let reply = http_call(admin, "POST", act, &page, b"").await;
        assert_eq!(reply.code, if is_open { 415 } else { 403 }, "{origin}: {reply:?}");
        let json = [page[0], page[1], ("content-type", "application/json")];
        let reply = http_call(admin, "POST", act, &json, b"").await;
        assert_eq!(reply.code == 200, is_open, "{origin}: {reply:?}");
        // What acts by a form is for this address's own pages alone.
        let form = [page[0], page[1], ("content-type", "application/x-www-form-urlencoded")];
        let reply = http_call(admin, "POST", "/attention", &form, b"a=b").await;
        assert_ne!(reply.code, 200, "{origin}: {reply:?}");
    }
}

/// Serves an empty page at each path, as another site does.
async fn other_site() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 15\r\nconnection: close\r\n\r\n\
                            <!doctype html>";
                let _ = stream.write_all(page.as_bytes()).await;
            });
        }
    });
    format!("http://localhost:{}", address.port())
}

/// Program in a page that calls by `fetch`, and returns the bytes of the answer, or that it may not.
const FETCH: &str = "(async (url, headers, bytes) => { try { \
     const got = await fetch(url, {method: 'POST', headers, body: new Uint8Array(bytes)}); \
     return [got.status, Array.from(new Uint8Array(await got.arrayBuffer()))]; \
     } catch (error) { return [0, String(error)]; } })";

/// A real browser: a page of a site that is listed calls and reads, also a stream; one of another site begins nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_a_listed_site_calls_from_a_browser() {
    let (shop, evil) = (other_site().await, other_site().await);
    let mut config = config(&sqlite_url());
    config.http_origins = shop.parse().unwrap();
    let world = World::start(config).await;
    let address = world.running.admin_address().unwrap();
    let fetch = async |page: &Page, rpc: &str, body: Vec<u8>| {
        let url = format!("http://{address}/unanimo.v1.CoordinatorService/{rpc}");
        let headers = json!({
            "content-type": "application/grpc-web+proto", "x-grpc-web": "1", "x-user-agent": "by-hand",
            "grpc-timeout": "20S", "authorization": "Bearer none",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        });
        let call = format!("{FETCH}({}, {headers}, {})", json!(url), json!(body));
        let value = page.value(&call).await;
        let bytes = value[1].as_array().map(|bytes| {
            bytes
                .iter()
                .map(|byte| u8::try_from(byte.as_u64().unwrap()).unwrap())
                .collect::<Vec<u8>>()
        });
        (value[0].as_u64().unwrap(), bytes, value.to_string())
    };
    let mut page = Browser::shared().page(&shop).await;
    page.open("/").await;
    let (code, bytes, shown) = fetch(&page, "SubmitTransaction", framed(&tcc("g", &["ok"]))).await;
    assert_eq!(code, 200, "{shown}");
    let (messages, trailers) = parted(&bytes.unwrap());
    assert_eq!(trailers, "grpc-status:0\r\n");
    let submitted = SubmitTransactionResponse::decode(messages[0].as_slice()).unwrap();
    let trace = world.p.seen()[0].traceparent.clone();
    assert!(trace.contains("0af7651916cd43dd8448eb211c80319c"), "{trace}");
    world.get_until("g", "its end", |tx| tx.ended_at.is_some()).await;
    let key = Some(watch_transaction_request::Key::TxId(submitted.result.unwrap().tx_id));
    let watch = WatchTransactionRequest { key, ..Default::default() };
    let (_, bytes, _) = fetch(&page, "WatchTransaction", framed(&watch)).await;
    assert_eq!(parted(&bytes.unwrap()).1, "grpc-status:0\r\n");
    let (_, bytes, _) = fetch(&page, "GetTransaction", framed(&of_gid("never"))).await;
    let (_, trailers) = parted(&bytes.unwrap());
    assert!(
        trailers.starts_with("grpc-status:5\r\n") && trailers.contains("grpc-status-details-bin:")
    );

    let mut page = Browser::shared().page(&evil).await;
    page.open("/").await;
    let (code, bytes, shown) = fetch(&page, "SubmitTransaction", framed(&tcc("h", &["ok"]))).await;
    assert_eq!((code, bytes), (0, None), "{shown}");
    let status = world.client().get_transaction(of_gid("h")).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound, "it began something");
}
