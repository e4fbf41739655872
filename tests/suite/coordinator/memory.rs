//! Memory of a coordinator stays near what it counts (promise L5). The process itself is measured.

use std::marker::PhantomData;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use prost::Message;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::Service;
use tonic::{Code, Request, Status};
use unanimo_coordinator::api::limits::FEATURES_MAX;
use unanimo_coordinator::participants::directory::{INSTANCES_TOTAL_MAX, REGISTRATIONS_BYTES_MAX};
use unanimo_proto::v1::participant_directory_service_client::ParticipantDirectoryServiceClient;
use unanimo_proto::v1::{
    CommitBranch, CommitTransactionRequest, DeregisterEndpointRequest, ListParticipantsRequest,
    Outcome, RegisterEndpointRequest, SubmitTransactionRequest, SubmitTransactionResponse, WaitFor,
};
use unanimo_tests::postgres::Server;

use super::process::Process;
use super::{branch, describe, sqlite_url, tcc, until};
use crate::store::execute;

const MIB: u64 = 1 << 20;

/// Bound of so many MiB on the bytes in memory.
fn bound(mib: u64) -> [String; 2] {
    ["--live-bytes-max".to_owned(), (mib * MIB).to_string()]
}

/// Outputs are counted: what was admitted without any cannot bring more than there may be. Those for which
/// there is no room are asked for again, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_outputs_are_within_the_bound() {
    let mut process = Process::start(&sqlite_url(), &bound(8)).await;
    let before = process.resident();
    // Commits are held back, so that everything stays in memory.
    process.p.hold(true);
    let mut submits = tokio::task::JoinSet::new();
    for n in 0..200 {
        let mut client = process.client();
        let mut request = tcc(&format!("g{n}"), &["output-1000000"]);
        request.include_outputs = false;
        request.timeout = super::millis(60_000);
        submits.spawn(async move { client.submit_transaction(request).await.unwrap() });
    }
    // As long as the whole of them would take to come by far.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let grown = process.resident().saturating_sub(before) / MIB;
    assert!(grown < 100, "L5: {grown} MiB for a bound of 8");
    // Room is made, and all of them commit.
    process.p.hold(false);
    while let Some(submitted) = submits.join_next().await {
        let result = submitted.unwrap().into_inner().result.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed, "{result:?}");
    }
}

/// Small parts do not keep the large message in memory that they came in, and metadata is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_payloads_and_metadata_are_within_the_bound() {
    // However long it takes to fill it, the participant that answers nothing is not taken for a failing one.
    let more = ["--call-timeout".to_owned(), "10m".to_owned()];
    let mut process = Process::start(&sqlite_url(), &[&bound(8)[..], &more].concat()).await;
    let before = process.resident();
    process.p.hold(true);
    let mut refused = 0;
    for n in 0..1000 {
        let mut request = tcc(&format!("g{n}"), &["ok"]);
        request.metadata = (0..15).map(|n| (format!("k{n}"), "v".repeat(1000))).collect();
        request.wait_for = WaitFor::Accepted.into();
        match process.client().submit_transaction(request).await {
            Ok(_) => {}
            Err(status) => {
                assert_eq!(describe(&status).1, "OVERLOADED");
                refused += 1;
            }
        }
    }
    assert!((300..700).contains(&refused), "{refused} of 1000 were refused: 8 MiB hold some 500");
    let grown = process.resident().saturating_sub(before) / MIB;
    assert!(grown < 60, "L5: {grown} MiB for a bound of 8");
}

/// A small payload does not keep the buffer that it came in, with whatever else was in the message: here a field that this
/// version does not know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_a_small_payload_keeps_no_large_message() {
    let mut process = Process::start(&sqlite_url(), &bound(64)).await;
    process.client().submit_transaction(tcc("first", &["ok"])).await.unwrap();
    process.p.hold(true);
    let mut before = 0;
    for n in 0..90 {
        let mut request = tcc(&format!("g{n}"), &["gated"]);
        request.timeout = super::millis(600_000);
        request.wait_for = WaitFor::Accepted.into();
        let unknown = 6 << 20;
        let mut message = BytesMut::with_capacity(unknown + 4096);
        request.encode(&mut message).unwrap();
        prost::encoding::encode_key(
            15_000,
            prost::encoding::WireType::LengthDelimited,
            &mut message,
        );
        prost::encoding::encode_varint(unknown as u64, &mut message);
        message.put_bytes(0, unknown);
        let mut frame = BytesMut::with_capacity(message.len() + 5);
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.len()).unwrap());
        frame.put(message);
        let submit = "/unanimo.v1.CoordinatorService/SubmitTransaction";
        let request = http::Request::post(submit)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(tonic::body::Body::new(http_body_util::Full::new(frame.freeze())))
            .unwrap();
        let mut channel = process.channel.clone();
        std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
        let answer = channel.call(request).await.unwrap().into_body().collect().await.unwrap();
        let status = answer.trailers().unwrap().get("grpc-status").cloned().unwrap();
        assert_eq!(status, "0", "it is accepted");
        // What the allocator keeps for such messages is there after the first ones.
        if n == 29 {
            before = process.resident();
        }
    }
    let grown = process.resident().saturating_sub(before) / MIB;
    assert!(grown < 60, "L5: {grown} MiB for 60 payloads of some bytes, in messages of 6 MiB");
}

