//! A stream that is open goes on only as long as its caller may read.

use std::time::Duration;

use tonic::{Code, Status, Streaming};
use unanimo_coordinator::config::Period;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::watch_transaction_request::Key;
use unanimo_proto::v1::{
    BeginTransactionRequest, GetServerInfoRequest, Mode, RollbackTransactionRequest,
    WatchTransactionRequest, WatchTransactionsRequest, WatchTransactionsResponse,
    rollback_transaction_request,
};
use unanimo_tests::wait::until;

use super::roles::{File, begin};
use super::{Authority, Valid, channel, guarded, setting};
use crate::coordinator::{World, config, sqlite_url, tcc};

type Events = Streaming<WatchTransactionsResponse>;

async fn follow(file: &File, world: &World, column: usize) -> Events {
    let mut client = CoordinatorServiceClient::new(file.link(world, column));
    client.watch_transactions(WatchTransactionsRequest::default()).await.unwrap().into_inner()
}

async fn submit(file: &File, world: &World, column: usize, gid: &str) {
    let mut client = CoordinatorServiceClient::new(file.link(world, column));
    client.submit_transaction(tcc(gid, &["ok"])).await.unwrap();
}

/// Returns the gid of the next event, or the status with which the stream ends.
async fn next(events: &mut Events) -> Result<String, Status> {
    loop {
        let news = tokio::time::timeout(Duration::from_secs(50), events.message()).await;
        let news = news.expect("it is silent")?.expect("a stream of events has no end");
        if let Some(event) = news.event {
            return Ok(event.gid);
        }
    }
}

/// Waits until a call of this identity ends with the code.
async fn until_answered(file: &File, world: &World, column: usize, code: Code) {
    until("the file to be read again", async || {
        let mut client = CoordinatorServiceClient::new(file.link(world, column));
        let answer = client.get_server_info(GetServerInfoRequest::default()).await;
        (answer.map_or_else(|status| status.code(), |_| Code::Ok) == code).then_some(())
    })
    .await;
}

/// The first event after a token was revoked is told to nobody who had it.
#[tokio::test]
async fn a_stream_of_events_ends_once_its_token_is_revoked() {
    let file = File::new();
    let world = file.world().await;
    let (mut web, mut viewer) = (follow(&file, &world, 0).await, follow(&file, &world, 5).await);
    submit(&file, &world, 0, "before").await;
    assert_eq!(next(&mut web).await.unwrap(), "before");
    assert_eq!(next(&mut viewer).await.unwrap(), "before");
    file.write(&[1]);
    until_answered(&file, &world, 0, Code::Unauthenticated).await;
    submit(&file, &world, 1, "after").await;
    for events in [&mut web, &mut viewer] {
        let status = next(events).await.expect_err("its token was revoked");
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    }
}

/// A role that was taken away ends a stream, and one that sees less makes it tell less.
#[tokio::test]
async fn a_stream_of_events_tells_what_the_role_of_its_caller_allows_by_then() {
    let file = File::new();
    let world = file.world().await;
    let (mut web, mut viewer) = (follow(&file, &world, 0).await, follow(&file, &world, 5).await);
    submit(&file, &world, 0, "before").await;
    assert_eq!(next(&mut web).await.unwrap(), "before");
    assert_eq!(next(&mut viewer).await.unwrap(), "before");
    // The first one is a participant alone, and the viewer an initiator.
    let role = |column, role| (column, role);
    file.write_as(&[role(0, "participant"), role(1, "initiator"), role(5, "initiator")]);
    until("the roles to be other ones", async || {
        let mut client = CoordinatorServiceClient::new(file.link(&world, 0));
        let asked = client.watch_transactions(WatchTransactionsRequest::default()).await;
        asked.is_err_and(|status| status.code() == Code::PermissionDenied).then_some(())
    })
    .await;
    submit(&file, &world, 1, "of-another").await;
    submit(&file, &world, 5, "its-own").await;
    let status = next(&mut web).await.expect_err("its role was taken away");
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert_eq!(next(&mut viewer).await.unwrap(), "its-own");
}

