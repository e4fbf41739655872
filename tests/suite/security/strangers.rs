//! Calls that need no identity: health and reflection. Whoever reaches the port can make them.

use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use unanimo_tests::wait::{PATIENCE, until};

use crate::coordinator::process::Process;
use crate::coordinator::uploads::begin_on;
use crate::coordinator::{World, sqlite_url, tcc};

const MIB: u64 = 1 << 20;

/// Memory that one of these attacks may cost.
const COST_MAX: u64 = 96 * MIB;

const CHECK: &str = "/grpc.health.v1.Health/Check";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// Calls with a message of which the last byte does not come.
const CALLS: usize = 100;

/// A message of this size, without its last byte.
fn nearly(bytes: usize) -> Bytes {
    let mut frame = BytesMut::with_capacity(bytes + 4);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(bytes).unwrap());
    frame.resize(bytes + 4, 0);
    frame.freeze()
}

/// Messages of nearly four mebibytes, which every server of tonic takes by default, are not received.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_large_messages_to_health_and_reflection_cost_little() {
    let mut process = Process::start(&sqlite_url(), &[]).await;
    process.client().submit_transaction(tcc("before", &["ok"])).await.unwrap();
    let before = process.resident();
    let message = nearly((4 << 20) - 1);
    for path in [CHECK, REFLECTION] {
        let begin = |_| begin_on(process.another_channel(), path, message.clone(), None);
        let calls: Vec<_> = (0..CALLS).map(begin).collect();
        for call in calls {
            let ended = tokio::time::timeout(PATIENCE, call).await;
            ended.unwrap_or_else(|_| panic!("L5: {path} waits for the rest")).unwrap();
        }
    }
    process.client().submit_transaction(tcc("after", &["ok"])).await.expect("others are served");
    let cost = process.resident_max().saturating_sub(before);
    assert!(cost < COST_MAX, "L5: they cost {} MiB", cost / MIB);
}

/// A small message that does not come on is not waited for for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_messages_to_health_and_reflection_that_stall_are_ended() {
    let world = World::sqlite().await;
    let began = Instant::now();
    let calls = [CHECK, REFLECTION]
        .map(|path| (path, begin_on(world.channel.clone(), path, nearly(1_000), None)));
    for (path, call) in calls {
        let ended = tokio::time::timeout(PATIENCE, call).await;
        ended.unwrap_or_else(|_| panic!("L5: {path} waits for ever")).unwrap();
    }
    assert!(began.elapsed() > Duration::from_secs(5), "there was time to go on");
}

/// One address has a share of the streams of health, and others are told of it all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_streams_of_health_are_bounded_and_one_address_leaves_some_to_others() {
    let world = World::sqlite().await;
    let address = world.running.grpc_address().unwrap();
    let mut health = HealthClient::new(world.channel.clone());
    let (mut open, mut refused) = (Vec::new(), 0);
    for _ in 0..900 {
        match health.watch(HealthCheckRequest::default()).await {
            Ok(stream) => open.push(stream),
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                refused += 1;
            }
        }
    }
    assert_eq!((open.len(), refused), (768, 132), "L5: three quarters of 1,024");
    health.check(HealthCheckRequest::default()).await.expect("calls have places of their own");
    world.submit(tcc("during", &["ok"])).await.expect("so have those of the contract");
    let other = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let other = other.local_address(Some([127, 0, 0, 2].into())).connect_lazy();
    let mut of_another = HealthClient::new(other);
    of_another.watch(HealthCheckRequest::default()).await.expect("L5: others have places");
    drop(open);
    until("a place", async || health.watch(HealthCheckRequest::default()).await.ok()).await;
}