/// Callers that went away while the coordinator is without its database are not remembered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_callers_that_went_away_take_no_memory() {
    let server = Server::start();
    let mut process = Process::start(&server.database().await, &bound(64)).await;
    let submitted = process.client().submit_transaction(tcc("g", &["ok"])).await.unwrap();
    assert_eq!(submitted.into_inner().result.unwrap().outcome(), Outcome::Committed);
    server.kill();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let wave = async |process: &Process, calls: usize| {
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..200 {
            let mut client = process.client();
            callers.spawn(async move {
                for _ in 0..calls / 200 {
                    let listed = |n: usize| CommitBranch {
                        branch_id: format!("{}{n}", "b".repeat(120)),
                        ..Default::default()
                    };
                    let mut request = Request::new(CommitTransactionRequest {
                        tx_id: uuid::Uuid::now_v7().to_string(),
                        branches: (0..64).map(listed).collect(),
                        ..Default::default()
                    });
                    request.set_timeout(Duration::from_millis(300));
                    let _ = client.commit_transaction(request).await;
                }
            });
        }
        callers.join_all().await;
    };
    // Memory for as many at once is there after the first.
    wave(&process, 1_000).await;
    let before = process.resident();
    wave(&process, 12_000).await;
    let grown = process.resident().saturating_sub(before) / MIB;
    assert!(grown < 40, "L5: {grown} MiB for nobody, of some 150 that were sent");
    server.launch();
    until("it to go on", async || {
        let again = process.client().submit_transaction(tcc("g", &["ok"])).await.ok()?;
        (again.into_inner().result?.outcome() == Outcome::Committed).then_some(())
    })
    .await;
}

/// A message of few bytes for each element is refused before its elements are made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_many_elements_are_counted_before_they_are_read() {
    let mut process = Process::start(&sqlite_url(), &bound(8)).await;
    let submitted = process.client().submit_transaction(tcc("g", &["ok"])).await.unwrap();
    assert_eq!(submitted.into_inner().result.unwrap().outcome(), Outcome::Committed);
    let before = process.resident();
    let valid = SubmitTransactionRequest { branches: vec![branch("a", "ok")], ..tcc("h", &[]) };
    // An empty branch, entry of the metadata, and required feature.
    for element in [[0x1a_u8, 0], [0x32, 0], [0x3a, 0]] {
        let mut bytes = valid.encode_to_vec();
        bytes.extend(element.repeat(3_800_000));
        let started = std::time::Instant::now();
        let answer = process.send_raw(bytes.into()).await;
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        let status = answer.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert_eq!(describe(&status).1, "FIELD_INVALID");
        let grown = process.resident().saturating_sub(before) / MIB;
        assert!(grown < 60, "L5: {grown} MiB for one request");
    }
}

