//! Clients with channels of the caller's own, and with several nodes of a coordinator group.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use unanimo_sdk::client::Error;
use unanimo_sdk::{Client, Coordinator, Outcome, Participant, Serve, Serving, Sqlite};
use unanimo_testing::Coordinator as InProcess;
use unanimo_tests::relay::Relay;

use super::databases::Database;
use super::sweeper::Reserve;

async fn participant(coordinators: &[&InProcess]) -> Serving {
    let (database, _pool) = <Sqlite as Database>::open().await;
    let serve = Serve::on("127.0.0.1:0").without_sweep();
    let serve = coordinators
        .iter()
        .fold(serve, |serve, coordinator| serve.register_with(coordinator.endpoint()));
    let participant = Participant::new("p", database).tcc("ok", Reserve);
    let mut serving = participant.serve(serve).await.unwrap();
    serving.registered().await.unwrap();
    serving
}

async fn submit(client: &Client, gid: &str) -> Result<Outcome, Error> {
    let draft = client.tcc(gid).branch("a", "p", "ok", bytes::Bytes::from("x"));
    draft.wait_until_ended().submit().await
}

async fn relay_to(coordinator: &InProcess) -> Relay {
    let relay = Relay::start().await;
    relay.point_to(Some(address(coordinator)));
    relay
}

/// The first address refuses, then the one that is used refuses, then it falls silent: the client is answered
/// by the other one each time, and soon.
#[tokio::test]
async fn a_client_of_several_addresses_goes_on_where_one_answers() {
    let coordinator = InProcess::start().await.unwrap();
    let serving = participant(&[&coordinator]).await;
    let (one, other) = (relay_to(&coordinator).await, relay_to(&coordinator).await);
    one.point_to(None);
    let client = Client::of([one.url(), other.url()]).unwrap();
    let within = async |bound: Duration, gid: &str| {
        let started = Instant::now();
        let outcome = submit(&client, gid).await.unwrap();
        assert!(outcome.is_committed(), "{outcome:?}");
        assert!(started.elapsed() < bound, "{gid} took {:?}", started.elapsed());
    };
    within(Duration::from_secs(5), "first-refuses").await;
    one.point_to(Some(address(&coordinator)));
    other.point_to(None);
    other.fall_silent();
    // The keep-alive of the connection notices it.
    within(Duration::from_secs(25), "second-is-silent").await;
    within(Duration::from_secs(5), "first-again").await;
    serving.stop().await.unwrap();
    coordinator.stop().await.unwrap();
}

fn address(coordinator: &InProcess) -> std::net::SocketAddr {
    coordinator.endpoint().trim_start_matches("http://").parse().unwrap()
}

async fn group(coordinator: &InProcess) -> String {
    coordinator.client().unwrap().server_info().await.unwrap().cluster_id
}

/// S9, S10: a node of another group is never asked to do what the first one may have done already. It was down
/// when the client learned its group.
#[tokio::test]
async fn s9_a_client_sends_nothing_to_a_node_of_another_group() {
    let [one, other] = [InProcess::start().await.unwrap(), InProcess::start().await.unwrap()];
    let serving = participant(&[&one, &other]).await;
    let late = Relay::start().await;
    let client = Client::of([one.endpoint(), late.url()]).unwrap();
    let client = client.wait_at_most(Duration::from_secs(3));
    assert!(submit(&client, "here").await.unwrap().is_committed());
    late.point_to(Some(address(&other)));
    one.stop().await.unwrap();
    let outcome = submit(&client, "nowhere").await;
    assert!(
        matches!(outcome, Ok(Outcome::NotDecided(_)) | Err(Error::Unavailable { .. })),
        "{outcome:?}"
    );
    let there = other.client().unwrap();
    for gid in ["here", "nowhere"] {
        let found = there.find_by_gid_is_unknown(gid).await;
        assert!(found, "{gid} was begun once more");
    }
    serving.stop().await.unwrap();
    other.stop().await.unwrap();
}

/// S9: nobody can tell which of two groups is meant, so that none is chosen by chance; and whoever says it is
/// believed, in whichever order the nodes are named or answer.
#[tokio::test]
async fn s9_a_client_of_two_groups_refuses_and_names_both_unless_it_is_told_one() {
    let [one, other] = [InProcess::start().await.unwrap(), InProcess::start().await.unwrap()];
    let serving = participant(&[&one, &other]).await;
    let groups = [group(&one).await, group(&other).await];
    let [to_one, to_other] = [relay_to(&one).await, relay_to(&other).await];
    for nodes in [[to_one.url(), to_other.url()], [to_other.url(), to_one.url()]] {
        let client = Client::of(nodes).unwrap();
        for _ in 0..2 {
            let error = submit(&client, "neither").await.unwrap_err();
            let text = error.to_string();
            let Error::OtherGroup { expected: None, told } = error else { panic!("{text}") };
            assert_eq!(told.len(), 2);
            for part in [&to_one.url(), &to_other.url(), &groups[0], &groups[1]] {
                assert!(text.contains(part.as_str()), "no {part} in {text}");
            }
        }
        assert!(matches!(client.server_info().await, Err(Error::OtherGroup { .. })));
    }
    for coordinator in [&one, &other] {
        assert!(coordinator.client().unwrap().find_by_gid_is_unknown("neither").await);
    }

    let nodes = || Client::of([to_other.url(), to_one.url()]).unwrap();
    let client = nodes().group(&groups[0]);
    assert!(submit(&client, "told").await.unwrap().is_committed());
    assert!(!one.client().unwrap().find_by_gid_is_unknown("told").await);
    // The only one that is up is of the other group.
    to_one.point_to(None);
    let client = nodes().group(&groups[0]).wait_at_most(Duration::from_secs(2));
    let outcome = submit(&client, "nowhere").await;
    assert!(matches!(outcome, Ok(Outcome::NotDecided(_))), "{outcome:?}");
    // None is of the group: by one address, and by two.
    let alone = Client::new(to_other.url()).unwrap().group(&groups[0]);
    to_one.point_to(Some(address(&other)));
    for client in [alone, nodes().group(&groups[0])] {
        let started = Instant::now();
        let error = submit(&client, "nowhere").await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::OtherGroup { expected: Some(_), .. }), "{text}");
        assert!(groups.iter().all(|group| text.contains(group.as_str())), "{text}");
        assert!(started.elapsed() < Duration::from_secs(10), "it waits for nothing");
    }
    let there = other.client().unwrap();
    for gid in ["told", "nowhere"] {
        assert!(there.find_by_gid_is_unknown(gid).await, "{gid} was begun at the other group");
    }
    serving.stop().await.unwrap();
    one.stop().await.unwrap();
    other.stop().await.unwrap();
}