/// A stream of the states of one transaction ends once its caller may not read them any more: its token was revoked, its role
/// was taken away, or it is of another namespace.
#[tokio::test]
async fn a_stream_of_states_ends_once_its_caller_may_not_read_on() {
    const OPERATOR: usize = 4;
    let moved = |file: &File| {
        let text = std::fs::read_to_string(file.path()).unwrap();
        let of_tenant = "name = \"web\"\nnamespace = \"tenant-a\"";
        std::fs::write(file.path(), text.replace("name = \"web\"", of_tenant)).unwrap();
    };
    type Change = fn(&File);
    let changes: [(Change, Code, Code); 3] = [
        (|file| file.write(&[OPERATOR]), Code::Unauthenticated, Code::Unauthenticated),
        (
            |file| file.write_as(&[(0, "participant"), (OPERATOR, "operator")]),
            Code::PermissionDenied,
            Code::Ok,
        ),
        (moved, Code::PermissionDenied, Code::Ok),
    ];
    for (change, code, server_info) in changes {
        let file = File::new();
        let world = file.world().await;
        let begun = begin(file.link(&world, 0)).await;
        let key = Some(Key::TxId(begun.tx_id.clone()));
        let request = WatchTransactionRequest { key, ..Default::default() };
        let mut client = CoordinatorServiceClient::new(file.link(&world, 0));
        let mut states = client.watch_transaction(request).await.unwrap().into_inner();
        states.message().await.unwrap().expect("its first state");
        change(&file);
        until("the file to be read again", async || {
            let mut client = CoordinatorServiceClient::new(file.link(&world, 0));
            let answer = client.get_server_info(GetServerInfoRequest::default()).await;
            let found = answer.map_or_else(|status| status.code(), |_| Code::Ok);
            let key = Some(Key::TxId(begun.tx_id.clone()));
            let request = WatchTransactionRequest { key, ..Default::default() };
            let watched = client.watch_transaction(request).await;
            (found == server_info && watched.is_err()).then_some(())
        })
        .await;
        let key = Some(rollback_transaction_request::Key::TxId(begun.tx_id.clone()));
        let request = RollbackTransactionRequest { key, ..Default::default() };
        let mut operator = CoordinatorServiceClient::new(file.link(&world, OPERATOR));
        operator.rollback_transaction(request).await.unwrap();
        let status = loop {
            let next = tokio::time::timeout(Duration::from_secs(50), states.message()).await;
            match next.expect("it is silent") {
                Ok(Some(told)) => {
                    let state = told.transaction.unwrap();
                    assert!(state.ended_at.is_none(), "{code:?}: its end is told: {state:?}");
                }
                Ok(None) => panic!("{code:?}: the stream has ended as if all were told"),
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), code, "{status}");
    }
}

/// A stream on which nothing is told is looked at, too.
#[tokio::test]
async fn a_silent_stream_of_states_ends_within_a_minute() {
    let file = File::new();
    let mut config = config(&sqlite_url());
    config.identities = file.setting();
    // It is not aborted meanwhile.
    config.timeout_default = Period::secs(600);
    config.drain_timeout = Period::millis(200);
    let world = World::start(config).await;
    let begun = begin(file.link(&world, 0)).await;
    let key = Some(Key::TxId(begun.tx_id));
    let request = WatchTransactionRequest { key, ..Default::default() };
    let mut client = CoordinatorServiceClient::new(file.link(&world, 0));
    let mut states = client.watch_transaction(request).await.unwrap().into_inner();
    file.write(&[1]);
    let ended = async {
        loop {
            if let Err(status) = states.message().await {
                return status;
            }
        }
    };
    let status = tokio::time::timeout(Duration::from_secs(60 + 20), ended).await;
    assert_eq!(status.expect("it goes on").code(), Code::Unauthenticated);
}

/// There are no lists of revoked certificates: whose name is taken out of the file is served no more, on the connection that
/// is open, too, and its streams end before they tell anything more.
#[tokio::test]
async fn a_certificate_whose_name_is_taken_out_of_the_file_ends_its_streams() {
    let entry = |name: &str| {
        format!(
            "[[identity]]\nname = \"{name}\"\nroles = [\"initiator\"]\n\
             subjects = [\"spiffe://shop.example/{name}\"]\n"
        )
    };
    let authority = Authority::new();
    let file = authority.ca().with_file_name("identities.toml");
    std::fs::write(&file, entry("web") + &entry("batch")).unwrap();
    let mut config = guarded(&authority);
    config.identities = setting(&file);
    // What is begun here is left open: it is not aborted meanwhile, and no stop has to wait for it.
    config.timeout_default = Period::secs(600);
    config.drain_timeout = Period::millis(200);
    let world = World::start(config).await;
    let url = format!("https://{}", world.running.grpc_address().unwrap());
    let (cert, key) = authority.sign(&["spiffe://shop.example/batch"], Valid::Now);
    let other = channel(&url, authority.trusting().identity(cert, key));
    let mut other = CoordinatorServiceClient::new(other);
    // One connection for the calls and the streams.
    let mut web = CoordinatorServiceClient::new(channel(&url, authority.client()));
    let mut events =
        web.watch_transactions(WatchTransactionsRequest::default()).await.unwrap().into_inner();
    web.submit_transaction(tcc("before", &["ok"])).await.unwrap();
    assert_eq!(next(&mut events).await.unwrap(), "before");
    let begun = BeginTransactionRequest {
        gid: "open".into(),
        mode: Mode::Tcc.into(),
        ..Default::default()
    };
    let begun = web.begin_transaction(begun).await.unwrap().into_inner();
    let key = Some(Key::TxId(begun.tx_id.clone()));
    let request = WatchTransactionRequest { key, ..Default::default() };
    let mut states = web.watch_transaction(request).await.unwrap().into_inner();
    states.message().await.unwrap().expect("its first state");

    std::fs::write(&file, entry("batch")).unwrap();
    until("a call on the same connection to be refused", async || {
        let answer = web.get_server_info(GetServerInfoRequest::default()).await;
        answer.is_err_and(|status| status.code() == Code::Unauthenticated).then_some(())
    })
    .await;
    let refused =
        web.submit_transaction(tcc("refused", &["ok"])).await.expect_err("its name is out");
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    other.submit_transaction(tcc("after", &["ok"])).await.expect("others go on");
    let status = next(&mut events).await.expect_err("its name is out");
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    // On this one nothing is told: it is looked at once a minute.
    let ended = async {
        loop {
            match states.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream has ended as if all were told"),
                Err(status) => return status,
            }
        }
    };
    let status = tokio::time::timeout(Duration::from_secs(60 + 20), ended).await;
    assert_eq!(status.expect("it goes on").code(), Code::Unauthenticated);
}