/// As many instances as may be registered, with names as long as may be, are within their bound; one more is refused, and
/// what they state of themselves is counted as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_registrations_are_within_the_bound() {
    let url = sqlite_url();
    let more = ["--endpoint-allow", "*"].map(str::to_owned);
    let mut process = Process::start(&url, &more).await;
    process.client().submit_transaction(tcc("g", &["ok"])).await.unwrap();
    let before = process.resident();
    drop(process);
    execute(&url, &stored_registrations()).await;
    let mut process = Process::start(&url, &more).await;
    let mut directory = ParticipantDirectoryServiceClient::new(process.channel.clone())
        .max_decoding_message_size(usize::MAX);
    let status = directory.register_endpoint(registration(0, "new")).await.unwrap_err();
    assert_eq!(
        (status.code(), describe(&status).1),
        (Code::ResourceExhausted, "OVERLOADED".into())
    );
    // All of them are looked at, a page after the other.
    let mut page_token = String::new();
    loop {
        let request = ListParticipantsRequest { page_size: 500, page_token, ..Default::default() };
        let page = directory.list_participants(request).await.unwrap().into_inner();
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    // Some of those that are known state all that they may.
    let mut registering = tokio::task::JoinSet::new();
    for first in 0..16 {
        let mut directory = directory.clone();
        registering.spawn(async move {
            for n in (first..STATING).step_by(16) {
                directory.register_endpoint(registration(n, &instance(n))).await.unwrap();
            }
        });
    }
    registering.join_all().await;
    let grown = process.resident().saturating_sub(before) / MIB;
    let max = REGISTRATIONS_BYTES_MAX as u64 / MIB;
    // The start reads all of them at once, and the allocator keeps a part of what that took.
    assert!(grown < max + 64, "L5: {grown} MiB for a bound of {max}");
    // One that leaves makes place for one.
    let RegisterEndpointRequest { participant, endpoint, instance_id, .. } =
        registration(0, &instance(0));
    let leaves =
        DeregisterEndpointRequest { participant, endpoint, instance_id, ..Default::default() };
    directory.deregister_endpoint(leaves).await.unwrap();
    directory.register_endpoint(registration(0, "new")).await.unwrap();
    let status = directory.register_endpoint(registration(0, "newer")).await.unwrap_err();
    assert_eq!(describe(&status).1, "OVERLOADED");
}

/// Instances that state all that they may.
const STATING: usize = 2_000;

/// Endpoints of each name.
const ENDPOINTS: usize = 66;

/// Statement that stores as many registrations as there may be, as if they were made a moment ago.
fn stored_registrations() -> String {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let last = INSTANCES_TOTAL_MAX - 1;
    let endpoint = endpoint(0);
    let (_, rest) = endpoint.split_at("https://h".len() + DIGITS);
    format!(
        "INSERT INTO participants (name)
             WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {last} / {ENDPOINTS})
             SELECT printf('p%063d', n) FROM numbers;
         INSERT INTO endpoints (name, endpoint, instance_id, last_seen_ms, database_id)
             WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {last})
             SELECT printf('p%063d', n / {ENDPOINTS}), printf('https://h%0{DIGITS}d{rest}', n), printf('i%063d', n), {now},
                    printf('d%063d', n / {ENDPOINTS})
             FROM numbers"
    )
}

const DIGITS: usize = 58;

fn endpoint(n: usize) -> String {
    let label = "a".repeat(60);
    format!("https://h{n:0DIGITS$}.{label}.{label}.{label}:1")
}

fn instance(n: usize) -> String {
    format!("i{n:063}")
}

/// Registration of an instance at the endpoint of this number, with all that it may state.
fn registration(n: usize, instance: &str) -> RegisterEndpointRequest {
    RegisterEndpointRequest {
        participant: format!("p{:063}", n / ENDPOINTS),
        endpoint: endpoint(n),
        instance_id: instance.into(),
        features: (0..FEATURES_MAX).map(|feature| format!("f{feature:063}")).collect(),
        sdk: "s".repeat(64),
        database_id: format!("d{:063}", n / ENDPOINTS),
        ..Default::default()
    }
}

impl Process {
    /// Submits these bytes.
    async fn send_raw(&self, bytes: Bytes) -> Result<SubmitTransactionResponse, Status> {
        let mut grpc =
            tonic::client::Grpc::new(self.channel.clone()).max_encoding_message_size(usize::MAX);
        grpc.ready().await.unwrap();
        let path = "/unanimo.v1.CoordinatorService/SubmitTransaction".parse().unwrap();
        let answer = grpc.unary(Request::new(bytes), path, Raw(PhantomData)).await?;
        Ok(answer.into_inner())
    }
}

/// Sends bytes as they are.
struct Raw<T>(PhantomData<T>);

impl<T: Message + Default + Send + 'static> Codec for Raw<T> {
    type Encode = Bytes;
    type Decode = T;
    type Encoder = Raw<Bytes>;
    type Decoder = Raw<T>;

    fn encoder(&mut self) -> Raw<Bytes> {
        Raw(PhantomData)
    }

    fn decoder(&mut self) -> Raw<T> {
        Raw(PhantomData)
    }
}

impl Encoder for Raw<Bytes> {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl<T: Message + Default> Decoder for Raw<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        T::decode(bytes).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