/// S9: an address that comes back as a node of another group, after it failed, is asked for its group again.
#[tokio::test]
async fn s9_a_node_that_failed_is_asked_for_its_group_again() {
    let [one, other] = [InProcess::start().await.unwrap(), InProcess::start().await.unwrap()];
    let serving = participant(&[&one, &other]).await;
    let (moves, dead) = (relay_to(&one).await, Relay::start().await);
    let client = Client::of([moves.url(), dead.url()]).unwrap();
    let client = client.wait_at_most(Duration::from_secs(2));
    assert!(submit(&client, "before").await.unwrap().is_committed());
    moves.point_to(None);
    one.stop().await.unwrap();
    let outcome = submit(&client, "between").await;
    assert!(matches!(outcome, Ok(Outcome::NotDecided(_))), "{outcome:?}");
    moves.point_to(Some(address(&other)));
    let outcome = submit(&client, "after").await;
    assert!(matches!(outcome, Ok(Outcome::NotDecided(_))), "{outcome:?}");
    let there = other.client().unwrap();
    for gid in ["before", "between", "after"] {
        assert!(there.find_by_gid_is_unknown(gid).await, "{gid} was begun once more");
    }
    serving.stop().await.unwrap();
    other.stop().await.unwrap();
}

/// Asks for a gid.
trait Unknown {
    async fn find_by_gid_is_unknown(&self, gid: &str) -> bool;
}

impl Unknown for Client {
    async fn find_by_gid_is_unknown(&self, gid: &str) -> bool {
        match self.find(gid).await {
            Err(Error::Rejected { reason, .. }) => reason == "GID_UNKNOWN",
            _ => false,
        }
    }
}

/// A channel of the caller's own, one that an address could not say, and what is run on every call of it.
#[tokio::test]
async fn a_channel_of_ones_own_and_its_interceptors_are_used() {
    let coordinator = InProcess::start().await.unwrap();
    let serving = participant(&[&coordinator]).await;
    let address = coordinator.endpoint().trim_start_matches("http://").to_owned();
    let connections = Arc::new(AtomicUsize::new(0));
    let connect = {
        let connections = Arc::clone(&connections);
        tower::service_fn(move |_: http::Uri| {
            connections.fetch_add(1, Ordering::SeqCst);
            let address = address.clone();
            async move {
                let stream = tokio::net::TcpStream::connect(address).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        })
    };
    let channel: Channel =
        Endpoint::from_static("http://nowhere.invalid").connect_with_connector_lazy(connect);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let client = Client::with_channel(channel.clone()).intercept(move |call| {
        counted.fetch_add(1, Ordering::SeqCst);
        Ok(call)
    });
    assert!(submit(&client, "through").await.unwrap().is_committed());
    assert_eq!((connections.load(Ordering::SeqCst), calls.load(Ordering::SeqCst)), (1, 1));

    // In their order; a status of one is the call's, and nothing was sent.
    let order = Coordinator::through(channel).named("own").intercept(|mut call| {
        call.metadata_mut().insert("first", "1".parse().unwrap());
        Ok(call)
    });
    let order = order.intercept(|call| {
        assert!(call.metadata().contains_key("first"));
        Err(Status::unauthenticated("no token today"))
    });
    let client = Client::of([order]).unwrap();
    let started = Instant::now();
    let error = client.server_info().await.unwrap_err().to_string();
    assert!(error.contains("no token today"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5), "it is not asked again");

    serving.stop().await.unwrap();
    coordinator.stop().await.unwrap();
}

#[tokio::test]
async fn a_clients_address_that_is_none_is_refused_at_once_with_a_sentence() {
    for (endpoint, part) in [
        ("coordinator:7610", "it does not begin with http://"),
        ("ftp://coordinator:7610", "its scheme is another one"),
    ] {
        let error = Client::new(endpoint).unwrap_err().to_string();
        assert!(error.contains("must be http://HOST:PORT") && error.contains(part), "{error}");
    }
    let none: [&str; 0] = [];
    assert!(Client::of(none).unwrap_err().to_string().contains("one at least"));
}
